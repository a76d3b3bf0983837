"""Labels: from whatever a source writes to class ids or numbers."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

from prune_bert.knobs import short
from prune_bert.tasks.table import TaskError, TaskSpec

MOST_CLASSES = 10_000  # that integers without names may stand for
LARGEST_NUMBER = 3.4028234663852886e38  # that a float32 holds, in which labels and losses are


def normal(name: str) -> str:
    """Fold a class name, so that `Not_Entailment`, `not-entailment` and `not entailment` are the same."""
    return re.sub(r"[-_\s]+", " ", name.strip()).casefold()


def is_missing(value: object) -> bool:
    """Whether a value is null or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def encode_labels(values: Sequence[Any], spec: TaskSpec, int_names: Sequence[str], source: str) -> list[int]:
    """Turn class names or integers into ids in the order of `spec.labels`.

    Args:
        values: Names (compared without regard to case, `-`, `_` and spaces), integers, or text that is one.
        spec: The task, of which the labels count.
        int_names: The names that the source's integers have: an integer stands for the name at its place, or
            for the label at its place where `spec.labels` does not have that name.
        source: Where the values come from, for messages.

    Raises:
        TaskError: Labels are missing (null, empty or -1) or not the task's; with the count and the first row.
    """
    by_name = {normal(name): i for i, name in enumerate(spec.labels)}
    by_int = {i: by_name.get(normal(name), i) for i, name in enumerate(int_names)}
    by_name = {normal(name): by_int[i] for i, name in enumerate(int_names)} | by_name
    known: dict[Any, int | None] = {}
    ids: list[int] = []
    missing: list[int] = []
    strange: list[int] = []
    for row, value in enumerate(values, 1):
        if value not in known:
            known[value] = _class_id(value, by_name, by_int)
        found = known[value]
        if found is not None:
            ids.append(found)
        elif _stands_for_nothing(value):
            missing.append(row)
        else:
            strange.append(row)
    _refuse_missing(missing, len(values), source)
    if strange:
        raise TaskError(
            f"{source}: label {_shown(values[strange[0] - 1])} in data row {strange[0]} is none of the task's "
            f"labels, {_listed(spec.labels)}, or their numbers 0 to {len(spec.labels) - 1} ({len(strange)} "
            "such rows)"
        )
    return ids


def encode_numbers(values: Sequence[Any], source: str) -> list[float]:
    """Turn numbers, or text that is one, into floats.

    Raises:
        TaskError: A value is missing or not a finite number; with the row.
    """
    _refuse_missing(
        [row for row, value in enumerate(values, 1) if is_missing(value) or value == ""], len(values), source
    )
    scores = []
    for row, value in enumerate(values, 1):
        score = _number(value)
        if score is None or not abs(score) <= LARGEST_NUMBER:
            raise TaskError(
                f"{source}: label {_shown(value)} in data row {row} is not a finite number that float32 holds, as "
                "regression needs"
            )
        scores.append(score)
    return scores


def infer_labels(values: Iterable[Any]) -> tuple[str, ...]:
    """Say which classes a column of labels has; no classes mean regression.

    Integers (also as text, and truth values) give `"0"` to the largest; other numbers mean regression;
    anything else gives its distinct names in sorted order. Missing values count for nothing here.

    Raises:
        TaskError: The integers are too large to be classes.
    """
    present = {value for value in values if not _stands_for_nothing(value)}
    whole = [_integer(value) for value in present]
    if None not in whole:
        largest = max((i for i in whole if i is not None), default=-1)
        if largest >= MOST_CLASSES:
            raise TaskError(
                f"the labels go up to {short(largest)}, which looks like a column of ids; for a score to predict pass "
                "an empty list of label names, for classes pass their names"
            )
        return tuple(str(i) for i in range(largest + 1))
    if all(_number(value) is not None for value in present):
        return ()
    return tuple(sorted(str(value) for value in present))


def _class_id(value: Any, by_name: dict[str, int], by_int: dict[int, int]) -> int | None:
    """Look one label up, by name first and by number second."""
    found = by_name.get(normal(str(value)))
    if found is not None:
        return found
    number = _number(value)  # pandas writes a column of integers with gaps as floats
    return None if number is None or not number.is_integer() else by_int.get(int(number))


def _integer(value: Any) -> int | None:
    """Read an integer, a truth value, or text that is an integer; a float is none of them."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,100}\s*", value):
        return int(value)
    return None


def _number(value: Any) -> float | None:
    """Read a number, or text that is one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _stands_for_nothing(value: Any) -> bool:
    """Whether a label says that there is none: null, nan, empty, or the hub's -1."""
    return is_missing(value) or value == "" or _integer(value) == -1


def _refuse_missing(rows: Sequence[int], total: int, source: str) -> None:
    """Raise a TaskError where labels are missing."""
    if rows:
        raise TaskError(
            f"{source}: {len(rows)} of {total} labels are missing (null, empty or -1), first in data row "
            f"{rows[0]}; a labelled split is needed, and GLUE's test split has no labels"
        )


def _shown(value: object) -> str:
    """Write a value for a message; an integer of thousands of digits has no text in Python."""
    return short(value) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _listed(names: Sequence[str]) -> str:
    """Join names for a message, at most ten of them."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
