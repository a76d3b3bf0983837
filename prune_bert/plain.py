"""Text from elsewhere made fit to be shown: without control characters and without a terminal's escape sequences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

Value = TypeVar("Value")

# Sequences of parameters, strings up to their terminator (window titles, links), and short escapes.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but the tab and the line feed


def plain_text(text: str) -> str:
    """Return a text without escape sequences and control characters, tabs and line feeds excepted."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def plain_values(value: Value) -> Value:
    """Return data with every text in it made plain: in data classes, mappings and sequences of any depth."""
    return cast(Value, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {name: new for name, item in given.items() if (new := _plain(item)) != item}
        return dataclasses.replace(value, **changed) if changed else value
    return value
