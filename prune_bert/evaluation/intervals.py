"""Bootstrap intervals (Efron 1979), for a metric and for the difference of two models on the same examples.

All are percentile intervals at 95 %. BCa would correct their small bias, but it needs a jackknife, as many
more evaluations of the metric as there are examples, and has no answer where the data do not vary. The
percentile interval has one there: from the value to itself. Such an interval of width 0 (every example right,
say) only means that these examples cannot tell; it is no proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prune_bert.tasks import CONFUSION_METRICS, CORRELATIONS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NUMBERS_AT_ONCE = 2_000_000


def resampled_metrics(
    names: Sequence[str],
    candidates: Sequence[ArrayLike],
    references: ArrayLike,
    *,
    num_labels: int,
    n_resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Compute metrics of one or more models on the same resampled examples.

    A classification metric sees a resample only through its confusion matrix. How often each distinct
    combination of predictions and reference occurs in a resample of n examples is one draw from a multinomial
    distribution. Drawing that is the ordinary bootstrap, identical in law, and its cost does not grow with n.
    Correlations resample the examples themselves. (`scipy.stats.bootstrap` does the same, slower, and with a
    warning where one resample leaves a correlation undefined.)

    Args:
        names: Metrics.
        candidates: For each model ``(n,)`` predictions.
        references: ``(n,)``.
        num_labels: The number of classes; 0 for regression.
        n_resamples: How many resamples.
        seed: Seed of the draws.

    Returns:
        For each metric ``(len(candidates), n_resamples)``.
    """
    if num_labels:
        classes = [np.asarray(values, np.int64) for values in (*candidates, references)]
        return _resampled_classes(names, classes, num_labels, n_resamples, seed)
    numbers = [np.asarray(values, np.float64) for values in (*candidates, references)]
    return {name: _resampled_numbers(name, numbers, n_resamples, seed) for name in names}


def interval(values: FloatArray) -> tuple[float, float]:
    """Return the middle 95 % of resampled values; undefined ones do not count, and nan if all are."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return (float("nan"), float("nan"))
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _resampled_classes(
    names: Sequence[str], columns: Sequence[IntArray], k: int, n_resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Draw confusion matrices; the last of the columns of ``(n,)`` classes is the references."""
    n, models = len(columns[0]), len(columns) - 1
    codes = np.zeros(n, np.int64)
    for column in columns:
        codes = codes * k + column
    cells, counts = np.unique(codes, return_counts=True)
    references, predictions = cells % k, [cells // k ** (models - i) % k for i in range(models)]
    values = {name: np.empty((models, n_resamples)) for name in names}
    generator = np.random.default_rng(seed)
    for chunk in _chunks(n_resamples, len(cells) + k * k):
        draws = generator.multinomial(n, counts / n, size=chunk.stop - chunk.start)
        for i, predicted in enumerate(predictions):
            confusion = _sum_by(draws, references * k + predicted, k * k).reshape(-1, k, k)
            for name in names:
                values[name][i, chunk] = CONFUSION_METRICS[name](confusion)
    return values


def _sum_by(draws: IntArray, groups: IntArray, size: int) -> IntArray:
    """Add up the columns of ``(rows, cells)`` draws by group, into ``(rows, size)``."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(draws), size), np.int64)
    sums[:, present] = np.add.reduceat(draws[:, order], starts, axis=1)
    return sums


def _resampled_numbers(name: str, columns: Sequence[FloatArray], n_resamples: int, seed: int) -> FloatArray:
    """Resample pairs of numbers for a correlation (Spearman's is Pearson's of the ranks)."""
    n, models = len(columns[0]), len(columns) - 1
    if n < 2:
        return np.full((models, n_resamples), np.nan)  # one point has no correlation
    order = np.lexsort(columns)  # so that the interval does not depend on the order of the examples
    columns = [column[order] for column in columns]
    rank = name == "spearmanr"
    if rank:  # only the order of the numbers counts, so it is found once and not in every resample
        columns = [np.unique(column, return_inverse=True)[1].astype(np.float64) for column in columns]
    values = np.empty((models, n_resamples))
    generator = np.random.default_rng(seed)
    for chunk in _chunks(n_resamples, n):
        rows = generator.integers(0, n, (chunk.stop - chunk.start, n))
        drawn = [_mean_ranks(column[rows]) if rank else column[rows] for column in columns]
        for i, candidate in enumerate(drawn[:-1]):
            values[i, chunk] = CORRELATIONS["pearson"](candidate, drawn[-1])
    return values


def _mean_ranks(codes: FloatArray) -> FloatArray:
    """Rank ``(..., n)`` whole numbers from 0 to n - 1, ties at their mean rank, by counting instead of sorting."""
    rows = codes.reshape(-1, codes.shape[-1]).astype(np.int64)
    shifted = rows + np.arange(len(rows))[:, None] * rows.shape[1]
    counts = np.bincount(shifted.ravel(), minlength=rows.size).reshape(rows.shape)
    mean_rank = counts.cumsum(-1) - (counts - 1) / 2
    ranks: FloatArray = mean_rank.ravel()[shifted].reshape(codes.shape)
    return ranks


def _chunks(total: int, numbers_each: int) -> Iterator[slice]:
    """Divide a range so that no part needs more than `NUMBERS_AT_ONCE` numbers, or has just one element."""
    step = max(1, NUMBERS_AT_ONCE // numbers_each)
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
