"""What a search found, for people: the front of accuracy against latency as data, plot, page and table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prune_bert.plain import plain_values
from prune_bert.report import words
from prune_bert.report.plots import BLUE, GREY, MUTED, ORANGE, SURFACE, as_inline_svg, as_png, as_svg, plot_style
from prune_bert.report.records import Estimate
from prune_bert.report.render import template_environment
from prune_bert.report.tables import Cell, Table
from prune_bert.storage import write_bytes, write_text

_LOG_WIDTH = 110  # characters a line where nobody's window sets the width


@dataclass(frozen=True)
class FrontPoint:
    """One plan of the front, or the unpruned model.

    Attributes:
        plan: The plan's text; empty for the unpruned model.
        calibration: The headline figure on the slice that the plan was chosen on.
        validation: The same on data that had no say in the choice.
        difference: The change on validation against the unpruned model, paired.
        predicted_ms: Latency from the table of parts.
        measured_ms: Latency measured end to end, the median.
        speedup: The unpruned model's measured latency over this one's, with its interval.
        parameters: What is left of them.
        command: What prunes by this plan; None for the unpruned model.
        chosen: Whether the budget chose it.
    """

    plan: str
    calibration: Estimate
    validation: Estimate
    difference: Estimate
    predicted_ms: float
    measured_ms: float
    speedup: Estimate
    parameters: int
    command: str | None = None
    chosen: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return self.plan or "unpruned"


@dataclass(frozen=True)
class SearchReport:
    """A search from its question to the front.

    Attributes:
        model: The model's name or path.
        task: The task, and `split` what the front is reported on.
        metric: The headline figure's name: a metric, or ``agreement``.
        baseline: The unpruned model.
        front: The plans, fastest first.
        chosen: The chosen plan, or None without a budget.
        budget: What was asked for, in words.
        search: Strategy, counts, path, races, seconds.
        setting: Batch size and sequence length of every latency.
        n: Calibration and validation examples, by name.
        notes: What a reader should know.
        record: Command, config and environment.
    """

    model: str
    task: str
    split: str
    metric: str
    baseline: FrontPoint
    front: tuple[FrontPoint, ...]
    chosen: str | None
    budget: str
    search: Mapping[str, Any]
    setting: tuple[int, int]
    n: Mapping[str, int]
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric_label(self) -> str:
        """The headline figure with its unit, for an axis or a column."""
        if self.metric == "agreement":
            return "agreement with the unpruned model (%)"
        return words.metric_label(self.metric)

    @property
    def setting_text(self) -> str:
        """The setting of the latencies."""
        return f"batch {self.setting[0]}, {self.setting[1]} tokens"

    def to_json(self) -> str:
        """Write it as JSON."""
        data = dataclasses.asdict(self)
        return json.dumps(data.pop("record") | data, indent=2, ensure_ascii=False, default=str) + "\n"


def front_plot(report: SearchReport) -> Figure:
    """Draw the front: validation with its interval and calibration beside it, against measured latency."""
    with plot_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        _unpruned(axes, report)
        for kind, colour in (("calibration", GREY), ("validation", BLUE)):
            shown = [point for point in report.front if getattr(point, kind).value is not None]
            x = [point.measured_ms for point in shown]
            y = [100 * getattr(point, kind).value for point in shown]
            style = (0, (2, 2)) if kind == "calibration" else "solid"
            axes.plot(x, y, color=colour, linewidth=1.2, linestyle=style, alpha=0.7, zorder=2)
        for number, point in enumerate(report.front, start=1):
            _draw(axes, point, number)
        axes.set_xlabel(f"measured latency (ms), {report.setting_text}; left is faster")
        axes.set_ylabel(report.metric_label)
        axes.margins(0.08, 0.1)
        _front_legend(axes, report)
        return figure


def front_table(report: SearchReport) -> Table:
    """The front as a table: what was chosen on beside what it is worth, what was predicted beside what was measured."""
    name = words.metric_name(report.metric)
    figures = (f"{name}: calibration", f"{name}: {report.split}", "predicted ms", "measured ms", "speed-up")
    rows = []
    for number, point in enumerate((report.baseline, *report.front)):
        below = () if not number else (f"{words.with_interval(point.difference, sign=True)} against unpruned",)
        speed = "1" if not number else f"{point.speedup.value or 0:.2f} times"
        bounds = point.speedup.ci95
        predicted = report.baseline.predicted_ms / point.predicted_ms
        cells = (
            Cell(str(number) if number else ""),
            Cell(point.name, ("chosen",) if point.chosen else ()),
            Cell(words.hundredfold(point.calibration.value)),
            Cell(words.with_interval(point.validation), below),
            Cell(words.milliseconds(point.predicted_ms), (f"{predicted:.2f} times",) if number else ()),
            Cell(words.milliseconds(point.measured_ms)),
            Cell(speed, (f"{bounds[0]:.2f} to {bounds[1]:.2f}",) if number and bounds else ()),
            Cell(words.amount(point.parameters)),
        )
        rows.append(cells)
    return Table(("", "plan", *figures, "parameters"), tuple(rows))


def front_sentences(report: SearchReport) -> list[str]:
    """Say the result in a few sentences."""
    search, setting = report.search, report.setting_text
    fitted = search.get("compensation", "")
    each = f", each with {fitted}" if fitted else ""
    count = f"{search['strategy']} evaluated {search['evaluated']:,} plans in {words.seconds(search['seconds'])}{each}"
    cut = f", and cut {search['cut']:,} early at {search['confidence']:.0%} confidence" if search["cut"] else ""
    said = [f"{count}{cut}; {len(report.front)} of them are shown: no other is both as accurate and as fast."]
    point = next((point for point in report.front if point.chosen), None)
    if point is None:
        return [*said, "No budget was given, so none of them was chosen."]
    change = words.with_interval(point.difference, sign=True)
    on_slice = (point.calibration.value or 0.0) - (report.baseline.calibration.value or 0.0)
    return [
        f"Chosen, with {report.budget}: {point.plan}. {point.speedup.value or 0:.2f} times as fast ({setting}), "
        f"{change} points on {report.split}; {words.hundredfold(on_slice, sign=True)} on the slice it was chosen on.",
        *said,
    ]


def write_search(report: SearchReport, directory: Path) -> None:
    """Write ``search.json``, ``front.html``, ``front.md``, ``front.png`` and ``front.svg``."""
    write_text(directory / "search.json", report.to_json())
    report = plain_values(report)
    figure = front_plot(report)
    view = {
        "report": report,
        "name": words.short_name(report.model),
        "sentences": front_sentences(report),
        "table": front_table(report),
    }
    write_bytes(directory / "front.png", as_png(figure))
    write_text(directory / "front.svg", as_svg(figure))
    environment = template_environment()
    page = environment.get_template("search.html.j2").render(**view, plot=Markup(_with_titles(report, figure)))
    write_text(directory / "front.html", page)
    text = environment.get_template("search.md.j2").render(**view)
    write_text(directory / "front.md", text)


def print_front(report: SearchReport, console: Console | None = None) -> None:
    """Print the sentences and the table on stdout."""
    console, report = console or Console(), plain_values(report)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("", "plan", "calibration", report.split, "predicted\nms", "measured\nms", "speed-up"):
        table.add_column(Text(heading), min_width=18 if heading == "plan" else None)
    for number, point in enumerate((report.baseline, *report.front)):
        bounds = point.speedup.ci95
        speed = f"{point.speedup.value or 0:.2f} ({bounds[0]:.2f} to {bounds[1]:.2f})" if number and bounds else "1"
        cells = (
            str(number) if number else "",
            f"{point.name}{' (chosen)' if point.chosen else ''}",
            words.hundredfold(point.calibration.value),
            words.with_interval(point.validation),
            words.milliseconds(point.predicted_ms),
            words.milliseconds(point.measured_ms),
            speed,
        )
        table.add_row(*map(Text, cells))
    for sentence in front_sentences(report):
        console.print(Text(sentence), highlight=False)
    console.print()
    console.print(Text(report.metric_label, style="bold"), highlight=False)
    console.print(table, highlight=False)
    console.print(Text(f"In brackets: 95 % intervals. Latency at {report.setting_text}.", style="dim"), highlight=False)


def _unpruned(axes: Axes, report: SearchReport) -> None:
    base = report.baseline
    if base.validation.value is None:
        return
    if base.validation.ci95 is not None:
        low, high = base.validation.ci95
        axes.axhspan(100 * low, 100 * high, color=GREY, alpha=0.12, linewidth=0)
    axes.plot(base.measured_ms, 100 * base.validation.value, "o", color=GREY, markersize=8, zorder=4, gid="point-0")


def _draw(axes: Axes, point: FrontPoint, number: int) -> None:
    """Draw one plan twice, and its number: hollow where it was chosen on, solid with its interval where it was not."""
    colour = ORANGE if point.chosen else BLUE
    if point.calibration.value is not None:
        y = 100 * point.calibration.value
        axes.plot(
            point.measured_ms, y, "o", color=GREY, markerfacecolor=SURFACE, markersize=6, gid=f"calibration-{number}"
        )
    if point.validation.value is None:
        return
    y = 100 * point.validation.value
    if point.validation.ci95 is not None:
        low, high = (100 * bound for bound in point.validation.ci95)
        axes.vlines(point.measured_ms, low, high, color=colour, linewidth=1.4, alpha=0.55, zorder=3)
    marker = "D" if point.chosen else "o"
    axes.plot(point.measured_ms, y, marker, color=colour, markersize=9, zorder=5, gid=f"point-{number}")
    axes.annotate(
        str(number), (point.measured_ms, y), (7, -13), textcoords="offset points", fontsize=10, color=MUTED, zorder=6
    )


def _front_legend(axes: Axes, report: SearchReport) -> None:
    axes.plot([], [], "o", color=GREY, label="unpruned")
    axes.plot([], [], "o", color=GREY, markerfacecolor=SURFACE, label="calibration (chosen on)")
    axes.plot([], [], "o", color=BLUE, label=report.split)
    if report.chosen is not None:
        axes.plot([], [], "D", color=ORANGE, label=f"{report.split}, chosen")
    axes.figure.legend(loc="outside upper left", ncols=4, fontsize=10, handletextpad=0.1, columnspacing=1.0)


def _with_titles(report: SearchReport, figure: Figure) -> str:
    """Add the plan's name to each point of the drawing as its title, which a browser shows on hovering."""
    svg = as_inline_svg(figure, "front")
    for group, text in _titles(report):
        opening = f'<g id="front-{group}">'
        svg = svg.replace(opening, f'<g id="front-{group}" class="point"><title>{escape(text)}</title>')
    return svg


def _titles(report: SearchReport) -> Iterator[tuple[str, str]]:
    for number, point in enumerate((report.baseline, *report.front)):
        figures = (
            f"{report.split} {words.with_interval(point.validation)}, calibration "
            f"{words.hundredfold(point.calibration.value)}, {words.milliseconds(point.measured_ms)} ms"
        )
        for group in (f"point-{number}", f"calibration-{number}"):
            yield group, f"{point.name}: {figures}"
