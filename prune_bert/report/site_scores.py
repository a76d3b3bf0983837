"""What each site is worth by several scorers: as a table and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune_bert.importance import SiteScores
from prune_bert.plain import plain_text
from prune_bert.plan import Site
from prune_bert.report import words
from prune_bert.report.plots import BLUE, GREEN, INK, ORANGE, as_png, as_svg, plot_style
from prune_bert.report.render import markdown_text
from prune_bert.storage import write_bytes, write_text

_COLOURS = {"layer": BLUE, "attention": ORANGE, "ffn": GREEN}


def scores_plot(scores: Sequence[SiteScores]) -> Figure:
    """Draw a panel for each scorer: a bar for each site with its 95 % interval, in forward order."""
    sites = list(scores[0].scores)
    columns = min(2, len(scores))
    rows = math.ceil(len(scores) / columns)
    with plot_style():
        height = 0.9 + 0.24 * len(sites)
        figure = Figure(figsize=(4.2 * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for one, axes in zip(scores, panels.flat, strict=False):
            _panel(axes, one, sites)
        for axes in panels.flat[len(scores) :]:
            axes.set_visible(False)
        figure.supxlabel("score; higher means keep", fontsize=11)
        return figure


def write_scores(scores: Sequence[SiteScores], model: str, task: str, directory: Path) -> None:
    """Write ``scores.md``, ``scores.png`` and ``scores.svg``."""
    model, task = plain_text(model), plain_text(task)
    figure = scores_plot(scores)
    write_bytes(directory / "scores.png", as_png(figure))
    write_text(directory / "scores.svg", as_svg(figure))
    headings, rows = _table(scores)
    lines = [
        f"# What each site of {markdown_text(words.short_name(model))} is worth on {markdown_text(task)}",
        "",
        "Higher means keep. In brackets: the place in the scorer's order of removal, 1 being the first to go; then the "
        "95 % interval, and after ± the spread over ten calibration batches.",
        "",
        f"| {' | '.join(map(markdown_text, headings))} |",
        f"|{' --- |' * len(headings)}",
        *(f"| {' | '.join(map(markdown_text, row))} |" for row in rows),
        "",
        "![Scores of each site](scores.png)",
        "",
        *(f"- {markdown_text(one.scorer)}: {one.n:,} examples, {words.seconds(one.seconds)}" for one in scores),
        "",
    ]
    write_text(directory / "scores.md", "\n".join(lines))


def print_scores(scores: Sequence[SiteScores], console: Console | None = None) -> None:
    """Print the scores with their places in the order of removal."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    ranks = [_ranks(one) for one in scores]
    for heading in ("site", *(one.scorer for one in scores)):
        table.add_column(Text(heading.replace("_", " ")))
    for site in scores[0].scores:
        cells = [f"{one.scores[site].value:.3g} ({rank[site]})" for one, rank in zip(scores, ranks, strict=True)]
        table.add_row(str(site), *cells)
    console.print(table, highlight=False)
    console.print(Text("Higher means keep. In brackets: the order of removal, 1 goes first.", style="dim"))


def _panel(axes: Axes, one: SiteScores, sites: Sequence[Site]) -> None:
    for place, site in enumerate(sites):
        score = one.scores[site]
        axes.barh(place, score.value, height=0.66, color=_COLOURS[site.component], alpha=0.85)
        low, high = score.ci95
        if math.isfinite(low) and high > low:
            error = [[max(score.value - low, 0.0)], [max(high - score.value, 0.0)]]
            axes.errorbar(score.value, place, xerr=error, color=INK, elinewidth=1.2, capsize=2, linestyle="")
    axes.set_yticks(range(len(sites)), [words.site_name(site) for site in sites])
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_title(one.scorer.replace("_", " "), fontsize=11, loc="left")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)


def _table(scores: Sequence[SiteScores]) -> tuple[list[str], list[list[str]]]:
    ranks = [_ranks(one) for one in scores]
    rows = []
    for site in scores[0].scores:
        row = [str(site)]
        for one, rank in zip(scores, ranks, strict=True):
            score = one.scores[site]
            low, high = score.ci95
            spread = f" {low:.3g} to {high:.3g} ± {score.spread:.2g}" if high > low else ""
            row.append(f"{score.value:.3g} ({rank[site]}){spread}")
        rows.append(row)
    return ["site", *(one.scorer for one in scores)], rows


def _ranks(one: SiteScores) -> dict[Site, int]:
    return {site: place for place, site in enumerate(one.ranking(), start=1)}
