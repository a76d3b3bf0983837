"""The report's tables as data, which each renderer writes in its own way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prune_bert.profiling import LatencyPoint
from prune_bert.report import words
from prune_bert.report.model import PruningReport
from prune_bert.report.records import Row, SiteCost
from prune_bert.report.settings import main_settings, point_at, setting_of


@dataclass(frozen=True)
class Cell:
    """What one cell says, and what stands below it in smaller print."""

    text: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Headings, and rows of as many cells; the first column names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def accuracy_and_speed(report: PruningReport) -> Table:
    """The main table: each state of the model, how right and how fast it is."""
    settings = main_settings(report.rows)
    headings = [
        "",
        *map(words.metric_label, report.task.metrics),
        *(f"speed, batch {batch_size}, {length} tokens" for batch_size, length in settings),
        *(["parameters"] if any(row.size for row in report.rows) else []),
        *(["made in"] if any(row.made_in_seconds is not None for row in report.rows) else []),
    ]
    rows = []
    for row in report.rows:
        cells = [Cell(row.name), *(_metric(row, metric) for metric in report.task.metrics)]
        cells += [_speed(point_at(row, setting), row is report.baseline) for setting in settings]
        if "parameters" in headings:
            cells.append(Cell(words.amount(row.size.parameters if row.size else None)))
        if "made in" in headings:
            cells.append(Cell("" if row.made_in_seconds is None else words.seconds(row.made_in_seconds)))
        rows.append(tuple(cells))
    return Table(tuple(headings), tuple(rows))


def latency(report: PruningReport) -> Table | None:
    """Every timing of every row, or None where nothing was timed."""
    timed = [(row, point) for row in report.rows for point in row.latency]
    if not timed:
        return None
    order = [row.name for row in report.rows]
    timed.sort(key=lambda pair: (*setting_of(pair[1]), order.index(pair[0].name)))
    headings = (
        "setting",
        "model",
        "p50 (ms)",
        "p95 (ms)",
        "sequences a second",
        "times the baseline's speed",
        "verdict",
    )
    return Table(headings, tuple(_timing(row, point, row is report.baseline) for row, point in timed))


def sizes(report: PruningReport) -> Table | None:
    """What each row weighs, or None where nothing was weighed."""
    weighed = [(row.name, row.size) for row in report.rows if row.size is not None]
    if not weighed:
        return None
    rows = tuple(
        _cells(
            name,
            words.amount(size.parameters),
            words.amount(size.flops, "FLOP"),
            words.amount(size.peak_memory_bytes, "B"),
            words.amount(size.checkpoint_bytes, "B"),
        )
        for name, size in weighed
    )
    return Table(("", "parameters", "one sequence", "peak memory", "checkpoint"), rows)


def loading(report: PruningReport) -> Table | None:
    """What each way of loading the saved model gives, or None where nothing was saved."""
    if not report.loaded_with:
        return None
    settings = main_settings(report.rows)
    headings = [
        "loaded with",
        *(f"speed, batch {batch_size}, {length} tokens" for batch_size, length in settings),
        "parameters in memory",
        "checkpoint",
    ]
    rows = []
    for form in report.loaded_with:
        timed, size = (report.final.latency, report.final.size) if form.same_modules else (form.latency, form.size)
        points = {setting_of(point): point for point in timed}
        cells = [Cell(form.name, (f"as the row {report.final.name}",) if form.same_modules else ())]
        cells += [_speed(points.get(setting), is_baseline=False) for setting in settings]
        weighed = (size.parameters, size.checkpoint_bytes) if size else (None, None)
        cells += [Cell(words.amount(weighed[0])), Cell(words.amount(weighed[1], "B"))]
        rows.append(tuple(cells))
    return Table(tuple(headings), tuple(rows))


def site_costs(report: PruningReport) -> Table | None:
    """What each site costs alone, the dearest first, or None where that was not measured."""
    if not report.site_costs:
        return None
    headings = ["site", *(f"change in {words.metric_name(metric)}" for metric in report.task.metrics)]
    with_flips = any(cost.flips for cost in report.site_costs)
    rows = []
    for cost in by_cost(report):
        cells = [words.site_name(cost.site)]
        for metric in report.task.metrics:
            difference = cost.difference.get(metric)
            cells.append(words.with_interval(difference, sign=True) if difference else words.MISSING)
        if with_flips:
            flips = cost.flips
            cells.append(f"{flips.right_to_wrong} / {flips.wrong_to_right}" if flips else words.MISSING)
        rows.append(_cells(*cells))
    return Table((*headings, *(["lost / won"] if with_flips else [])), tuple(rows))


def by_cost(report: PruningReport) -> list[SiteCost]:
    """Return the sites with the one whose removal hurts most first; those without a figure come last."""

    def key(cost: SiteCost) -> tuple[bool, float]:
        difference = cost.difference.get(report.headline)
        value = difference.value if difference else None
        return (value is None, value or 0.0)

    return sorted(report.site_costs, key=key)


def compensated_sites(report: PruningReport) -> Table | None:
    """What stands in the place of each compensated site, and what it costs against the sublayer; or None."""
    if not report.compensated_sites:
        return None
    headings = ("site", "form", "rank", "neurons", "ridge", "error", "parameters", "FLOPs", "latency")
    rows = []
    for one in report.compensated_sites:
        latency_ms = tuple(map(_milliseconds, (one.latency_ms, one.replaced_latency_ms)))
        rows.append(
            (
                Cell(words.site_name(one.site)),
                Cell(one.form.replace("_", " ")),
                Cell("full" if one.rank is None else str(one.rank)),
                Cell(str(one.neurons)),
                Cell(words.MISSING if one.ridge is None else f"{one.ridge:.2g}"),
                Cell(words.MISSING if one.error is None else f"{one.error:.3f}"),
                _against(words.amount(one.parameters), words.amount(one.replaced_parameters)),
                _against(words.amount(one.flops), words.amount(one.replaced_flops)),
                _against(*latency_ms),
            )
        )
    return Table(headings, tuple(rows))


def _against(value: str, replaced: str) -> Cell:
    """Write what stands there now, and below it what stood there before."""
    return Cell(value) if value == replaced == words.MISSING else Cell(value, (f"for {replaced}",))


def _milliseconds(value: float | None) -> str:
    """Write a latency with its unit, or that there is none."""
    return words.MISSING if value is None else f"{words.milliseconds(value)} ms"


def facts(report: PruningReport) -> Table:
    """What was run, where and when: names and values."""
    task, model, environment = report.task, report.model, dict(report.environment)
    layers = f"{model.model_type}, {model.num_hidden_layers} layers"
    width = f", width {model.hidden_size}" if model.hidden_size else ""
    pairs = [
        ("model", model.name_or_path),
        ("kind", f"{layers}{width}"),
        ("task", f"{task.name}, {task.split}, {task.n:,} examples"),
        ("data", task.source),
        ("plan", report.plan.text or "(empty)"),
        ("created", report.created),
        *((name.replace("_", " "), _fact(value)) for name, value in environment.items() if value is not None),
        ("steps", ", ".join(f"{name} {words.seconds(took)}" for name, took in report.step_seconds.items())),
    ]
    return Table(("", ""), tuple(_cells(name, value) for name, value in pairs if value))


def _metric(row: Row, metric: str) -> Cell:
    """Write a metric with its interval, and the change against the baseline below it."""
    estimate = row.metrics[metric]
    difference = (row.difference or {}).get(metric)
    if difference is None:
        return Cell(words.with_interval(estimate))
    change = f"change {words.with_interval(difference, sign=True)}"
    return Cell(words.with_interval(estimate), (change, words.change_verdict(difference)))


def _speed(point: LatencyPoint | None, is_baseline: bool) -> Cell:
    """Write a speed-up with its interval, and the verdict below it."""
    if point is None:
        return Cell(words.MISSING)
    latency_ms = f"{words.milliseconds(point.p50_ms)} ms"
    if is_baseline:
        return Cell("1", (latency_ms,))
    return Cell(f"{point.speedup:.2f} ({words.speed_interval(point)})", (latency_ms, words.speed_verdict(point)))


def _timing(row: Row, point: LatencyPoint, is_baseline: bool) -> tuple[Cell, ...]:
    """Write one timing as a row."""
    return _cells(
        words.setting(point),
        row.name,
        words.milliseconds(point.p50_ms),
        words.milliseconds(point.p95_ms),
        f"{point.throughput:,.0f}" if point.throughput >= 100 else f"{point.throughput:.1f}",
        "1" if is_baseline else f"{point.speedup:.2f} ({words.speed_interval(point)})",
        "baseline" if is_baseline else words.speed_verdict(point),
    )


def _cells(*texts: str) -> tuple[Cell, ...]:
    """Make a row of plain cells."""
    return tuple(Cell(text) for text in texts)


def _fact(value: object) -> str:
    """Write any JSON value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
