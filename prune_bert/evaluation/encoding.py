"""Text to token ids, once for each task, and batches of examples of like length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from prune_bert.errors import UserError
from prune_bert.knobs import MAX_SEQ_LENGTH
from prune_bert.profiling import longest_sequence
from prune_bert.tasks import TaskData


class EvaluationError(UserError, ValueError):
    """A model, a task and settings that cannot be evaluated together."""


class SharedWorkError(EvaluationError):
    """Plans that cannot be evaluated together, though each of them can alone."""


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """A task's examples as token ids, not padded, for use with any number of models.

    Attributes:
        data: The task they come from.
        tokenizer: The tokenizer that encoded them and pads them.
        max_seq_length: The length in tokens at which they were cut.
        features: For each of the tokenizer's `model_input_names`, one list of ids an example.
        lengths: ``(n,)`` tokens of each example.
    """

    data: TaskData
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
    features: Mapping[str, Sequence[Sequence[int]]]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.lengths)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Collect examples, padded to the longest among them: ``(len(indices), longest)`` for each input."""
        examples = [{name: rows[i] for name, rows in self.features.items()} for i in indices]
        return dict(DataCollatorWithPadding(self.tokenizer, padding="longest")(examples))


def encode(
    tokenizer: PreTrainedTokenizerBase, data: TaskData, max_seq_length: int = MAX_SEQ_LENGTH.default
) -> EncodedTask:
    """Tokenise a task, cutting the longer text of an example first where it passes `max_seq_length`.

    Raises:
        EvaluationError: The length is over the tokenizer's, or leaves no room for text, or there is no padding token.
    """
    check_sequence_length(max_seq_length, tokenizer)
    if tokenizer.pad_token is None:
        raise EvaluationError(
            "the tokenizer has no padding token, without which no batch can be made: name one as pad_token in its "
            "tokenizer_config.json, or another tokenizer with --tokenizer_name"
        )
    texts = [data.dataset[name][:] for name in data.spec.text_columns]
    least = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2) + len(texts)
    if max_seq_length < least:
        raise EvaluationError(
            f"max_seq_length {max_seq_length} leaves no room for text: task {data.spec.name!r} needs at least {least}"
        )
    encoded = tokenizer(*texts, truncation=True, max_length=max_seq_length, padding=False, verbose=False)
    features = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
    lengths = np.array([len(ids) for ids in features[tokenizer.model_input_names[0]]], np.int64)
    return EncodedTask(data, tokenizer, max_seq_length, features, lengths)


def length_sorted_batches(encoded: EncodedTask, batch_size: int) -> list[NDArray[np.int64]]:
    """Divide the examples into batches of like length, the longest first.

    Little padding is left, and a batch too large for the memory fails at the start, not at the end.

    Raises:
        EvaluationError: The batch size is below 1.
    """
    if batch_size < 1:
        raise EvaluationError(f"the batch size is {batch_size}; at least 1 is needed")
    order = np.argsort(-encoded.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_sequence_length(
    max_seq_length: int, tokenizer: PreTrainedTokenizerBase | None = None, model: nn.Module | None = None
) -> None:
    """Refuse a length that the tokenizer or the model's position embeddings do not reach.

    Raises:
        EvaluationError: It is over one of the two; the message has both numbers.
    """
    limits = {
        "model": None if model is None else longest_sequence(model),
        "tokenizer": None if tokenizer is None else int(tokenizer.model_max_length),
    }
    for owner, limit in limits.items():
        if limit is not None and max_seq_length > limit:
            raise EvaluationError(
                f"max_seq_length {max_seq_length} is over the {owner}'s maximum of {limit} tokens; use {limit} or less"
            )
