"""The report in a terminal: what it says in a few lines, and the table of accuracy against speed."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prune_bert.plain import plain_values
from prune_bert.report import words
from prune_bert.report.model import PruningReport
from prune_bert.report.summary import sentences
from prune_bert.report.tables import Cell, Table, accuracy_and_speed, compensated_sites

FIRST_COLUMN, OTHER_COLUMNS = 14, 15
"""Characters that a column takes at least."""
SITES_COLUMNS = ("site", "form", "rank", "error", "parameters", "latency")
VERDICT_STYLES = {
    "faster": "green",
    "slower": "red",
    "a measurable loss": "red",
    "a measurable gain": "green",
}


def print_table(report: PruningReport, console: Console | None = None) -> None:
    """Print the sentences and the table of accuracy against speed, on stdout by default."""
    console, report = console or Console(), plain_values(report)
    name, task = words.short_name(report.model.name_or_path), report.task
    console.print(Text(" ".join(sentences(report))), highlight=False)
    console.print()
    console.print(Text(f"{name} on {task.name} {task.split}, {task.n:,} examples", style="bold"), highlight=False)
    data = accuracy_and_speed(report)
    shown = max(2, 1 + (console.width - FIRST_COLUMN) // OTHER_COLUMNS)
    console.print(_table(data, shown), highlight=False)
    console.print(Text(_footnote(report, data.headings[shown:]), style="dim"), highlight=False)
    sites = compensated_sites(report)
    if sites is not None:
        console.print()
        console.print(_sites_table(sites), highlight=False)


def _table(data: Table, shown: int) -> RichTable:
    """Lay the main table's first columns out: figures first, intervals and verdicts below them."""
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, heading in enumerate(data.headings[:shown]):
        table.add_column(Text(heading.replace(", ", "\n")), no_wrap=index == 0, min_width=12 if index else None)
    for row in data.rows:
        table.add_row(*map(_cell, row[:shown]))
    return table


def _sites_table(data: Table) -> RichTable:
    """Lay out what stands in the place of each compensated site, in the columns that there is room for."""
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown = [index for index, heading in enumerate(data.headings) if heading in SITES_COLUMNS]
    for index in shown:
        table.add_column(Text(data.headings[index]), no_wrap=index == 0)
    for row in data.rows:
        table.add_row(*(_cell(row[index]) for index in shown))
    return table


def _footnote(report: PruningReport, left_out: Sequence[str]) -> str:
    """Say what the ranges are, and which columns there was no room for."""
    speed = "; speed is in times the baseline's" if report.final.latency else ""
    more = f" No room for: {'; '.join(left_out)}." if left_out else ""
    return f"Ranges are 95 % intervals{speed}.{more}"


def _cell(cell: Cell) -> Text:
    """Write a cell with its interval on a line of its own, so that the table stays narrow."""
    text, *below = [part for line in (cell.text, *cell.below) for part in _split(line)]
    written = Text(text, style="bold")
    for line in below:
        written.append("\n").append(line, style=VERDICT_STYLES.get(line, "dim"))
    return written


def _split(line: str) -> list[str]:
    """Take a figure and its interval apart: ``89.3 (87.2 to 91.2)``."""
    figure, _, interval = line.removesuffix(")").partition(" (")
    return [figure, interval] if interval else [line]
