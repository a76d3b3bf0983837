"""How results show themselves: a few lines of text for ``repr``, a small table for notebooks.

A class derives from `Displayed` and says in `_shown` what a person wants to know of it. The plan and the search, which
import nothing of the package, call `text_of` and `html_of` when they are first shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

MISSING = "n/a"
TEXT_ROWS, HTML_ROWS = 16, 100
"""Rows shown of a longer table; the last line then says how many more there are."""
LONGEST_TEXT = 160
"""Characters shown of one value."""


@dataclass(frozen=True)
class Shown:
    """What is shown of an object.

    Attributes:
        title: What it is the result of.
        facts: Names and values, which belong to the whole of it.
        headings: The columns of its table, if it has one.
        rows: The rows of that table, with a cell for each heading.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def as_text(self, name: str) -> str:
        """Write it as a line with the facts and, indented, a line for each row; at most 20 lines."""
        head = ", ".join([one_line(self.title), *(f"{key} {one_line(value)}" for key, value in self.facts if value)])
        rows, more = _first(self.rows, TEXT_ROWS)
        cells = [[one_line(cell) for cell in row] for row in (self.headings, *rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([f"{name}({head.removeprefix(', ')})", *lines, *([f"  {more}"] if more else [])])

    def as_html(self, name: str) -> str:
        """Write it as an HTML table with a caption; every value is escaped."""
        rows, more = _first(self.rows, HTML_ROWS)
        width = max(2, len(self.headings))
        body = [_row("th", [key], "td", [value], span=width - 1) for key, value in self.facts if value]
        body += [_row("th", self.headings)] if rows else []
        body += [_row("td", row) for row in rows]
        body += [f'<tr><td colspan="{width}">{escape(more)}</td></tr>'] if more else []
        caption = escape(name) + (f": {_cell(self.title)}" if self.title else "")
        return f"<table><caption>{caption}</caption><tbody>{''.join(body)}</tbody></table>"


class Displayed:
    """An object with a readable ``repr`` and, in notebooks, an HTML table; neither of them ever raises."""

    def _shown(self) -> Shown:
        """Return what is shown of the object."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return text_of(self)

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        return html_of(self)


class HasShown(Protocol):
    """An object that says what is shown of it."""

    def _shown(self) -> Shown: ...


def text_of(value: HasShown) -> str:
    """Return the ``repr`` of an object that says what is shown of it; this never raises."""
    try:
        return value._shown().as_text(type(value).__name__)
    except Exception:  # a debugger may ask for the repr of an object that is half built
        return object.__repr__(value)


def html_of(value: HasShown) -> str:
    """Return the HTML table of an object that says what is shown of it; this never raises."""
    try:
        return value._shown().as_html(type(value).__name__)
    except Exception:
        return f"<code>{escape(object.__repr__(value))}</code>"


def one_line(text: object) -> str:
    """Return a value as text on one line, shortened where it is long."""
    words = " ".join(str(text).split())
    return words if len(words) <= LONGEST_TEXT else f"{words[: LONGEST_TEXT - 3]}..."


def points(value: float | None, *, sign: bool = False) -> str:
    """Write a metric or a difference of two times 100, with one decimal."""
    if value is None or not math.isfinite(value):
        return MISSING
    rounded = round(100 * value, 1) or 0.0
    return f"{rounded:+.1f}" if sign and rounded else f"{rounded:.1f}"


def interval(bounds: Sequence[float | None] | None, *, sign: bool = False) -> str:
    """Write a 95 % interval of a metric or a difference, times 100; nothing where there is none."""
    if not bounds or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return ""
    return " to ".join(points(bound, sign=sign) for bound in bounds)


def number(value: float | None) -> str:
    """Write a number with four significant digits."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.4g}"


def _first(rows: Sequence[Sequence[str]], most: int) -> tuple[Sequence[Sequence[str]], str]:
    """Return the first rows, and a note on how many were left out."""
    left_out = len(rows) - most
    return rows[:most], f"... and {left_out} more" if left_out > 0 else ""


def _row(tag: str, cells: Sequence[str], other: str = "td", others: Sequence[str] = (), *, span: int = 1) -> str:
    wide = f' colspan="{span}"' if span > 1 else ""
    written = [f"<{tag}>{_cell(cell)}</{tag}>" for cell in cells]
    written += [f"<{other}{wide}>{_cell(cell)}</{other}>" for cell in others]
    return f"<tr>{''.join(written)}</tr>"


def _cell(text: str) -> str:
    return escape(one_line(text))
