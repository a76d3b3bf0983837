"""A disk that fails, or a process that dies, at the n-th operation."""

from __future__ import annotations

import errno
import gc
import os
from contextlib import contextmanager

from prune_bert.storage import files


class Killed(BaseException):
    """The process has died: no code of it may touch the disk after this."""


class Faults:
    """Stands in for the seam of the storage: counts the operations, and fails or dies at one of them.

    Args:
        at: The number of the operation, from 1; 0 for none.
        kind: ``kill``, after which every operation dies again, or ``full``, one failure of a full disk.
    """

    def __init__(self, at=0, kind="kill"):
        self.at, self.kind, self.count, self.dead = at, kind, 0, False
        self.seen = []

    def __call__(self, operation, path):
        if self.dead:
            raise Killed(f"{operation} {path} after death")
        self.count += 1
        self.seen.append((operation, path.name))
        if self.count == self.at:
            if self.kind == "full":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            self.dead = True
            raise Killed(f"{operation} {path}")


@contextmanager
def faults(at=0, kind="kill"):
    """Let the n-th operation on the disk fail within the block."""
    fault, whole, synced = Faults(at, kind), files.before, os.fsync
    files.before, os.fsync = fault, lambda descriptor: None  # counted all the same
    gc.freeze()  # whatever lived before the block need not be looked through at its end
    try:
        yield fault
    finally:
        files.before, os.fsync = whole, synced
        gc.collect()  # the locks of a dead process are gone


def tree(folder):
    """Return what a directory holds: the content of each file by its relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
