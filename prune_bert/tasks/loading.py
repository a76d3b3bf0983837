"""`load_task`: the splits of a task, from wherever they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from os import PathLike
from pathlib import Path

from prune_bert.tasks.columns import (
    Table,
    TaskData,
    guess_columns,
    label_values,
    require_columns,
    to_task_data,
)
from prune_bert.tasks.files import is_saved, read_file, read_saved
from prune_bert.tasks.hub import read_hub
from prune_bert.tasks.labels import infer_labels, normal
from prune_bert.tasks.official import LAYOUTS, expected_files, find_folder, read_official
from prune_bert.tasks.table import TaskError, TaskSpec, find_task, nearest
from prune_bert.text_files import expanded

FileName = str | PathLike[str]
Reader = Callable[[str], Table]

PLACEHOLDER_COLUMN = "label of no column"


def load_task(
    task_name: str | None = None,
    *,
    data_dir: FileName | None = None,
    train_file: FileName | None = None,
    validation_file: FileName | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    splits: Sequence[str] = ("validation",),
    max_samples: Mapping[str, int] | None = None,
    labels: Sequence[str] | None = None,
    revision: str | None = None,
    unlabelled: bool = False,
) -> dict[str, TaskData]:
    """Load splits, by name, of a task of the table or of a task of the user's own.

    The data come from `data_dir` (GLUE's official files, or a folder saved by `datasets`), or from the files named;
    else `reviews` is in the package and GLUE on the hub. Class names of the user's own data are inferred over the
    splits loaded together (see `infer_labels`), so load training and validation data in one call.

    Args:
        task_name: A name of the task table; none for a task of the user's own.
        data_dir: A folder.
        train_file: A CSV, TSV, JSON lines or Parquet file.
        validation_file: Another.
        text_columns: The one or two columns of text, where they are not the table's.
        label_column: The label's column, where it is not the table's.
        splits: The splits wanted.
        max_samples: At most how many rows of a split to keep, evenly spaced.
        labels: Class names in the order of their ids, or other names for the same ids. Empty for a regression.
        revision: The revision of the hub's data set.
        unlabelled: The user's own data have no label column: every row gets the first of `labels`, as a placeholder.

    Raises:
        TaskError: Something is missing, misspelt, malformed or contradictory.

    Examples:
        >>> reviews = load_task("reviews", splits=["train", "validation"], max_samples={"train": 100})
        >>> score = evaluate(model, reviews["validation"], tokenizer)
    """
    spec, samples = None if task_name is None else find_task(task_name), dict(max_samples or {})
    _check_request(spec, splits, samples, text_columns)
    read = _choose_reader(spec, data_dir, {"train": train_file, "validation": validation_file}, revision)
    tables = {split: read(split) for split in splits}
    if unlabelled:
        tables, label_column = with_placeholder(tables, (labels or ("0",))[0]), PLACEHOLDER_COLUMN
    name = Path(data_dir or validation_file or train_file or "").absolute().stem
    chosen, names = _chosen_spec(spec, name, tables, text_columns, label_column, labels)
    return {split: to_task_data(table, chosen, split, names, samples.get(split)) for split, table in tables.items()}


def _chosen_spec(
    spec: TaskSpec | None,
    name: str,
    tables: Mapping[str, Table],
    text_columns: Sequence[str] | None,
    label_column: str | None,
    labels: Sequence[str] | None,
) -> tuple[TaskSpec, Sequence[str]]:
    """Return the task with the user's columns and labels, and what integers in the label column stand for."""
    if spec is None:
        own = own_spec(name, tables, text_columns, label_column, labels)
        return own, own.labels
    return _override(spec, text_columns, label_column, labels), spec.labels


def with_placeholder(tables: Mapping[str, Table], label: str) -> dict[str, Table]:
    """Add a column of one label to tables without labels, to be replaced by whoever asked for it."""
    rows = {split: len(next(iter(table.columns.values()), ())) for split, table in tables.items()}
    return {
        split: replace(table, columns={**table.columns, PLACEHOLDER_COLUMN: [label] * rows[split]})
        for split, table in tables.items()
    }


def _check_request(
    spec: TaskSpec | None, splits: Sequence[str], samples: Mapping[str, int], text_columns: Sequence[str] | None
) -> None:
    """Refuse what can be refused before anything is read."""
    for split in splits:
        _require_split(spec, split)
    for split, count in samples.items():
        if count < 1:
            raise TaskError(f"max_samples for {split} is {count}; at least 1 is needed")
    if text_columns is not None:
        check_text_columns(spec, text_columns)


def _require_split(spec: TaskSpec | None, split: str) -> None:
    """Refuse a split that the task does not have.

    Raises:
        TaskError: It does not.
    """
    known = ("train", "validation") if spec is None else spec.splits
    if split not in known:
        hint = "; GLUE's test split has no labels" if split == "test" else nearest(split, known)
        owner = "your own data" if spec is None else spec.name
        raise TaskError(f"no split {split!r} in {owner}{hint}; the splits are {', '.join(known)}")


def check_text_columns(spec: TaskSpec | None, names: Sequence[str]) -> None:
    """Refuse a wrong number of text columns, and names that would collide with ours.

    Raises:
        TaskError: One or two are expected, as many as the task's.
    """
    expected = "one or two" if spec is None else str(len(spec.text_columns))
    if not (len(names) in (1, 2) if spec is None else len(names) == len(spec.text_columns)):
        raise TaskError(f"{len(names)} text_columns given ({', '.join(names)}); expected {expected}")
    taken = [name for name in names if name in ("label", "idx")]
    if taken:
        raise TaskError(f"a text column cannot be called {taken[0]!r}, which is prune_bert's own; rename it")


def _choose_reader(
    spec: TaskSpec | None,
    data_dir: FileName | None,
    named_files: Mapping[str, FileName | None],
    revision: str | None,
) -> Reader:
    """Decide where the splits come from.

    Raises:
        TaskError: Nothing, or two things at once, say where.
    """
    paths = {split: expanded(path) for split, path in named_files.items() if path is not None}
    if data_dir is not None and paths:
        given = " and ".join(f"{split}_file {path}" for split, path in paths.items())
        raise TaskError(f"both data_dir {data_dir} and {given} are given; keep one of the two")
    if paths:
        return lambda split: _read_named(paths, split)
    if data_dir is not None:
        return _folder_reader(spec, expanded(data_dir))
    if spec is None:
        raise TaskError("no task: give task_name (such as sst2), or validation_file with text_columns and label_column")
    if spec.name == "reviews":
        return lambda split: _read_embedded(spec, split)
    return lambda split: read_hub(spec, split, revision)


def _read_named(paths: Mapping[str, Path], split: str) -> Table:
    """Read the file that was named for a split.

    Raises:
        TaskError: None was.
    """
    if split not in paths:
        given = ", ".join(f"{name}_file {path}" for name, path in paths.items())
        raise TaskError(f"the {split} split is needed, but only {given} was given; pass {split}_file too")
    return read_file(paths[split])


def _folder_reader(spec: TaskSpec | None, folder: Path) -> Reader:
    """Find out what kind of folder the user's is.

    Raises:
        TaskError: It does not exist, or holds nothing of the task.
    """
    if not folder.is_dir():
        what = "is a file; pass it as validation_file" if folder.exists() else "does not exist"
        raise TaskError(f"data_dir {folder} {what}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise TaskError(f"data_dir {folder} may not be read; change its permissions")
    inner = () if spec is None else (folder / LAYOUTS[spec.name].folder, folder / spec.name)
    saved = next((path for path in (*inner, folder) if is_saved(path)), None)
    if saved is not None:
        return lambda split: read_saved(saved, split)
    if spec is None:
        raise TaskError(f"data_dir {folder} was not saved by datasets (save_to_disk); for GLUE's files give task_name")
    official = find_folder(spec, folder)
    if official is None:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise TaskError(f"no {spec.name} data in {folder}: looked for {expected_files(spec)}; it holds {there}")
    return lambda split: read_official(spec, split, official)


def _read_embedded(spec: TaskSpec, split: str) -> Table:
    """Read the reviews that come with the package."""
    table = read_official(spec, split, Path(str(files("prune_bert").joinpath("embedded", spec.name))))
    return replace(table, source=f"embedded {spec.name} ({Path(table.source).name})")


def _override(
    spec: TaskSpec, text_columns: Sequence[str] | None, label_column: str | None, labels: Sequence[str] | None
) -> TaskSpec:
    """Put the user's columns and label names in the place of the table's.

    Raises:
        TaskError: The label names are not as many as the task's.
    """
    if labels is not None and len(labels) != len(spec.labels):
        raise TaskError(
            f"{len(labels)} label names given ({', '.join(labels)}), but task {spec.name} has "
            f"{len(spec.labels)}: {', '.join(spec.labels) or 'it is a regression'}"
        )
    return replace(
        spec,
        text_columns=tuple(text_columns or spec.text_columns),
        label_column=label_column or spec.label_column,
        labels=_distinct(labels) if labels else spec.labels,
    )


def own_spec(
    name: str,
    tables: Mapping[str, Table],
    text_columns: Sequence[str] | None,
    label_column: str | None,
    labels: Sequence[str] | None,
) -> TaskSpec:
    """Describe a task of the user's own from its tables.

    Raises:
        TaskError: The columns are not named or not there.
    """
    for table in tables.values():
        if text_columns is None or label_column is None:
            raise TaskError(f"data of your own need text_columns and label_column; {guess_columns(table)}")
        require_columns(table, (*text_columns, label_column))
    columns, label = tuple(text_columns or ()), label_column or ""
    if labels is None:
        named = [table.class_names[label] for table in tables.values() if label in table.class_names]
        values = [value for table in tables.values() for value in label_values(table, label)]
        labels = named[0] if named else infer_labels(values)
    metrics = ("accuracy", "matthews_correlation") if labels else ("pearson", "spearmanr")
    return TaskSpec(name, columns, label, _distinct(labels), metrics)


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Refuse label names of which two are the same, case and separators aside.

    Raises:
        TaskError: Two are.
    """
    seen: dict[str, str] = {}
    for label in labels:
        if normal(label) in seen:
            raise TaskError(f"label names {seen[normal(label)]!r} and {label!r} are the same; each class needs its own")
        seen[normal(label)] = label
    return tuple(labels)
