"""How far a long step has come, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def with_progress(items: Sequence[Item], description: str, *, show: bool = True) -> Iterator[Item]:
    """Go through items and show how far it is; what is shorter than ten seconds leaves no trace in a log."""
    console = Console(stderr=True)
    if not show:
        yield from items
    elif console.is_terminal:
        yield from track(items, description, console=console, transient=True)
    else:
        said = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                sys.stderr.write(f"{description}: {done} of {len(items)} batches\n")
                sys.stderr.flush()
                said = time.monotonic()
            yield item
