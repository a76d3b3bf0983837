"""A lock beside an output directory: the system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from prune_bert.storage.files import OutputError, before, remove_file

_TRIES = 10


class HeldLock:
    """A lock file that this process holds; `release` removes it.

    Raises:
        OutputError: Another process holds it, or what has its name is no lock file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _acquired(path)

    def release(self) -> None:
        """Remove the file and let go of the lock, in this order: whoever comes next makes a new one."""
        try:
            remove_file(self._path)
        finally:
            self._lock.release()


def _acquired(path: Path) -> BaseFileLock:
    """Return the lock of a file that is still the one of that name: a holder removes it at the end."""
    for _ in range(_TRIES):
        _check(path)
        before("lock", path)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            break
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be locked ({error.strerror}): choose another directory") from error
        if _has_the_name(lock, path):
            return lock
        lock.release()
    raise OutputError(f"another run is at work on this output_dir (it holds {str(path)!r}): wait, or choose another")


def _check(path: Path) -> None:
    """Refuse a link, or a file with something in it: opening it would follow the one and might empty the other.

    Raises:
        OutputError: It is one of these.
    """
    try:
        found = os.lstat(path)
    except OSError:  # there is none yet, or acquiring it says what is wrong
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink > 1:
        raise OutputError(f"{str(path)!r} is no lock file of prune_bert: move it away, or choose another output_dir")


def _has_the_name(lock: BaseFileLock, path: Path) -> bool:
    descriptor = lock._context.lock_file_fd  # filelock tells it nowhere else
    if descriptor is None:
        return False
    try:
        held, named = os.fstat(descriptor), os.lstat(path)
    except OSError:
        return False
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
