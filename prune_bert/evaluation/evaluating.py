"""`evaluate` a model on a task, and `compare` two scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert.evaluation.encoding import EncodedTask, EvaluationError, check_sequence_length, encode
from prune_bert.evaluation.inference import predict_logits
from prune_bert.evaluation.intervals import interval, resampled_metrics
from prune_bert.evaluation.scores import Comparison, MetricValue, TaskScore
from prune_bert.knobs import EVAL_BATCH_SIZE, MAX_SEQ_LENGTH, N_RESAMPLES, SEED
from prune_bert.tasks import CORRELATIONS, Rows, TaskData, TaskSpec, as_task_data, compute_metrics, task_data_for


def evaluate(
    model: nn.Module,
    data: TaskData | EncodedTask | Rows,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    accelerator: Accelerator | None = None,
    batch_size: int = EVAL_BATCH_SIZE.default,
    max_seq_length: int = MAX_SEQ_LENGTH.default,
    n_resamples: int = N_RESAMPLES.default,
    seed: int = SEED.default,
    description: str = "evaluate",
) -> TaskScore:
    """Score a classifier on a task, every example once, through accelerate.

    The score does not depend on the batch size, the order of the data or the number of processes, and every
    process gets it. The model moves to the accelerator's device.

    Args:
        model: A model that takes the tokenizer's inputs and gives logits.
        data: A `datasets.Dataset` or a list of dicts; or a task with the model's label order (see `align_labels`), or
            what `encode` made of it.
        tokenizer: The model's tokenizer; not needed for an `EncodedTask`.
        text_columns: Of a dataset or a list, the columns of text; by default found by their usual names.
        label_column: Likewise, that of the labels. Class names are mapped to the model's order.
        accelerator: Device, precision and processes; by default a new one.
        batch_size: Examples in a batch of each process.
        max_seq_length: Where longer texts are cut, in tokens; an `EncodedTask` brings its own.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        description: What the progress bar says.

    Raises:
        EvaluationError: The model's outputs do not fit the task or are not finite, or the sequence length is
            over the model's or the tokenizer's maximum.
        TaskError: The rows or their columns cannot be used; see `as_task_data`.
        TypeError: Text comes without a tokenizer.

    Examples:
        >>> rows = [{"text": "a fine film", "label": "positive"}, {"text": "a dull plot", "label": "negative"}]
        >>> evaluate(model, rows, tokenizer).metrics["accuracy"].value <= 1
        True
    """
    encoded = fitting_task(model, data, tokenizer, max_seq_length, text_columns, label_column)
    logits, seconds = predict_logits(model, encoded, accelerator or Accelerator(), batch_size, description)
    return score_logits(logits, encoded.data, seconds, n_resamples, seed)


def compare(
    baseline: TaskScore,
    other: TaskScore,
    *,
    n_resamples: int = N_RESAMPLES.default,
    seed: int = SEED.default,
) -> Comparison:
    """Compare two models' scores on the same examples, with paired bootstrap intervals of the differences.

    Raises:
        EvaluationError: The examples are not the same.

    Examples:
        >>> score, pruned = evaluate_plans(model, ["", "layer:1-2"], rows, tokenizer)
        >>> difference = compare(score, pruned).differences["accuracy"]
    """
    same = (baseline.task, baseline.split) == (other.task, other.split)
    if not same or not np.array_equal(baseline.references, other.references):
        raise EvaluationError(
            f"scores on different examples cannot be compared: {baseline.task} {baseline.split} with "
            f"{baseline.n} examples and {other.task} {other.split} with {other.n}, or other labels; "
            "evaluate both on the same data"
        )
    resampled = resampled_metrics(
        tuple(baseline.metrics),
        [baseline.predictions, other.predictions],
        baseline.references,
        num_labels=baseline.num_labels,
        n_resamples=n_resamples,
        seed=seed,
    )
    differences = {
        name: MetricValue(other.metrics[name].value - baseline.metrics[name].value, interval(values[1] - values[0]))
        for name, values in resampled.items()
    }
    if not baseline.num_labels:
        return Comparison(differences, 0, 0, float(CORRELATIONS["pearson"](baseline.predictions, other.predictions)))
    before, after = (score.predictions == score.references for score in (baseline, other))
    agreement = float(np.mean(baseline.predictions == other.predictions))
    return Comparison(differences, int(np.sum(before & ~after)), int(np.sum(~before & after)), agreement)


def fitting_task(
    model: nn.Module,
    data: TaskData | EncodedTask | Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    max_seq_length: int,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    *,
    labelled: bool = True,
) -> EncodedTask:
    """Encode a task, unless it is encoded, and check that its sequences are not too long for the model.

    Raises:
        EvaluationError: The sequence length is over the model's or the tokenizer's maximum.
        TaskError: The rows or their columns cannot be used.
        TypeError: Text comes without a tokenizer.
    """
    if isinstance(data, EncodedTask):
        as_task_data(data.data, text_columns=text_columns, label_column=label_column)  # refuses column names
        check_sequence_length(data.max_seq_length, model=model)
        return data
    task = task_data_for(model, data, text_columns, label_column, labelled=labelled)
    if tokenizer is None:
        raise TypeError("text needs a tokenizer; give the model's own, or pass an EncodedTask")
    check_sequence_length(max_seq_length, tokenizer, model)
    return encode(tokenizer, task, max_seq_length)


def references_of(data: TaskData) -> NDArray[Any]:
    """Return the labels, ``(n,)``: class ids, or numbers."""
    return np.asarray(data.dataset["label"][:], np.float64 if data.spec.regression else np.int64)


def score_logits(
    logits: NDArray[np.float32],
    data: TaskData,
    seconds: float,
    n_resamples: int,
    seed: int,
    *,
    references: NDArray[Any] | None = None,
    compute: Callable[..., Mapping[str, float]] = compute_metrics,
    owner: str = "the model",
) -> TaskScore:
    """Score ``(n, num_outputs)`` logits; the other arguments are those of `evaluate`.

    Args:
        logits: What the model gave, in the order of the data.
        data: The task.
        seconds: How long the model took.
        n_resamples: Bootstrap resamples; without any, the intervals are nan.
        seed: Seed of the resamples.
        references: The labels where `references_of` the data is at hand.
        compute: From names, predictions and references to the metrics.
        owner: Whose logits they are, for messages.

    Raises:
        EvaluationError: The logits do not fit the task or are not finite.
    """
    spec = data.spec
    _check_logits(logits, spec, owner)
    references = references_of(data) if references is None else references
    predictions: NDArray[Any] = logits[:, 0].astype(np.float64) if spec.regression else logits.argmax(-1)
    values = compute(spec.metrics, predictions, references)
    intervals = _intervals(spec, predictions, references, n_resamples, seed)
    return TaskScore(
        task=spec.name,
        split=data.split,
        n=len(references),
        metrics={name: MetricValue(value, intervals[name]) for name, value in values.items()},
        loss=_loss(logits, references, spec),
        predictions=predictions,
        references=references,
        logits=logits,
        seconds=seconds,
    )


def _intervals(
    spec: TaskSpec, predictions: NDArray[Any], references: NDArray[Any], n_resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the interval of each of the task's metrics."""
    resampled = resampled_metrics(
        spec.metrics,
        [predictions],
        references,
        num_labels=len(spec.labels),
        n_resamples=n_resamples,
        seed=seed,
    )
    return {name: interval(values[0]) for name, values in resampled.items()}


def _loss(logits: NDArray[np.float32], references: NDArray[Any], spec: TaskSpec) -> float:
    """Compute the mean cross-entropy, or the mean squared error, in double precision."""
    outputs, targets = torch.from_numpy(logits).double(), torch.from_numpy(references)
    loss = F.mse_loss(outputs[:, 0], targets) if spec.regression else F.cross_entropy(outputs, targets)
    return float(loss)


def _check_logits(logits: NDArray[np.float32], spec: TaskSpec, owner: str) -> None:
    """Refuse logits that do not fit the task.

    Raises:
        EvaluationError: Their number is not that of the labels, or some are not finite.
    """
    expected = 1 if spec.regression else len(spec.labels)
    if logits.ndim != 2 or logits.shape[1] != expected:
        raise EvaluationError(
            f"{owner} gives outputs of shape {logits.shape}, but task {spec.name!r} needs {expected} for "
            "each example; use a model with a classification head for this task"
        )
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise EvaluationError(
            f"{owner} gives nan or infinite outputs for {broken} of {len(logits)} examples; in fp16 this "
            "is an overflow: use mixed_precision bf16 or no; otherwise the weights are damaged"
        )
