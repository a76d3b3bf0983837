"""A graph in levels as an SVG: boxes in rows, and curves that go down from row to row.

The order within a row is found by barycentres (Sugiyama, Tagawa and Toda 1981): an edge over several rows passes an
invisible point in each row between, a row is sorted by the mean place of its neighbours, and of several sweeps up and
down the one with the fewest crossings is kept. Nothing here is random: one graph always gives one picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations, pairwise
from statistics import fmean
from typing import NamedTuple

BOX_WIDTH, BOX_HEIGHT = 106, 32
POINT_WIDTH = 14
GAP, ROW_HEIGHT = 14, 80
MARGIN, LABEL_WIDTH = 20, 30
SWEEPS = 24

STYLE = """
  .card { fill: #ffffff }
  .row { fill: #f4f6fb }
  .box { fill: #e3e9f8; stroke: #3f51b5; stroke-width: 1.2 }
  .edge { fill: none; stroke: #7c86a8; stroke-width: 1.2 }
  .head { fill: #7c86a8 }
  text { font: 13px system-ui, sans-serif; fill: #1d2440; text-anchor: middle; dominant-baseline: central }
  .level { fill: #6b7390; font-size: 12px }
"""


class Node(NamedTuple):
    """A box, or the point where a long edge passes a row."""

    row: int
    name: str
    is_box: bool = True

    @property
    def width(self) -> int:
        """The room that it takes in its row."""
        return BOX_WIDTH if self.is_box else POINT_WIDTH


Rows = list[list[Node]]
Links = dict[Node, list[Node]]


def draw(levels: Mapping[int, Sequence[str]], edges: Mapping[str, Sequence[str]]) -> str:
    """Return the SVG of a graph.

    Args:
        levels: The names on each level; the highest level is drawn at the top.
        edges: For each name the names that it points to, all on lower levels.
    """
    order = sorted(levels, reverse=True)
    row_of = {name: row for row, level in enumerate(order) for name in levels[level]}
    rows: Rows = [[Node(row, name) for name in sorted(levels[level])] for row, level in enumerate(order)]
    chains = [_chain(row_of, source, target, rows) for source in sorted(edges) for target in edges[source]]
    down, up = _links(chains)
    rows = _sorted_rows(rows, down, up)
    return _svg(rows, order, chains, _places(rows, down, up))


def _chain(row_of: Mapping[str, int], source: str, target: str, rows: Rows) -> list[Node]:
    """Return an edge's nodes from row to row; the points between are added to their rows."""
    points = [Node(row, f"{source}-{target}", is_box=False) for row in range(row_of[source] + 1, row_of[target])]
    for point in points:
        rows[point.row].append(point)
    return [Node(row_of[source], source), *points, Node(row_of[target], target)]


def _links(chains: Sequence[Sequence[Node]]) -> tuple[Links, Links]:
    down: Links = {}
    up: Links = {}
    for chain in chains:
        for above, below in pairwise(chain):
            down.setdefault(above, []).append(below)
            up.setdefault(below, []).append(above)
    return down, up


def _sorted_rows(rows: Rows, down: Links, up: Links) -> Rows:
    best = rows = [list(row) for row in rows]
    for sweep in range(SWEEPS):
        places = {node: float(index) for row in rows for index, node in enumerate(row)}
        neighbours = up if sweep % 2 == 0 else down
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = {node: fmean(places[n] for n in neighbours.get(node, [node])) for node in row}
            row.sort(key=lambda node: (wanted[node], node.name))
            places |= {node: float(index) for index, node in enumerate(row)}
        if _crossings(rows, down) < _crossings(best, down):
            best = [list(row) for row in rows]
    return best


def _crossings(rows: Rows, down: Links) -> int:
    place = {node: index for row in rows for index, node in enumerate(row)}
    lines = [[(place[node], place[below]) for node in row for below in down.get(node, ())] for row in rows]
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for row in lines for a, b in combinations(row, 2))


def _places(rows: Rows, down: Links, up: Links) -> dict[Node, float]:
    """Return the middle of each node: near its neighbours, without overlap, in the order of its row."""
    places = {node: sum(n.width + GAP for n in row[:index]) + node.width / 2
              for row in rows for index, node in enumerate(row)}  # fmt: skip
    for _ in range(SWEEPS):
        for row in rows:
            wanted = [fmean([places[n] for n in up.get(node, []) + down.get(node, [])] or [places[node]])
                      for node in row]  # fmt: skip
            places |= dict(zip(row, _apart(row, wanted), strict=True))
    linked = down.keys() | up.keys()
    edges = [place for node, place in places.items() if node in linked] or list(places.values())
    for row in rows:
        if not linked & set(row):  # nothing draws it to a side, so it stands in the middle
            shift = (min(edges) + max(edges)) / 2 - fmean(places[node] for node in row)
            places |= {node: places[node] + shift for node in row}
    left = min(places[node] - node.width / 2 for node in places)
    return {node: place - left + MARGIN + LABEL_WIDTH for node, place in places.items()}


def _apart(row: Sequence[Node], wanted: Sequence[float]) -> list[float]:
    """Push places apart: the mean of a pass to the right and one to the left, which both keep the distance."""
    distance = [(a.width + b.width) / 2 + GAP for a, b in pairwise(row)]
    right, left = list(wanted), list(wanted)
    for index, least in enumerate(distance):
        right[index + 1] = max(right[index + 1], right[index] + least)
    for index, least in reversed(list(enumerate(distance))):
        left[index] = min(left[index], left[index + 1] - least)
    return [fmean(pair) for pair in zip(right, left, strict=True)]


def _svg(rows: Rows, levels: Sequence[int], chains: Sequence[Sequence[Node]], places: Mapping[Node, float]) -> str:
    width = round(max(places[node] + node.width / 2 for node in places) + MARGIN)
    height = len(rows) * ROW_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="card" width="{width}" height="{height}" rx="8"/>',
    ]
    for row, level in enumerate(levels):
        top = _middle(row) - BOX_HEIGHT / 2 - 10
        parts.append(f'<rect class="row" x="8" y="{top:.0f}" width="{width - 16}" height="{BOX_HEIGHT + 20}" rx="6"/>')
        parts.append(f'<text class="level" x="{MARGIN + 4}" y="{_middle(row):.0f}">{level}</text>')
    parts += [f'<path class="edge" marker-end="url(#head)" d="{_curve(chain, places)}"/>' for chain in chains]
    for node in (node for row in rows for node in row if node.is_box):
        x, y = places[node] - BOX_WIDTH / 2, _middle(node.row) - BOX_HEIGHT / 2
        parts.append(f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>')
        parts.append(f'<text x="{places[node]:.0f}" y="{_middle(node.row):.0f}">{escape(node.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _middle(row: int) -> float:
    return MARGIN / 2 + (row + 0.5) * ROW_HEIGHT


def _curve(chain: Sequence[Node], places: Mapping[Node, float]) -> str:
    """Return the path of an edge: a curve from row to row, and a straight line through each row between."""
    y = _middle(chain[0].row) + BOX_HEIGHT / 2
    text = f"M{places[chain[0]]:.0f} {y:.0f}"
    for before, node in pairwise(chain):
        end, x = _middle(node.row) - BOX_HEIGHT / 2, places[node]
        bend = (y + end) / 2
        text += f" C{places[before]:.0f} {bend:.0f} {x:.0f} {bend:.0f} {x:.0f} {end:.0f}"
        if not node.is_box:
            y = end + BOX_HEIGHT
            text += f" L{x:.0f} {y:.0f}"
    return text
