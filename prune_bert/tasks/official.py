"""GLUE's own files: the official TSV layout of the nine tasks, and MRPC's two original files.

The layout is that of the folders which gluebenchmark.com hands out: tab-separated, no quoting (a quotation
mark is a character of the sentence), most with a header line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prune_bert.tasks.columns import Table, require_columns, table_from_rows
from prune_bert.tasks.table import TaskError, TaskSpec

_USUAL = {"train": "train.tsv", "validation": "dev.tsv"}
_MNLI = {"train": "train.tsv", "validation": "dev_matched.tsv", "validation_mismatched": "dev_mismatched.tsv"}
_MRPC_ORIGINAL = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
_MRPC_IDS = ("#1 ID", "#2 ID")


@dataclass(frozen=True)
class Layout:
    """How one task's folder looks.

    Attributes:
        folder: Its name within the GLUE folder.
        columns: The file's column names by ours, where they differ.
        header: The columns of a file that has no header line.
        files: File names by split.
        broken_lines: Whether the official file itself has broken lines, to be left out.
        no_label: A label that the file writes where annotators did not agree; such rows are left out.
    """

    folder: str
    columns: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=lambda: _USUAL)
    broken_lines: bool = False
    no_label: str | None = None


LAYOUTS: Mapping[str, Layout] = {
    "cola": Layout("CoLA", header=("source", "label", "original_judgement", "sentence")),
    "sst2": Layout("SST-2"),
    "mrpc": Layout("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    "stsb": Layout("STS-B", {"label": "score"}),
    "qqp": Layout("QQP", {"label": "is_duplicate"}, broken_lines=True),  # a few questions hold line breaks
    "mnli": Layout(
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        files=_MNLI,
        no_label="-",
    ),
    "qnli": Layout("QNLI"),
    "rte": Layout("RTE"),
    "wnli": Layout("WNLI"),
    "reviews": Layout("reviews"),
}


def find_folder(spec: TaskSpec, data_dir: Path) -> Path | None:
    """Find a task's folder, within a GLUE folder or the folder itself; None where no file is there."""
    layout = LAYOUTS[spec.name]
    names = {*layout.files.values(), *(_MRPC_ORIGINAL.values() if spec.name == "mrpc" else ())}
    for folder in (data_dir / layout.folder, data_dir / spec.name, data_dir):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def expected_files(spec: TaskSpec) -> str:
    """Say which files `find_folder` looks for."""
    layout = LAYOUTS[spec.name]
    names = " or ".join(layout.files.values())
    return f"{names}, in it or in its folder {layout.folder}"


def read_official(spec: TaskSpec, split: str, folder: Path) -> Table:
    """Read one split of a task's folder, with columns named as in the task table.

    Raises:
        TaskError: The split's file is missing or malformed.
    """
    layout = LAYOUTS[spec.name]
    table = _read_mrpc(folder, split) if spec.name == "mrpc" else _read_split(layout, folder, split)
    theirs = {name: layout.columns.get(name, name) for name in (*spec.text_columns, spec.label_column)}
    require_columns(table, tuple(theirs.values()))
    columns = {ours: list(table.columns[name]) for ours, name in theirs.items()}
    source = table.source
    if layout.no_label is not None:
        keep = [label != layout.no_label for label in columns["label"]]
        if not all(keep):
            source += f" ({keep.count(False)} rows without a gold label left out)"
        columns = {
            name: [value for value, kept in zip(column, keep, strict=True) if kept] for name, column in columns.items()
        }
    return Table(columns, source)


def _read_split(layout: Layout, folder: Path, split: str) -> Table:
    """Read the file of a split, which must be there."""
    path = folder / layout.files[split]
    if not path.is_file():
        there = ", ".join(sorted(other.name for other in folder.iterdir())[:12])
        raise TaskError(f"no {split} split: {path} does not exist; the folder holds {there}")
    return read_tsv(path, layout.header, layout.broken_lines)


def read_tsv(path: Path, header: tuple[str, ...] = (), broken_lines: bool = False) -> Table:
    """Read a tab-separated file without quoting.

    Only a line feed ends a line (a carriage return before it goes too), since sentences may hold other line
    separators of Unicode. Blank lines do not count.

    Args:
        path: The file, UTF-8 with or without a byte-order mark.
        header: The columns, where the file has no header line.
        broken_lines: Leave lines with a wrong number of fields out, and say so in the source.

    Raises:
        TaskError: The file cannot be read, or a line has a wrong number of fields.
    """
    rows: list[list[str]] = []
    broken = 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line:
            continue
        fields = line.split("\t")
        if not header:
            header = tuple(fields)
        elif len(fields) == len(header):
            rows.append(fields)
        elif broken_lines:
            broken += 1
        else:
            raise TaskError(
                f"{path}:{number}: {len(fields)} tab-separated fields where {len(header)} were expected "
                f"({', '.join(header)})"
            )
    if broken > 0.01 * len(rows):
        raise TaskError(f"{path}: {broken} of {broken + len(rows)} lines do not have the header's {len(header)} fields")
    return table_from_rows(header, rows, f"{path} ({broken} broken lines left out)" if broken else str(path))


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark, line ends as they are.

    Raises:
        TaskError: It does not exist, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from error


def _read_mrpc(folder: Path, split: str) -> Table:
    """Read MRPC from `train.tsv` and `dev.tsv`, or from the original files.

    GLUE's validation rows are those of the original training file whose ids `dev_ids.tsv` lists; they are
    never among the training rows. Without that list and without `dev.tsv` the original test file, which has
    labels, serves as validation.
    """
    path = folder / _USUAL[split]
    if path.is_file():
        return read_tsv(path)
    train, test = (folder / name for name in _MRPC_ORIGINAL.values())
    held_out, where = _mrpc_held_out(folder)
    if split == "train" and train.is_file():
        return _rows_where(read_tsv(train), lambda ids: ids not in held_out, f" without the rows of {where}")
    if split == "validation" and held_out and train.is_file():
        return _rows_where(read_tsv(train), lambda ids: ids in held_out, f", the rows of {where}")
    if split == "validation" and test.is_file():
        table = read_tsv(test)
        return Table(table.columns, f"{test} (the original test file, as there is no dev.tsv or dev_ids.tsv)")
    raise TaskError(f"no {split} split of MRPC in {folder}: looked for {path.name}, {train.name} and {test.name}")


def _mrpc_held_out(folder: Path) -> tuple[set[tuple[str, ...]], str]:
    """Return the pairs of ids of GLUE's validation split, where the folder tells, and which file told."""
    ids, dev = folder / "dev_ids.tsv", folder / "dev.tsv"
    if ids.is_file():
        lines = read_text(ids).splitlines()
        return {tuple(line.strip().split("\t")) for line in lines if line.strip()}, ids.name
    if dev.is_file():
        table = read_tsv(dev)
        require_columns(table, _MRPC_IDS)
        return set(zip(*(table.columns[name] for name in _MRPC_IDS), strict=True)), dev.name
    return set(), ""


def _rows_where(table: Table, wanted: Callable[[tuple[str, ...]], bool], what: str) -> Table:
    """Keep the rows whose two ids are wanted; the source says what was kept, where rows were left out."""
    require_columns(table, _MRPC_IDS)
    keep = [wanted(ids) for ids in zip(*(table.columns[name] for name in _MRPC_IDS), strict=True)]
    if all(keep):
        return table
    columns = {
        name: [value for value, kept in zip(column, keep, strict=True) if kept]
        for name, column in table.columns.items()
    }
    return Table(columns, f"{table.source}{what}")
