"""A task's examples as training takes them: tokenised once, checked, padded batch by batch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_bert.evaluation import EncodedTask, check_sequence_length, encode
from prune_bert.tasks import TaskData
from prune_bert.training.settings import TrainingError, TrainSettings
from prune_bert.training.state import data_fingerprint


@dataclass(frozen=True, eq=False)
class TrainingExamples:
    """A task's examples as token ids, with their labels and the inputs that the model takes."""

    encoded: EncodedTask
    labels: np.ndarray  # (examples,)
    inputs: frozenset[str]

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the model's inputs for some examples, padded to their longest, and their ``labels``."""
        padded = self.encoded.batch(indices)
        inputs = {name: tensor for name, tensor in padded.items() if name in self.inputs}
        return inputs | {"labels": torch.from_numpy(self.labels[indices])}

    def fingerprint(self) -> str:
        """Return a digest of all token ids and labels."""
        ids = self.encoded.features["input_ids"]
        return data_fingerprint([self.labels, *(np.array(row, dtype=np.int64) for row in ids)])


def training_examples(
    model: nn.Module, data: TaskData, tokenizer: Any, settings: TrainSettings, *, labelled: bool = True
) -> TrainingExamples:
    """Tokenise a task's examples for training; see `task_examples`.

    Raises:
        TrainingError: There are none, fewer than one batch, or a label that the model has no output for.
        EvaluationError: ``max_seq_length`` is over the tokenizer's or the model's.
    """
    count, batch_size = len(data.dataset), settings.per_device_train_batch_size
    if count == 0:
        raise TrainingError(f"{data.source} has no {data.split} examples to train on; give a split that has some")
    if count < batch_size:
        raise TrainingError(
            f"per_device_train_batch_size is {batch_size}, but {data.source} has only {count} {data.split} "
            f"examples; lower it to {count} or less"
        )
    return task_examples(model, data, tokenizer, settings.max_seq_length, labelled=labelled)


def task_examples(
    model: nn.Module, data: TaskData, tokenizer: Any, max_seq_length: int, *, labelled: bool = True
) -> TrainingExamples:
    """Tokenise a task's examples; unlabelled ones may hold anything as label or nothing, and all get label 0.

    Raises:
        TrainingError: A label that the model has no output for.
        EvaluationError: ``max_seq_length`` is over the tokenizer's or the model's.
    """
    plain = _without_peft(model)
    labels = np.zeros(len(data.dataset), dtype=np.int64)
    if labelled:
        labels = np.asarray(data.dataset["label"][:], dtype=np.float32 if data.spec.regression else np.int64)
        _check_labels(labels, data, int(plain.config.num_labels))
    check_sequence_length(max_seq_length, tokenizer, plain)
    encoded = encode(tokenizer, data, max_seq_length)
    accepted = set(inspect.signature(plain.forward).parameters)  # DistilBERT's has no token types
    return TrainingExamples(encoded, labels, frozenset(accepted & set(encoded.features)))


def _without_peft(model: Any) -> Any:
    """Return the model inside peft's wrapper, whose own forward does not tell what it takes."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check_labels(labels: np.ndarray, data: TaskData, num_labels: int) -> None:
    """Refuse labels that the model's head has no output for.

    Raises:
        TrainingError: The message names the label and what the head can give.
    """
    if data.spec.regression:
        if num_labels != 1:
            raise TrainingError(
                f"{data.spec.name} asks for numbers (regression), but the model's head has {num_labels} "
                "outputs; load the model with num_labels=1"
            )
        if not np.isfinite(labels).all():
            row = _row(data, np.flatnonzero(~np.isfinite(labels))[0])
            raise TrainingError(f"row {row} of {data.source} ({data.split}) has no number as its label")
        return
    outside = np.flatnonzero((labels < 0) | (labels >= num_labels))
    if outside.size:
        raise TrainingError(
            f"row {_row(data, outside[0])} of {data.source} ({data.split}) has label {labels[outside[0]]}, but the "
            f"model's head knows 0 to {num_labels - 1}; load the model with as many labels as the task has"
        )


def _row(data: TaskData, position: int) -> int:
    """Return the number of a row in the whole split, also where the data are a part of it."""
    return int(data.dataset["idx"][int(position)]) if "idx" in data.dataset.column_names else int(position)
