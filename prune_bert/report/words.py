"""How figures are said: numbers with their intervals, verdicts, names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from prune_bert.plan import Site
from prune_bert.profiling import LatencyPoint
from prune_bert.report.records import Estimate

MISSING = "n/a"
NO_GAIN = "no measurable gain"
COMPONENTS = {"layer": "layer", "attention": "attention", "ffn": "feed-forward"}

METRICS = {
    "accuracy": ("accuracy", "%"),
    "f1": ("F1", "%"),
    "matthews_correlation": ("Matthews correlation", "x100"),
    "pearson": ("Pearson correlation", "x100"),
    "pearsonr": ("Pearson correlation", "x100"),
    "spearmanr": ("Spearman correlation", "x100"),
    "spearman": ("Spearman correlation", "x100"),
}
"""Name to how it is said and in what; all are shown times 100, as GLUE's own tables do."""


def metric_name(metric: str) -> str:
    """Say a metric's name."""
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]


def metric_label(metric: str) -> str:
    """Say a metric's name with its unit, for a column or an axis."""
    name, unit = METRICS.get(metric, (metric.replace("_", " "), "x100"))
    return f"{name} ({unit})"


def hundredfold(value: float | None, *, sign: bool = False) -> str:
    """Write a metric or a difference times 100 with one decimal, never as minus nought."""
    if value is None:
        return MISSING
    rounded = round(100 * value, 1) or 0.0
    return f"{rounded:+.1f}" if sign and rounded else f"{rounded:.1f}"


def interval(estimate: Estimate, *, sign: bool = False) -> str:
    """Write the interval of a metric or a difference: ``87.2 to 91.2``."""
    if estimate.ci95 is None:
        return MISSING
    return " to ".join(hundredfold(bound, sign=sign) for bound in estimate.ci95)


def with_interval(estimate: Estimate, *, sign: bool = False) -> str:
    """Write a metric or a difference with its interval: ``89.3 (87.2 to 91.2)``."""
    value = hundredfold(estimate.value, sign=sign)
    return value if estimate.ci95 is None else f"{value} ({interval(estimate, sign=sign)})"


def change_verdict(difference: Estimate) -> str:
    """Say whether a difference is one."""
    if difference.value is None or not difference.measurable:
        return "no measurable change"
    return "a measurable loss" if difference.value < 0 else "a measurable gain"


def speed_interval(point: LatencyPoint) -> str:
    """Write the interval of a speed-up: ``1.17 to 1.21``."""
    low, high = point.speedup_ci95
    return f"{low:.2f} to {high:.2f}"


def speed_verdict(point: LatencyPoint) -> str:
    """Say whether a variant is faster than the baseline."""
    if not point.measurable:
        return NO_GAIN
    return "faster" if point.speedup > 1 else "slower"


def setting(point: LatencyPoint) -> str:
    """Name the setting of a timing: ``batch 32, 128 tokens``."""
    return f"batch {point.batch_size}, {point.sequence_length} tokens"


def amount(value: float | None, unit: str = "") -> str:
    """Write a count, operations or bytes with three digits: ``22.7 M``, ``2.87 GB``."""
    if value is None:
        return MISSING
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_three_digits(value / size)} {letter}{unit}"
    return f"{value:.0f} {unit}".strip()


def ratio(value: float, before: float) -> str:
    """Write a change in percent: ``-7.8 %``."""
    change = round(100 * (value / before - 1), 1) or 0.0
    return f"{change:+.1f} %" if change else "0 %"


def seconds(value: float) -> str:
    """Write a duration."""
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def milliseconds(value: float) -> str:
    """Write a latency with three digits."""
    return _three_digits(value)


def short_name(name_or_path: str) -> str:
    """Return the last part of a path or a hub id."""
    return PurePath(name_or_path).name or name_or_path


def site_name(site: Site) -> str:
    """Name a site for people: ``layer 4``, ``feed-forward 0``."""
    return f"{COMPONENTS[site.component]} {site.layer}"


def listing(items: Sequence[object]) -> str:
    """Join with commas and an ``and``."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def _three_digits(value: float) -> str:
    """Write a number from 0 to 1000 or more with three significant digits and no exponent."""
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"
