"""Rows in memory as a task: a `datasets.Dataset` or a list of dicts, with their columns found and labels aligned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import datasets

from prune_bert.tasks.alignment import align_labels
from prune_bert.tasks.columns import Table, TaskData, guess_columns, require_columns, to_task_data
from prune_bert.tasks.files import from_dataset
from prune_bert.tasks.loading import PLACEHOLDER_COLUMN, check_text_columns, own_spec, with_placeholder
from prune_bert.tasks.table import TaskError

Rows: TypeAlias = datasets.Dataset | Sequence[Mapping[str, Any]]
"""What `evaluate` and its like take beside a `TaskData`."""

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("question", "passage"),
    ("question", "answer"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
)
"""The names that text columns go by: pairs first, then single ones."""

LABEL_COLUMNS = ("label", "labels")


class LabelWarning(UserWarning):
    """Labels that were mapped to the model's order, or whose order was assumed."""


def as_task_data(
    data: TaskData | Rows,
    *,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    labels: Sequence[str] | None = None,
    split: str | None = None,
    labelled: bool = True,
) -> TaskData:
    """Return rows in memory as a task, with the columns named or found by their usual names.

    Labels are read as those of a file are (see `load_task`); they are not in a model's order yet (see `align_labels`).

    Args:
        data: A `datasets.Dataset`, a list of dicts with a row each, or a task, which is returned as it is.
        text_columns: The one or two columns of text; by default those with a usual name (`TEXT_COLUMNS`).
        label_column: The label's column; by default `label` or `labels`.
        labels: Class names in the order of their ids; empty for a regression.
        split: What the rows are; by default what the dataset remembers, or `all`.
        labelled: Read the labels. Without, the task has no label column, and label names are of no use.

    Raises:
        TaskError: The data are of another kind, a column is missing or could be one of several, or a value cannot be
            used; the message lists the columns and names the argument to give.
    """
    if isinstance(data, TaskData):
        _require_no_columns(data, text_columns, label_column)
        return data
    names = (text_columns,) if isinstance(text_columns, str) else text_columns
    if names is not None:
        check_text_columns(None, names)
    table = table_of(data)
    names = tuple(names) if names is not None else _found(table, TEXT_COLUMNS, "text_columns")
    if labelled:
        label = label_column or _found(table, [(name,) for name in LABEL_COLUMNS], "label_column")[0]
    else:
        require_columns(table, names)
        table, label = with_placeholder({"": table}, "0")[""], PLACEHOLDER_COLUMN
    spec = own_spec("data", {"": table}, names, label, labels)
    task = to_task_data(table, spec, split or _split_of(data), spec.labels, None)
    return task if labelled else replace(task, dataset=task.dataset.remove_columns("label"))


def task_data_for(
    model: Any,
    data: TaskData | Rows,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    *,
    labelled: bool = True,
) -> TaskData:
    """Return rows in memory as a task whose labels are in a model's order; a `TaskData` is returned as it is.

    Labels are aligned as those of files are, by `align_labels`; what was mapped or assumed is a `LabelWarning`.

    Args:
        model: The model; its config names the labels by id.
        data: The rows.
        text_columns: As for `as_task_data`.
        label_column: Likewise.
        labelled: Read the labels.

    Raises:
        TaskError: What `as_task_data` and `align_labels` raise.
    """
    task = as_task_data(data, text_columns=text_columns, label_column=label_column, labelled=labelled)
    if isinstance(data, TaskData) or not labelled:
        return task
    names = getattr(getattr(getattr(model, "module", model), "config", None), "id2label", None)
    aligned, note = align_labels(task, names or {i: f"LABEL_{i}" for i in range(len(task.spec.labels) or 1)})
    if note:
        warnings.warn(note, LabelWarning, stacklevel=4)
    return aligned


def table_of(data: Rows) -> Table:
    """Return rows in memory as a table.

    Raises:
        TaskError: The data are neither a `datasets.Dataset` nor a list of dicts.
    """
    if isinstance(data, datasets.Dataset):
        return from_dataset(data, "the dataset")
    if isinstance(data, datasets.DatasetDict):
        raise TaskError(f"a DatasetDict holds several splits ({', '.join(map(str, data))}); give one of them")
    if isinstance(data, str | Mapping) or not isinstance(data, Sequence):
        raise TaskError(
            f"data of type {type(data).__name__} cannot be used; give a datasets.Dataset, a list of dicts with a row "
            "each, or what load_task returns"
        )
    if not data:
        raise TaskError("the list of rows is empty; at least one row is needed")
    for number, row in enumerate(data, 1):
        if not isinstance(row, Mapping):
            raise TaskError(
                f"row {number} of the list is a {type(row).__name__}, not a dict of column names and values"
            )
    names = list(dict.fromkeys(name for row in data for name in row))
    return Table({str(name): [row.get(name) for row in data] for name in names}, "the list of rows")


def _found(table: Table, known: Sequence[tuple[str, ...]], argument: str) -> tuple[str, ...]:
    """Return the columns of a table that have a usual name.

    Raises:
        TaskError: None have, or it could be several; the message lists the columns and names the argument.
    """
    present = [names for names in known if set(names) <= set(table.columns)]
    pairs = [names for names in present if len(names) > 1]
    paired = {name for names in pairs for name in names}
    found = pairs + [names for names in present if len(names) == 1 and names[0] not in paired]
    if len(found) == 1:
        return found[0]
    if not found:
        raise TaskError(f"no column has a usual name; give {argument}; {guess_columns(table)}")
    which = " or ".join("+".join(names) for names in found)
    columns = ", ".join(map(repr, table.columns))
    raise TaskError(f"{argument} could be {which}; give {argument}; the columns of {table.source} are {columns}")


def _require_no_columns(data: TaskData, text_columns: Sequence[str] | str | None, label_column: str | None) -> None:
    """Refuse column names beside data that have theirs already.

    Raises:
        TaskError: Some are given.
    """
    if text_columns is not None or label_column is not None:
        raise TaskError(
            f"text_columns and label_column are for a dataset or a list of rows; {data.spec.name} {data.split} is a "
            "task already, with its columns; leave them out"
        )


def _split_of(data: Rows) -> str:
    split = data.split if isinstance(data, datasets.Dataset) else None
    return str(split or "all")
