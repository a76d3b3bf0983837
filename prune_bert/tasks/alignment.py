"""The order of the classes: the data's against the model's, never flipped in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets

from prune_bert.tasks.columns import TaskData
from prune_bert.tasks.labels import normal
from prune_bert.tasks.table import GLUE_TASKS, TaskError


def align_labels(data: TaskData, id2label: Mapping[Any, str]) -> tuple[TaskData, str | None]:
    """Renumber the labels of data as a model numbers them.

    Where both name their classes and the names agree (case, `-`, `_` and spaces aside), the data are
    relabelled to the model's order. Where only one of them names its classes (`LABEL_0` and plain numbers are
    no names), the ids stand as they are. Data of the user's own may lack some of the model's classes, since a
    small file may simply not hold them.

    Args:
        data: The data.
        id2label: The model config's names by id.

    Returns:
        The data with the model's ids, and a sentence for the user where something was mapped or assumed.

    Raises:
        TaskError: Names or counts differ, or one is a regression and the other is not.
    """
    names = tuple(id2label[key] for key in sorted(id2label, key=int))
    if data.spec.regression or len(names) == 1:
        _require_both_regression(data, names)
        return data, None
    labels = data.spec.labels
    model_named, data_named = not _generic(names), not _generic(labels)
    if model_named and data_named:
        return _by_name(data, names)
    if len(names) != len(labels):
        raise _mismatch(data, names)
    if model_named:
        renamed = replace(data, spec=replace(data.spec, labels=names))
        return (
            renamed,
            f"the data number their labels; they are read in the model's order: {_numbered(names)}",
        )
    if data_named:
        return (
            data,
            f"the model does not name its labels; they are read in the data's order: {_numbered(labels)}",
        )
    return data, None


def reorder(data: TaskData, names: Sequence[str]) -> TaskData:
    """Renumber data whose labels are among `names` in that order."""
    place = {normal(name): i for i, name in enumerate(names)}
    new_ids = [place[normal(label)] for label in data.spec.labels]
    columns = {name: data.dataset[name][:] for name in data.dataset.column_names}
    columns["label"] = [new_ids[old] for old in columns["label"]]
    dataset = datasets.Dataset.from_dict(columns, features=data.dataset.features)
    return replace(data, spec=replace(data.spec, labels=tuple(names)), dataset=dataset)


def _by_name(data: TaskData, names: tuple[str, ...]) -> tuple[TaskData, str | None]:
    """Align where both sides name their classes."""
    labels = data.spec.labels
    ours, theirs = [normal(label) for label in labels], [normal(name) for name in names]
    if len(set(theirs)) < len(theirs) or not set(ours) <= set(theirs):
        raise _mismatch(data, names)
    if len(ours) < len(theirs) and data.spec.name in GLUE_TASKS:
        raise _mismatch(data, names)
    if ours == theirs:
        return data, None
    moves = [f"{label} {i} -> {theirs.index(ours[i])}" for i, label in enumerate(labels)]
    absent = [name for name, folded in zip(names, theirs, strict=True) if folded not in ours]
    note = f"the data were relabelled to the model's order: {', '.join(moves)}"
    if absent:
        note += f"; no example has the model's {', '.join(absent)}"
    return reorder(data, names), note


def _require_both_regression(data: TaskData, names: Sequence[str]) -> None:
    """Refuse a regression model on classes, and a classifier on numbers.

    Raises:
        TaskError: It is so.
    """
    if not data.spec.regression:
        raise TaskError(
            f"the model has one output, for regression, but task {data.spec.name!r} has the classes "
            f"{', '.join(data.spec.labels)}; use a model with {len(data.spec.labels)} labels, or for a "
            "score of your own in whole numbers an empty list of label names"
        )
    if len(names) != 1:
        raise TaskError(
            f"task {data.spec.name!r} is a regression, but the model has the {len(names)} classes "
            f"{', '.join(names)}; use a model with one output; labels that are classes must be names or whole numbers"
        )


def _mismatch(data: TaskData, names: Sequence[str]) -> TaskError:
    """Word the error that names both sides."""
    labels = data.spec.labels
    return TaskError(
        f"the model's {len(names)} labels ({', '.join(names)}) and the {len(labels)} of the data of "
        f"{data.spec.name!r} ({', '.join(labels)}) do not agree; use a model of this task, or, if they mean "
        "the same, pass label names: the model's, in the order of the data's labels"
    )


def _generic(names: Sequence[str]) -> bool:
    """Whether names say nothing: `LABEL_0`, `label 1`, or a bare number."""
    return all(re.fullmatch(r"(label[-_ ]?)?\d+", name.strip(), re.IGNORECASE) for name in names)


def _numbered(names: Sequence[str]) -> str:
    """Write `0 negative, 1 positive`."""
    return ", ".join(f"{i} {name}" for i, name in enumerate(names))
