"""What differs between two records of settings, versions and digests, in words."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_SHOWN = 4
_SHORT = reprlib.Repr()


class Change(NamedTuple):
    """One value that differs.

    Attributes:
        name: Where it is, such as ``settings.learning_rate``; empty for the record as a whole.
        before: The stored value; None where there was none.
        after: The wanted value likewise.
    """

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """Write ``settings.learning_rate: 0.001 -> 0.0001``; of two digests only the name."""
        if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (self.before, self.after)):
            return f"{self.name} (its content)"
        return f"{self.name}: {_show(self.before)} -> {_show(self.after)}"


def changes(stored: Any, wanted: Any) -> tuple[Change, ...]:
    """List what differs between two records of JSON values; mappings are compared key by key."""
    return tuple(_changes(stored, wanted, ""))


def summary(found: Sequence[Change]) -> str:
    """Return the first few changes on one line, with the number of the others."""
    shown = "; ".join(map(str, found[:_SHOWN]))
    more = len(found) - _SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _changes(stored: Any, wanted: Any, name: str) -> Iterator[Change]:
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys((*stored, *wanted)):
            yield from _changes(stored.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif stored != wanted:
        yield Change(name, stored, wanted)


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "present"
    return value[:48] if isinstance(value, str) else _SHORT.repr(value)
