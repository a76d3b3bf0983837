"""What reaches the terminal beside the results: other libraries' chatter does not, warnings do."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prune_bert.cli.failures import one_line, process_index

_QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bars heed it too
    "TOKENIZERS_PARALLELISM": "false",  # else a warning at every fork
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def quiet_libraries() -> None:
    """Turn off what other libraries print and nobody can act on: progress bars and advice.

    Warnings stay, and what the environment already says wins. The libraries read this when they are imported.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings of this project as one line, ``warning: ...``, on the main process; others as ever."""
    with warnings.catch_warnings():
        show_as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] != "prune_bert":
                show_as_ever(message, category, *place, **more)
            elif process_index() == 0:
                sys.stderr.write(f"warning: {one_line(message)}\n")

        warnings.showwarning = show
        yield
