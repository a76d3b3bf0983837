"""The plots: accuracy against speed, and what each removed site cost. Drawn without a display."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from prune_bert.report import words
from prune_bert.report.model import PruningReport
from prune_bert.report.records import Estimate, Row
from prune_bert.report.settings import Setting, main_settings, point_at
from prune_bert.report.tables import by_cost

INK, MUTED, GRID, SURFACE = "#1f2329", "#626c78", "#d9dee4", "#fffffe"
GREY, ORANGE, BLUE, GREEN = "#737d8a", "#d55e01", "#0072b3", "#009e74"
"""Okabe and Ito's palette, told apart with any kind of colour vision."""
ROW_STYLES = {
    "baseline": (GREY, "o"),
    "pruned": (ORANGE, "s"),
    "compensated": (BLUE, "D"),
    "recovered": (GREEN, "^"),
}
CSS_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    GREY: "grey",
    ORANGE: "orange",
    BLUE: "blue",
    GREEN: "green",
}
WIDTH_INCHES = 5.0
"""Narrow, so that the letters can still be read when the plot is as wide as a phone."""
RC: dict[Any, Any] = {
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": SURFACE,
    "figure.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.hashsalt": "prune_bert",
}


def accuracy_speed_plot(report: PruningReport) -> Figure:
    """Draw the headline metric against the speed-up, one panel a setting, with both intervals.

    A hollow marker is a speed-up whose interval includes 1. Without any timings the metric alone is drawn.
    """
    settings = main_settings(report.rows)
    with plot_style():
        if not settings:
            return _metric_only(report)
        figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 1.9 * len(settings)), layout="constrained")
        panels = figure.subplots(len(settings), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, setting in zip(panels, settings, strict=True):
            _panel(axes, report, setting)
        panels[-1].set_xlabel("times the baseline's speed (right is faster)")
        _frame_speed(panels[-1], report, settings)
        figure.supylabel(words.metric_label(report.headline), fontsize=11)
        _legend(figure, report.rows)
        return figure


def site_costs_plot(report: PruningReport) -> Figure | None:
    """Draw what each site costs when it alone is removed, the dearest on top; None if that is unknown."""
    costs = by_cost(report)
    if not costs:
        return None
    estimates = [cost.difference.get(report.headline, Estimate(None)) for cost in costs]
    with plot_style():
        figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.34 * len(costs)), layout="constrained")
        axes = figure.subplots()
        for position, estimate in enumerate(estimates):
            _bar(axes, position, estimate)
        axes.set_yticks(range(len(costs)), [words.site_name(cost.site) for cost in costs])
        axes.set_ylim(len(costs) - 0.4, -0.6)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(_round_ticks())
        axes.set_xlabel(f"change in {words.metric_name(report.headline)} (points)")
        return figure


def as_png(figure: Figure) -> bytes:
    """Return the plot as PNG."""
    with plot_style():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """Return the plot as an SVG file of its own, letters as outlines."""
    with plot_style():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def as_inline_svg(figure: Figure, name: str) -> str:
    """Return the plot as an ``<svg>`` element for a page: colours from the page's CSS, ids under ``name``.

    What matplotlib writes beside the drawing (XML header, document type, metadata, namespaces) is left out: a
    page needs none of it, and it is full of addresses.
    """
    svg = as_svg(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'^<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, css_name in CSS_NAMES.items():
        svg = svg.replace(colour, f"var(--{css_name})")
    return svg


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def _panel(axes: Axes, report: PruningReport, setting: Setting) -> None:
    """Draw one setting: the baseline's interval as a band, every row as a point with its intervals."""
    axes.set_title(f"batch {setting[0]}, {setting[1]} tokens", fontsize=11, loc="left")
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    _baseline_band(axes, report)
    for index, row in enumerate(report.rows):
        point = point_at(row, setting)
        estimate = row.metrics[report.headline]
        if point is None or estimate.value is None:
            continue
        solid = row is report.baseline or point.measurable
        x_error = None if row is report.baseline else _around(point.speedup, point.speedup_ci95)
        _point(axes, row, index, point.speedup, estimate, x_error=x_error, solid=solid)


def _metric_only(report: PruningReport) -> Figure:
    """Draw the headline metric of each row, since no speed was measured."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.1), layout="constrained")
    axes = figure.subplots()
    _baseline_band(axes, report)
    for index, row in enumerate(report.rows):
        estimate = row.metrics[report.headline]
        if estimate.value is not None:
            _point(axes, row, index, index, estimate)
    axes.set_xticks(range(len(report.rows)), [row.name for row in report.rows])
    axes.set_xlim(-0.6, len(report.rows) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(words.metric_label(report.headline))
    axes.set_title("Speed was not measured", fontsize=11, loc="left")
    return figure


def _point(
    axes: Axes,
    row: Row,
    index: int,
    x: float,
    estimate: Estimate,
    *,
    x_error: Any = None,
    solid: bool = True,
) -> None:
    """Draw one row's point with its intervals."""
    colour, marker = _row_style(row, index)
    value = 100 * (estimate.value or 0.0)
    scaled = None if estimate.ci95 is None else (100 * estimate.ci95[0], 100 * estimate.ci95[1])
    axes.errorbar(
        x,
        value,
        xerr=x_error,
        yerr=None if scaled is None else _around(value, scaled),
        fmt=marker,
        color=colour,
        markersize=8,
        markerfacecolor=colour if solid else SURFACE,
        markeredgewidth=1.8,
        elinewidth=1.6,
        capsize=3,
        zorder=3 + index,
    )


def _baseline_band(axes: Axes, report: PruningReport) -> None:
    """Shade the baseline's interval."""
    bounds = report.baseline.metrics[report.headline].ci95
    if bounds is not None:
        axes.axhspan(100 * bounds[0], 100 * bounds[1], color=GREY, alpha=0.12, linewidth=0)


def _frame_speed(axes: Axes, report: PruningReport, settings: Sequence[Setting]) -> None:
    """Leave room on both sides and write the ticks as multiples."""
    ends = [1.0]
    for row in report.rows:
        points = (point_at(row, setting) for setting in settings)
        ends += [end for point in points if point for end in (*point.speedup_ci95, point.speedup)]
    margin = max(0.12 * (max(ends) - min(ends)), 0.03)
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.xaxis.set_major_locator(_round_ticks())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    """Name the rows above the panels."""
    handles = []
    for index, row in enumerate(rows):
        colour, marker = _row_style(row, index)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=7, linestyle="", label=row.name))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        fontsize=10,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _bar(axes: Axes, position: int, estimate: Estimate) -> None:
    """Draw one site's bar with its interval and its figure; grey where it may be nothing."""
    label = words.hundredfold(estimate.value, sign=True)
    at_right_edge = axes.get_yaxis_transform()
    axes.text(1.02, position, label, va="center", ha="left", fontsize=10, color=INK, transform=at_right_edge)
    if estimate.value is None:
        return
    colour = GREY if not estimate.measurable else ORANGE if estimate.value < 0 else BLUE
    value = 100 * estimate.value
    axes.barh(position, value, height=0.62, color=colour, alpha=0.85)
    if estimate.ci95 is not None:
        bounds = (100 * estimate.ci95[0], 100 * estimate.ci95[1])
        error = _around(value, bounds)
        axes.errorbar(value, position, xerr=error, color=INK, elinewidth=1.3, capsize=3, linestyle="")


def _round_ticks() -> MaxNLocator:
    """Place ticks at round figures, so that 0 or 1 is among them."""
    return MaxNLocator(nbins=6, steps=[1, 2, 5, 10])


def _row_style(row: Row, index: int) -> tuple[str, str]:
    """Return a row's colour and marker; a name of its own takes the next free ones."""
    return ROW_STYLES.get(row.name, list(ROW_STYLES.values())[index % len(ROW_STYLES)])


def _around(value: float, bounds: tuple[float, float]) -> list[list[float]]:
    """Turn an interval into lengths below and above; a bootstrap interval may leave out the figure itself."""
    return [[max(value - bounds[0], 0.0)], [max(bounds[1] - value, 0.0)]]
