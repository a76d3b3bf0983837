"""The report's files, each written beside its place and then moved there, so that none is half written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prune_bert.report.model import PruningReport
from prune_bert.report.plots import accuracy_speed_plot, as_png, as_svg, site_costs_plot
from prune_bert.report.records import ReportError
from prune_bert.report.render import to_html, to_markdown
from prune_bert.report.training_plot import training_plot


def write_report(report: PruningReport, directory: Path | str) -> list[Path]:
    """Write ``report.json``, ``.md``, ``.html`` and the plots; return their paths in that order.

    A ``site_costs`` or ``training`` plot of an earlier report is removed where this one has none.

    Raises:
        ReportError: A file cannot be written.
    """
    folder = Path(directory)
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, content in _files(report):
            path = folder / name
            _write(path, content)
            paths.append(path)
        for name in {"site_costs", "training"} - {path.stem for path in paths}:
            for ending in ("png", "svg"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(
            f"cannot write {path}: {error.strerror or error}; free space there or give another --output_dir"
        ) from error
    return paths


def _files(report: PruningReport) -> Iterator[tuple[str, bytes]]:
    """Yield each file's name and content, the data first."""
    yield "report.json", report.to_json().encode()
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


def _write(path: Path, content: bytes) -> None:
    """Write one file through a temporary name in the same folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
