"""The few big figures at the top of the page."""

from __future__ import annotations

from dataclasses import dataclass

from prune_bert.report import words
from prune_bert.report.model import PruningReport
from prune_bert.report.settings import main_points


@dataclass(frozen=True)
class Tile:
    """One big figure: what it is, the figure, what to know about it, and whether it is good news."""

    label: str
    figure: str
    below: tuple[str, ...]
    mood: str = "plain"
    """``good``, ``bad`` or ``plain``."""


def tiles(report: PruningReport) -> list[Tile]:
    """Return the metric, the speed-ups of the last row, and its size."""
    return [_metric(report), *_speeds(report), *_size(report)]


def _metric(report: PruningReport) -> Tile:
    """Show the headline metric."""
    estimate = report.final.metrics[report.headline]
    figure, label = words.hundredfold(estimate.value), words.metric_label(report.headline)
    difference = (report.final.difference or {}).get(report.headline)
    if difference is None:
        return Tile(label, figure, (words.interval(estimate),))
    mood = "plain" if not difference.measurable else "bad" if (difference.value or 0) < 0 else "good"
    before = words.hundredfold(report.baseline.metrics[report.headline].value)
    change = f"{words.with_interval(difference, sign=True)} against {before}"
    return Tile(label, figure, (words.change_verdict(difference), change), mood)


def _speeds(report: PruningReport) -> list[Tile]:
    """Show the speed-up at the smallest and the largest setting."""
    points = main_points(report.final.latency)
    if report.final is report.baseline or not points:
        return []
    ends = [points[0], points[-1]] if len(points) > 1 else points
    moods = {"faster": "good", "slower": "bad", words.NO_GAIN: "plain"}
    how = () if all(form.same_modules for form in report.loaded_with) else ("with load_pruned",)
    found = []
    for point in ends:
        verdict = words.speed_verdict(point)
        below = (verdict, words.speed_interval(point), *how)
        found.append(Tile(f"speed, {words.setting(point)}", f"{point.speedup:.2f}x", below, moods[verdict]))
    return found


def _size(report: PruningReport) -> list[Tile]:
    """Show the parameters, and what became of the operations."""
    before, after = report.baseline.size, report.final.size
    if after is None:
        return []
    figure = words.amount(after.parameters)
    if before is None or before is after:
        return [Tile("parameters", figure, (f"{words.amount(after.flops, 'FLOP')} for one sequence",))]
    parameters = f"{words.ratio(after.parameters, before.parameters)} against {words.amount(before.parameters)}"
    operations = f"{words.ratio(after.flops, before.flops)} operations" if before.flops else words.MISSING
    return [Tile("parameters", figure, (parameters, operations))]
