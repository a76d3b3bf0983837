"""From a table as it was read to the three things that a task keeps of it: text, `label` and `idx`."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np

from prune_bert.display import Displayed, Shown
from prune_bert.tasks.labels import encode_labels, encode_numbers, is_missing
from prune_bert.tasks.table import TaskError, TaskSpec, nearest
from prune_bert.text_files import has_lone_surrogate

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@dataclass(frozen=True)
class Table:
    """Columns as they were read, before anything is known of the task.

    Attributes:
        columns: Values by column name, all of one length.
        source: Where they came from, for people.
        class_names: For a column that came with class names of its own: their order. Its values are names.
    """

    columns: Mapping[str, Sequence[Any]]
    source: str
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def table_from_rows(header: Sequence[str], rows: Sequence[Sequence[Any]], source: str) -> Table:
    """Turn rows under a header into a table.

    Raises:
        TaskError: Two columns have one name.
    """
    for i, name in enumerate(header):
        if name in header[:i]:
            raise TaskError(f"{source} has two columns {name!r}; rename one")
    return Table({name: [row[i] for row in rows] for i, name in enumerate(header)}, source)


@dataclass(frozen=True, repr=False)
class TaskData(Displayed):
    """One split of a task, ready to be tokenised.

    Attributes:
        spec: What the task is; `spec.labels` names the ids in `dataset["label"]`.
        split: `train`, `validation` or `validation_mismatched`.
        dataset: The text columns, `label` (int64, or float32 for regression) and `idx` from 0 to n - 1.
        source: Where it came from, for people and reports.
    """

    spec: TaskSpec
    split: str
    dataset: datasets.Dataset
    source: str

    def _shown(self) -> Shown:
        labels = "" if "label" not in self.dataset.column_names else ", ".join(self.spec.labels) or "numbers"
        facts = [("text", "+".join(self.spec.text_columns)), ("labels", labels), ("from", self.source)]
        return Shown(f"{self.spec.name} {self.split}, {len(self.dataset):,} examples", facts)


def to_task_data(
    table: Table, spec: TaskSpec, split: str, int_names: Sequence[str], max_samples: int | None
) -> TaskData:
    """Check a table against a task and keep what the task needs.

    Args:
        table: The table.
        spec: The task, with its columns named as in the table and its labels in the order wanted.
        split: The split's name.
        int_names: What integers in the label column stand for, by value.
        max_samples: Keep at most this many rows, evenly spaced over the table so that one sorted by label
            keeps all its labels.

    Raises:
        TaskError: The table is empty, lacks a column, or holds a value that the task cannot use.
    """
    require_columns(table, (*spec.text_columns, spec.label_column))
    for name in spec.text_columns:
        _check_text(table, name)
    values = label_values(table, spec.label_column)
    labels = (
        encode_numbers(values, table.source)
        if spec.regression
        else encode_labels(values, spec, int_names, table.source)
    )
    columns: dict[str, Any] = {name: table.columns[name] for name in spec.text_columns}
    features = {name: datasets.Value("string") for name in spec.text_columns}
    features["label"] = datasets.Value("float32" if spec.regression else "int64")
    features["idx"] = datasets.Value("int64")
    columns |= {"label": labels, "idx": range(len(labels))}
    source = table.source
    if max_samples is not None and max_samples < len(labels):
        kept = np.linspace(0, len(labels) - 1, max_samples).round().astype(int)
        columns = {name: [column[i] for i in kept] for name, column in columns.items()}
        columns["idx"] = range(len(kept))
        source = f"{source} ({max_samples} of {len(labels)} rows, evenly spaced)"
    dataset = datasets.Dataset.from_dict(
        {name: list(column) for name, column in columns.items()}, features=datasets.Features(features)
    )
    return TaskData(replace(spec, label_column="label"), split, dataset, source)


def require_columns(table: Table, names: Sequence[str]) -> None:
    """Check that a table has rows and the named columns.

    Raises:
        TaskError: It has not; the message lists the columns that are there and the nearest.
    """
    present = _named(table) or "none"
    for name in names:
        if name not in table.columns:
            raise TaskError(
                f"{table.source} has no column {name!r}{nearest(name, table.columns)}; its columns are "
                f"{present}; name yours with text_columns and label_column"
            )
    if not len(next(iter(table.columns.values()), ())):
        raise TaskError(f"{table.source} holds no examples; at least one row is needed")


def label_values(table: Table, name: str) -> Sequence[Any]:
    """Return a label column whose values are single ones.

    Raises:
        TaskError: A value is a list or a mapping.
    """
    values = table.columns[name]
    for row, value in enumerate(values, 1):
        if not (value is None or isinstance(value, str | numbers.Number)):
            raise TaskError(
                f"{table.source}: label {_shown(value)} in data row {row} is a {type(value).__name__}; a label is "
                "one class or one number"
            )
        if isinstance(value, str) and has_lone_surrogate(value):
            raise TaskError(f"{table.source}: label {_shown(value)} in data row {row} holds a lone surrogate; mend it")
    return values


def guess_columns(table: Table) -> str:
    """Put a guess at a table's text and label columns into words, for an error message."""
    lengths = {
        name: sum(map(len, values))
        for name, values in table.columns.items()
        if values and all(isinstance(value, str) for value in values)
    }
    usual = ("label", "labels", "gold_label", "target", "class", "category", "score", "rating", "sentiment")
    folded = {name.casefold(): name for name in table.columns}
    label = next((folded[name] for name in usual if name in folded), None)
    text = max((name for name in lengths if name != label), key=lengths.__getitem__, default=None)
    present = f"the columns of {table.source} are {_named(table)}"
    if text is None or label is None:
        return present
    return f"{present}; perhaps text_columns {text} and label_column {label}"


def _named(table: Table) -> str:
    """Name a table's columns for a message: at most ten of them, a long name shortened."""
    names = [_SHORT.repr(name) for name in table.columns]
    more = [f"and {len(names) - 10} more"] if len(names) > 10 else []
    return ", ".join([*names[:10], *more])


def _shown(value: object) -> str:
    """Write any value for a message, shortened, however deep it is and however many digits it has."""
    return _SHORT.repr(value)


def _check_text(table: Table, name: str) -> None:
    """Refuse a text column with nulls or with anything that is not text; an empty text is allowed.

    Raises:
        TaskError: It has such values; the message counts them and gives the first row.
    """
    values = table.columns[name]
    missing = [row for row, value in enumerate(values, 1) if is_missing(value)]
    if missing:
        raise TaskError(
            f"{table.source}: text column {name!r} has no value in {len(missing)} of {len(values)} rows, "
            f"first in data row {missing[0]}; fill them in or leave those rows out"
        )
    for row, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise TaskError(
                f"{table.source}: text column {name!r} holds {_shown(value)} in data row {row}, which is "
                f"{type(value).__name__}, not text; its columns are {_named(table)}"
            )
        if has_lone_surrogate(value):
            raise TaskError(
                f"{table.source}: the text {_shown(value)} in data row {row} holds half of a character, which UTF-8 "
                "cannot write (a lone surrogate); mend or leave out that row"
            )
