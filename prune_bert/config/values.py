"""One value: what its type expects, in words, and the way from text or YAML to it."""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from prune_bert.config.options import About
from prune_bert.knobs import range_fault
from prune_bert.text_files import has_lone_surrogate

NULL = "none"  # how a flag spells null

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers"}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the name that comes nearest, or nothing."""
    matches = difflib.get_close_matches(name[:80].replace("-", "_"), list(names), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def without_null(hint: Any) -> tuple[Any, bool]:
    """Split a type such as ``int | None`` into ``int`` and whether null is allowed."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if len(members) == len(get_args(hint)) or get_origin(hint) in (tuple, Literal):
        return hint, False
    return members[0], True


def element(hint: Any) -> Any:
    """Return the type of a list's elements, or the type itself where it is no list."""
    return get_args(hint)[0] if get_origin(hint) is tuple else hint


def is_list(hint: Any) -> bool:
    """Return whether a type is a list of values."""
    return get_origin(without_null(hint)[0]) is tuple


def choices(hint: Any) -> tuple[str, ...]:
    """Return the values that a type allows, where it lists them."""
    inner = element(without_null(hint)[0])
    return get_args(inner) if get_origin(inner) is Literal else ()


def show(value: object) -> str:
    """Write a value for a message: as YAML would, short, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        value = list(value)
    return _SHORT.repr(value)


def read_value(hint: Any, about: About, value: object, *, is_text: bool) -> object:
    """Turn a given value into one of the type asked for, within its range.

    Args:
        hint: The field's type.
        about: The field's metadata, for its range.
        value: What was given.
        is_text: Whether it was typed as a flag, so that ``"3"`` is a number and ``"none"`` is null; else its
            type has to be right already, but for an int where a float is asked and a list where a tuple is.

    Raises:
        ValueError: If the value does not fit; the message says what was expected.
    """
    bare, nullable = without_null(hint)
    if value is None or (is_text and nullable and value in (NULL, [NULL])):
        if nullable:
            return None
        raise ValueError(f"expected {_describe(hint)}, got {show(value)}")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if get_origin(bare) is tuple and isinstance(value, list):
        value = tuple(value)
    fitted = _fit(hint, value, is_text=is_text)
    _check_items(fitted, about)
    return fitted


def _fit(hint: Any, value: object, *, is_text: bool) -> object:
    from pydantic import ValidationError

    bare = without_null(hint)[0]
    try:
        return _adapter(bare).validate_python(value, strict=not is_text)
    except ValidationError:
        guess = _nearest_choice(value, choices(hint)) or ("" if is_text else _mistake(bare, value))
        raise ValueError(f"expected {_describe(hint)}, got {show(value)}{guess}") from None


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _describe(hint: Any) -> str:
    """Say in words what a type expects."""
    bare, nullable = without_null(hint)
    inner = element(bare)
    if choices(hint):
        words = f"{'a list out of' if is_list(hint) else 'one of'} {', '.join(choices(hint))}"
    else:
        words = f"a list of {_PLURALS[inner]}" if is_list(hint) else _WORDS[inner]
    return f"{words}, or null" if nullable else words


def _mistake(bare: Any, value: object) -> str:
    """Guess what went wrong where the type of a YAML value is not the one asked for."""
    if bare is str and isinstance(value, (int, float)):
        return ": put it in quotes"
    if get_origin(bare) is tuple and isinstance(value, (str, int, float)):
        return f": write [{value if isinstance(value, str) and len(value) < 40 else show(value)}]"
    return ""


def _nearest_choice(value: object, allowed: tuple[str, ...]) -> str:
    items = value if isinstance(value, (list, tuple)) else (value,)
    strangers = [item for item in items if isinstance(item, str) and item not in allowed]
    return nearest(strangers[0], allowed) if strangers else ""


def _check_items(value: object, about: About) -> None:
    items = value if isinstance(value, tuple) else (value,)
    if not items and not about.get("may_be_empty"):
        raise ValueError("expected at least one value, got an empty list")
    if len(items) > about.get("max_items", len(items)):
        raise ValueError(f"expected at most {about['max_items']} values, got {len(items)}")
    seen: set[object] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{show(item)} is given twice")
        seen.add(item)
    for item in items:
        if isinstance(item, str):
            _check_text(item, about)
        elif not isinstance(item, bool):
            _check_range(item, about)


def _check_text(text: str, about: About) -> None:
    if not text.strip() and not about.get("may_be_empty"):
        raise ValueError("expected text, got an empty one")
    if "\0" in text:
        raise ValueError(f"expected text without a null character, got {show(text)}")
    if has_lone_surrogate(text):
        raise ValueError(f"expected text that UTF-8 can hold, got {show(text)}")


def _check_range(number: float, about: About) -> None:
    fault = range_fault(about, number)
    if fault:
        raise ValueError(fault)


class _Short(reprlib.Repr):
    """A ``repr`` of bounded length, also for a value that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlevel = 2


_SHORT = _Short()
