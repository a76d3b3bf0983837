"""Tables of the user's own: CSV, TSV, JSON lines and Parquet files, and folders saved by `datasets`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from prune_bert.tasks.columns import Table, table_from_rows
from prune_bert.tasks.official import read_text, read_tsv
from prune_bert.tasks.table import TaskError, nearest

_MOST_OF_ANOTHERS = 150  # characters of another library's message
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "validation_matched", "dev", "valid"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}
"""What a saved folder may call each split."""


def read_file(path: Path) -> Table:
    """Read a table; the extension says what it is.

    A `.tsv` file has no quoting, like GLUE's; a `.csv` file may quote fields, and quoted fields may hold line
    breaks; a `.json` file holds JSON lines or one list of objects.

    Raises:
        TaskError: The file is missing, malformed, or of a kind that is not known.
    """
    readers = {
        ".csv": _read_csv,
        ".tsv": read_tsv,
        ".jsonl": _read_json,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a folder, not a file" if path.is_dir() else f"does not exist{nearest(path.name, beside)}"
        raise TaskError(f"{path} {what}; a file is expected ({', '.join(readers)}), for a folder use data_dir")
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        raise TaskError(
            f"{path}: cannot tell what a {path.suffix or 'nameless'!r} file is; known are {', '.join(readers)}"
        )
    return reader(path)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_saved(folder: Path, split: str) -> Table:
    """Read a split of a folder that `save_to_disk` of `datasets` wrote.

    A single dataset stands for the split that it remembers to be, and for validation where it remembers none.

    Raises:
        TaskError: The folder cannot be read or lacks the split.
    """
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets lets through whatever arrow, json and the file system raise
        raise TaskError(f"cannot read the saved dataset {folder}: {first_line(error)}") from error
    if isinstance(saved, datasets.Dataset):
        name = str(saved.split or "validation")
        splits = {name: saved}
    else:
        splits = dict(saved)
    for name in SPLIT_NAMES[split]:
        if name in splits:
            return from_dataset(splits[name], f"{folder} ({name})")
    raise TaskError(f"{folder} has no {split} split; it holds {', '.join(splits)}")


def from_dataset(dataset: datasets.Dataset, source: str) -> Table:
    """Take a dataset's plain columns; a `ClassLabel` gives its names, and null where the id is -1.

    Raises:
        TaskError: An id has no name.
    """
    plain = {
        name: feature
        for name, feature in dataset.features.items()
        if isinstance(feature, datasets.Value | datasets.ClassLabel)
    }
    columns: dict[str, Any] = {name: dataset.with_format(None)[name][:] for name in plain}
    class_names = {
        name: tuple(feature.names) for name, feature in plain.items() if isinstance(feature, datasets.ClassLabel)
    }
    for name, names in class_names.items():
        outside = [i for i in columns[name] if i is not None and i >= len(names)]
        if outside:
            raise TaskError(
                f"{source}: column {name!r} has the id {outside[0]} and names for {len(names)} classes only"
            )
        columns[name] = [None if i is None or i < 0 else names[i] for i in columns[name]]
    return Table(columns, source, class_names)


def first_line(error: BaseException) -> str:
    """Shorten another library's error to its kind and its first line."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:_MOST_OF_ANOTHERS]}" if text else type(error).__name__


def _read_csv(path: Path) -> Table:
    """Read a comma-separated file with a header, quoted as RFC 4180 has it."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[list[str]] = []
    header: list[str] = []
    try:
        for fields in reader:
            if not header:
                header = fields
            elif len(fields) == len(header):
                rows.append(fields)
            elif fields:
                raise TaskError(
                    f"{path}:{reader.line_num}: {len(fields)} fields where {len(header)} were expected "
                    f"({', '.join(header)}); quote fields that hold commas"
                )
    except csv.Error as error:
        raise TaskError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    return table_from_rows(header, rows, str(path))


def _read_json(path: Path) -> Table:
    """Read one JSON object a line, or one list of objects; a key that a row lacks is null there."""
    text = read_text(path)
    rows: list[Any] = []
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
        except (RecursionError, ValueError) as error:
            raise TaskError(f"{path}: cannot read this JSON: {_too_much(error)}") from error
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise TaskError(f"{path}:{number}: not a JSON object on one line: {error.msg}") from error
            except (RecursionError, ValueError) as error:
                raise TaskError(f"{path}:{number}: cannot read this JSON: {_too_much(error)}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise TaskError(f"{path}: row {number} is a JSON {type(row).__name__}, not an object of column names")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in names}, str(path))


def _too_much(error: BaseException) -> str:
    """Say what JSON holds that Python refuses: it is nested without end, or a number has thousands of digits."""
    return "its values are nested too deeply" if isinstance(error, RecursionError) else first_line(error)


def _read_parquet(path: Path) -> Table:
    """Read a Parquet file, with the class names that `datasets` leaves in its metadata."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read {path} as Parquet: {first_line(error)}") from error
    for i, field in enumerate(table.schema):
        if pyarrow.types.is_dictionary(field.type):  # a category of pandas
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    try:
        return from_dataset(datasets.Dataset(table), str(path))
    except TaskError:
        raise
    except Exception as error:  # whatever datasets makes of the metadata that it once wrote there, or somebody else
        raise TaskError(f"cannot read the metadata of {path}: {first_line(error)}; write the file anew") from error
