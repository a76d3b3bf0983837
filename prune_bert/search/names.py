"""What is said of a name that is not known: the list, and the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, given: object, known: Iterable[str]) -> str:
    """Write the message for an unknown name; `kind` says of what, such as ``strategy``."""
    names = list(known)
    nearest = difflib.get_close_matches(str(given).casefold(), names, n=1, cutoff=0.4)
    guess = f", did you mean {nearest[0]!r}?" if nearest else ";"
    return f"unknown {kind} {given!r}{guess} expected one of {', '.join(names)}"
