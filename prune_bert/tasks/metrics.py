"""GLUE's metrics: arithmetic in numpy, and `evaluate.Metric` subclasses around it that need no network.

The arithmetic of the classification metrics starts from a confusion matrix, so that a bootstrap can draw
confusion matrices instead of examples; that of the two correlations starts from the numbers themselves. All
of it is vectorised over leading axes. Undefined cases are scikit-learn's and scipy's: no variation in either
side gives a Matthews correlation of 0, no positive at all gives an F1 of 0, and a constant side gives a
Pearson or Spearman correlation of nan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from prune_bert.tasks.table import TaskError, nearest

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def confusion_matrix(predictions: ArrayLike, references: ArrayLike, num_labels: int) -> IntArray:
    """Count the pairs along the last axis.

    Args:
        predictions: Class ids from 0 to `num_labels - 1`, ``(..., n)``.
        references: As the predictions.
        num_labels: The number of classes.

    Returns:
        ``(..., num_labels, num_labels)`` counts, references down and predictions across.
    """
    predicted, actual = np.broadcast_arrays(np.asarray(predictions, int), np.asarray(references, int))
    cells = num_labels * num_labels
    rows = predicted.reshape(-1, predicted.shape[-1])
    codes = actual.reshape(rows.shape) * num_labels + rows
    codes = codes + np.arange(len(rows))[:, None] * cells
    counts = np.bincount(codes.ravel(), minlength=len(rows) * cells)
    return counts.reshape(*predicted.shape[:-1], num_labels, num_labels)


def accuracy(confusion: IntArray) -> FloatArray:
    """Return the share of examples on the diagonal of ``(..., k, k)`` counts."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def f1(confusion: IntArray) -> FloatArray:
    """Return the F1 score of class 1, the positive one, from ``(..., 2, 2)`` counts.

    Raises:
        TaskError: There are more than two classes.
    """
    if confusion.shape[-1] != 2:
        raise TaskError(f"f1 is for two classes, 0 and 1, but the labels have {confusion.shape[-1]}")
    twice_hits = 2 * confusion[..., 1, 1]
    return _ratio(twice_hits, twice_hits + confusion[..., 0, 1] + confusion[..., 1, 0])


def matthews_correlation(confusion: IntArray) -> FloatArray:
    """Return the Matthews correlation, of any number of classes (Gorodkin 2004) from ``(..., k, k)`` counts."""
    counts = confusion.astype(np.float64)  # the products below pass 2**63 at a few billion examples
    predicted, actual = counts.sum(-2), counts.sum(-1)
    total, correct = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    covariance = correct * total - (predicted * actual).sum(-1)
    variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (actual**2).sum(-1))
    return _ratio(covariance, np.sqrt(variances))


def pearson(predictions: ArrayLike, references: ArrayLike) -> FloatArray:
    """Return Pearson's correlation of two ``(..., n)`` arrays; nan where one is constant."""
    x, y = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    x, y = _unit(x), _unit(y)
    return np.where(constant, np.nan, np.clip((x * y).sum(-1), -1.0, 1.0))


def spearmanr(predictions: ArrayLike, references: ArrayLike) -> FloatArray:
    """Return Spearman's rank correlation along the last axis; ties share their mean rank."""
    return pearson(rankdata(predictions, axis=-1), rankdata(references, axis=-1))


def _unit(values: FloatArray) -> FloatArray:
    """Centre along the last axis and scale to length 1, safely for very large and very small values."""
    centred = values - values.mean(-1, keepdims=True)
    centred = _ratio(centred, np.abs(centred).max(-1, keepdims=True))
    return _ratio(centred, np.sqrt((centred**2).sum(-1, keepdims=True)))


def _ratio(above: ArrayLike, below: ArrayLike) -> FloatArray:
    """Divide, with 0 where the divisor is 0."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    quotient: FloatArray = np.zeros(shape)
    np.divide(above, below, out=quotient, where=np.broadcast_to(below != 0, shape))
    return quotient


CONFUSION_METRICS: Mapping[str, Callable[[IntArray], FloatArray]] = MappingProxyType(
    {"accuracy": accuracy, "f1": f1, "matthews_correlation": matthews_correlation}
)
"""The classification metrics, as functions of ``(..., k, k)`` confusion counts."""

CORRELATIONS: Mapping[str, Callable[[ArrayLike, ArrayLike], FloatArray]] = MappingProxyType(
    {"pearson": pearson, "spearmanr": spearmanr}
)
"""The regression metrics, as functions of two ``(..., n)`` arrays."""


def _from_labels(metric: Callable[[IntArray], FloatArray]) -> Callable[..., FloatArray]:
    """Turn a function of a confusion matrix into one of predictions, references and an axis."""

    def compute(predictions: ArrayLike, references: ArrayLike, axis: int = -1) -> FloatArray:
        predicted = np.moveaxis(np.asarray(predictions), axis, -1).astype(np.int64)
        actual = np.moveaxis(np.asarray(references), axis, -1).astype(np.int64)
        num_labels = int(max(predicted.max(initial=1), actual.max(initial=1))) + 1
        return metric(confusion_matrix(predicted, actual, num_labels))

    return compute


def _along_axis(metric: Callable[[ArrayLike, ArrayLike], FloatArray]) -> Callable[..., FloatArray]:
    """Add an `axis` argument to a function of the last axis."""

    def compute(predictions: ArrayLike, references: ArrayLike, axis: int = -1) -> FloatArray:
        return metric(np.moveaxis(np.asarray(predictions), axis, -1), np.moveaxis(np.asarray(references), axis, -1))

    return compute


METRICS: Mapping[str, Callable[..., FloatArray]] = MappingProxyType(
    {name: _from_labels(metric) for name, metric in CONFUSION_METRICS.items()}
    | {name: _along_axis(metric) for name, metric in CORRELATIONS.items()}
)
"""Every metric as `function(predictions, references, axis=-1)`, the form `scipy.stats.bootstrap` wants."""


class LocalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """An `evaluate.Metric` whose arithmetic is in this module.

    It keeps its examples in memory and touches no file: processes side by side cannot get in each other's
    way, and nothing is left in the user's cache. Predictions of several processes are gathered before they
    come here (see `prune_bert.evaluation`); for evaluate's own way of gathering through files, pass
    `keep_in_memory=False` with an `experiment_id`.
    """

    name_in_table = ""
    dtype = "int64"

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **kwargs: Any) -> None:
        self.keep_in_memory = keep_in_memory  # _build_data_dir asks for it before evaluate sets it
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        """Make the cache folder only where examples go through files."""
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _info(self) -> evaluate.MetricInfo:
        """Say what goes in."""
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: one number each for every example.",
            features=datasets.Features(
                {"predictions": datasets.Value(self.dtype), "references": datasets.Value(self.dtype)}
            ),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        """Hand over to the arithmetic."""
        return {self.name_in_table: float(METRICS[self.name_in_table](predictions, references))}


class Accuracy(LocalMetric):
    """The share of predictions that equal the reference."""

    name_in_table = "accuracy"


class F1(LocalMetric):
    """The harmonic mean of precision and recall for class 1, of two."""

    name_in_table = "f1"


class MatthewsCorrelation(LocalMetric):
    """The correlation of predicted and actual classes, 0 for a guess that ignores the input."""

    name_in_table = "matthews_correlation"


class Pearson(LocalMetric):
    """The linear correlation of predicted and actual numbers."""

    name_in_table, dtype = "pearson", "float64"


class Spearmanr(LocalMetric):
    """The correlation of the ranks of predicted and actual numbers."""

    name_in_table, dtype = "spearmanr", "float64"


_CLASSES: Mapping[str, type[LocalMetric]] = MappingProxyType(
    {metric.name_in_table: metric for metric in (Accuracy, F1, MatthewsCorrelation, Pearson, Spearmanr)}
)


def compute_metrics(names: Sequence[str], predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Compute metrics by name, in the order of the names, through their `evaluate.Metric` classes.

    Raises:
        TaskError: An unknown name, no examples, or unequal numbers of predictions and references.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape or predictions.ndim != 1 or not len(predictions):
        raise TaskError(
            "a metric wants one prediction for each reference and at least one of them, but got "
            f"predictions of shape {predictions.shape} and references of shape {references.shape}"
        )
    unknown = [name for name in names if name not in _CLASSES]
    if unknown:
        raise TaskError(
            f"unknown metric {unknown[0]!r}{nearest(unknown[0], _CLASSES)}; the metrics are {', '.join(_CLASSES)}"
        )
    scores: dict[str, float] = {}
    for name in names:
        scores |= _CLASSES[name]().compute(predictions=predictions, references=references)
    return scores
