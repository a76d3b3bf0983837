"""What goes wrong, as one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time

from prune_bert.errors import UserError

USER_CODE = 2
INTERRUPTED_CODE = 130  # 128 + SIGINT, as a shell counts
SECONDS_FOR_MAIN_PROCESS = 3.0
MOST_CHARACTERS = 640  # of a message: several faults of a configuration, or one of anything else, have room
LONGEST_WORD = 120

_MAKE_ROOM = "make room or choose another --output_dir, then run the same command again"
_MENDABLE = {
    errno.ENOSPC: f"no space left: {_MAKE_ROOM}",
    errno.EDQUOT: f"disk quota exceeded: {_MAKE_ROOM}",
    errno.EACCES: "permission denied: choose a place that you may read and write",
    errno.EROFS: "the file system is read-only: choose another --output_dir",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "too many symbolic links: one of them leads back to itself",
    errno.EPIPE: "the program that reads the output stopped before its end",
}
_LESS_MEMORY = "give a smaller batch size, sequence length or model, then run the same command again"
_RANK_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "LOCAL_RANK")


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the line and the exit code for what the user can mend, or None for a defect."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: the same command run again resumes where it stopped", INTERRUPTED_CODE
    if isinstance(error, UserError):
        return f"error: {one_line(error)}", USER_CODE
    if _is_lack_of_memory(error):
        return f"error: out of memory: {_LESS_MEMORY}", USER_CODE
    if isinstance(error, OSError) and error.errno in _MENDABLE:
        place = f"{os.fspath(error.filename)!r}: " if isinstance(error.filename, (str, os.PathLike)) else ""
        return f"error: {one_line(f'{place}{_MENDABLE[error.errno]}')}", USER_CODE
    return None


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return what Python and torch raise where memory is short, without importing torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def tell(line: str, code: int) -> None:
    """Print a line on stderr once, though several processes may have failed for the same reason.

    The main process prints at once. Any other waits: a launcher ends the group as soon as it sees one process
    fail, and the main process has to get its word in first. Who is still alive after that failed alone, and
    says so itself. An interrupt reaches all of them, so the main process speaks for all.
    """
    process = process_index()
    if process and code == INTERRUPTED_CODE:
        return
    if process:
        time.sleep(SECONDS_FOR_MAIN_PROCESS)
        line = f"{line} (on process {process})"
    with contextlib.suppress(OSError):  # nobody may be listening; the exit code remains
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def settle_stdout() -> None:
    """Write what is left for stdout, or nowhere, so that the interpreter's last flush cannot fail."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def process_index() -> int:
    """Return the index among the processes of this run, 0 for the main one, without importing accelerate."""
    for name in _RANK_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return 0


def one_line(message: object) -> str:
    """Fold a message into one line of a few hundred printable characters; an empty one becomes its type's name.

    A file, a name or another library can bring anything into a message: what would steer a terminal, or could not be
    written as UTF-8, is shown escaped. A long word loses its middle, and so does what is still too long as a whole,
    since its end says what to do.
    """
    words = (_printable(_shortened(word, LONGEST_WORD)) for word in str(message).split())
    text = " ".join(_shortened(word, LONGEST_WORD) for word in words)
    return _shortened(text, MOST_CHARACTERS) or type(message).__name__


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _shortened(text: str, at_most: int) -> str:
    if len(text) <= at_most:
        return text
    end = at_most // 3
    return f"{text[: at_most - end - 3]}...{text[-end:]}"
