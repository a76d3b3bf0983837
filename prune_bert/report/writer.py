"""The report's files, each written beside its place and then moved there, so that none is half written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prune_bert.plain import plain_values
from prune_bert.report.model import PruningReport
from prune_bert.report.plots import accuracy_speed_plot, as_png, as_svg, site_costs_plot
from prune_bert.report.records import ReportError
from prune_bert.report.render import to_html, to_markdown
from prune_bert.report.training_plot import training_plot
from prune_bert.storage.files import make_parents, remove_file, write_bytes

FILES = (
    *("report.json", "report.md", "report.html"),
    *(f"{name}.{ending}" for name in ("accuracy_speed", "site_costs", "training") for ending in ("png", "svg")),
)
"""The names of all files that a report may have."""


def write_report(report: PruningReport, directory: Path | str) -> list[Path]:
    """Write ``report.json``, ``.md``, ``.html`` and the plots; return their paths in that order.

    A ``site_costs`` or ``training`` plot of an earlier report is removed where this one has none.

    Raises:
        ReportError: A file cannot be written.
    """
    folder = Path(directory)
    path = folder
    try:
        make_parents(folder / "report.json")
        paths = []
        for name, content in _files(report):
            path = folder / name
            write_bytes(path, content)
            paths.append(path)
        for name in {"site_costs", "training"} - {path.stem for path in paths}:
            for ending in ("png", "svg"):
                remove_file(folder / f"{name}.{ending}")
    except OSError as error:
        raise ReportError(
            f"cannot write {path}: {error.strerror or error}; free space there or give another --output_dir"
        ) from error
    return paths


def _files(report: PruningReport) -> Iterator[tuple[str, bytes]]:
    """Yield each file's name and content, the data first."""
    yield "report.json", report.to_json().encode()
    report = plain_values(report)
    yield "report.md", to_markdown(report).encode()
    yield "report.html", to_html(report).encode()
    for name, figure in (
        ("accuracy_speed", accuracy_speed_plot(report)),
        ("site_costs", site_costs_plot(report)),
        ("training", training_plot(report)),
    ):
        if figure is not None:
            yield f"{name}.png", as_png(figure)
            yield f"{name}.svg", as_svg(figure).encode()
