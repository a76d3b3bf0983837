"""Draw the packages of prune_bert and their imports: ``docs/images/architecture.svg`` and a table in a page.

python scripts/draw_architecture.py           # write both
python scripts/draw_architecture.py --check   # exit code 1 where they are out of date

The imports are read from the source with ``ast``, and the levels from the table ``LEVELS`` of ``tests/test_house.py``,
which is also what the tests enforce. Imports that follow from others are left out of the picture.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from layered_drawing import draw
from pages import ROOT, between_markers, write_or_check

PACKAGE = ROOT / "prune_bert"
LEVELS_FILE = ROOT / "tests" / "test_house.py"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
ENTRY_POINTS = ("__init__", "__main__")

Graph = Mapping[str, frozenset[str]]


def main() -> int:
    """Write the picture and the table, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")
    arguments = parser.parse_args()
    return write_or_check(documents(), "scripts/draw_architecture.py", check=arguments.check)


def documents() -> dict[Path, str]:
    """Return the complete text of each file that this script writes."""
    levels, imports = read_levels(), read_imports()
    shown = {name: level for name, level in levels.items() if name in imports and name not in ENTRY_POINTS}
    graph = {name: imports[name] & shown.keys() for name in shown}
    # A package that everything may import would be a fan of arrows: it is drawn without any.
    grounds = {name for name in shown if shown[name] == min(shown.values())}
    above = {name: used - grounds for name, used in graph.items()}
    picture = draw({shown[name]: sorted(n for n in shown if shown[n] == shown[name]) for name in shown}, reduced(above))
    page = between_markers(PAGE.read_text(encoding="utf-8"), "packages", _table(shown, graph))
    return {PICTURE: picture, PAGE: page}


def read_levels() -> dict[str, int]:
    """Read the level of each package from the table that the tests enforce."""
    for node in ast.parse(LEVELS_FILE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["LEVELS"]:
            levels: dict[str, int] = ast.literal_eval(node.value)
            return levels
    raise SystemExit(f"{LEVELS_FILE} has no table LEVELS")


def read_imports() -> dict[str, frozenset[str]]:
    """Return, for each package or module at the top of ``prune_bert``, those that it imports anywhere."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(name, set()).update(_imported(path))
    return {name: frozenset(used & found.keys()) - {name} for name, used in found.items()}


def reduced(graph: Graph) -> dict[str, list[str]]:
    """Leave out each edge that a longer path implies."""
    return {
        name: sorted(target for target in used if not any(target in reachable(graph, via) for via in used - {target}))
        for name, used in graph.items()
    }


def reachable(graph: Graph, start: str) -> set[str]:
    """Return all that can be reached from a node, without the node itself."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def summary(name: str) -> str:
    """Return the first sentence of a package's docstring."""
    path = PACKAGE / name / "__init__.py" if (PACKAGE / name).is_dir() else PACKAGE / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|").replace("``", "`")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "prune_bert":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _second_part(node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _second_part(alias.name)


def _second_part(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (second for first, second in list(pairwise(parts))[:1] if first == "prune_bert")


def _table(levels: Mapping[str, int], graph: Graph) -> str:
    rows = ["| level | package | what it holds | imports |", "|---|---|---|---|"]
    for name in sorted(levels, key=lambda name: (-levels[name], name)):
        used = ", ".join(f"`{other}`" for other in sorted(graph[name])) or "nothing"
        rows.append(f"| {levels[name]} | `{name}` | {summary(name)} | {used} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
