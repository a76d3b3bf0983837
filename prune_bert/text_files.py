"""Reading small files that a user names: nothing that may lie there hangs, fills memory or passes without a reason."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 64 * 2**20


class UnreadableError(ValueError):
    """Says in a few words why a file cannot be read; for the caller to put into an error of its own."""


def read_text_file(path: str | os.PathLike[str], at_most: int = MOST_BYTES) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    A pipe is read to its end, and is empty where nobody writes to it. No other thing but a regular file is read.

    Args:
        path: The file.
        at_most: More bytes than this are refused.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableError: It cannot be read; the message says why.
    """
    try:
        data = _read(path, at_most)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not a text file in UTF-8 ({error.reason} at byte {error.start})") from error


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        UnreadableError: It is none, or nested too deeply, or holds a number of too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnreadableError("its values are nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(str(error)) from error


def expanded(path: str | os.PathLike[str]) -> Path:
    """Expand ``~`` in a path; ``~somebody`` stays as it is where nobody of that name is known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- Path.expanduser raises a RuntimeError for such a one


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text cannot be written as UTF-8: JSON's escapes and bytes of a command line can make one."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _read(path: str | os.PathLike[str], at_most: int) -> bytes:
    # not to wait for a writer, where it is a pipe that nobody writes to
    descriptor = os.open(Path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise UnreadableError("it is a directory")
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise UnreadableError("it is no regular file")
        if stat.S_ISFIFO(kind):
            os.set_blocking(descriptor, True)
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise UnreadableError(f"it holds more than {at_most // 2**20} MiB")
    return data
