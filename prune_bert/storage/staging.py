"""Directories that appear whole or not at all, and files that are renewed in a directory that is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prune_bert.storage.files import OutputError
from prune_bert.storage.locks import HeldLock
from prune_bert.storage.manifest import enlist
from prune_bert.storage.targets import OutputDirectory, resolved
from prune_bert.storage.working import WorkingDirectory, hidden, recover


def output_directory(
    output_dir: str | Path,
    overwrite: bool = False,
    inputs: Mapping[str, str | Path] | None = None,
    renewed: Sequence[str] = (),
) -> OutputDirectory:
    """Tidy up after a killed run beside an output directory, and check that it may be written.

    Args:
        output_dir: The directory to write.
        overwrite: Replace what prune_bert wrote there before.
        inputs: What the run reads, by the names of its settings: never replaced.
        renewed: The names of the files that are written anew in place, where an existing directory is not replaced.

    Raises:
        OutputError: It is a file, holds what may not be replaced, or cannot be written.
    """
    recover(resolved(output_dir))
    target = OutputDirectory(output_dir, overwrite, inputs, renewed)
    _check_can_be_made(target.path, output_dir)
    return target


def _check_can_be_made(path: Path, given: str | Path) -> None:
    """Write a file without a name beside it, which is gone at once: ``/proc`` only says that it is writable.

    Raises:
        OutputError: Nothing can be written there.
    """
    parent = next(folder for folder in path.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"output_dir {str(given)!r} cannot be made there ({reason}); choose another") from error


@contextmanager
def staged_directory(target: OutputDirectory) -> Iterator[Path]:
    """Yield an empty directory to fill, which becomes the target when the block ends well and vanishes otherwise.

    Raises:
        OutputError: Another run is at work there or has finished meanwhile, or it cannot be written.
    """
    working = WorkingDirectory(target.path, "writing")
    working.open(target)
    try:
        working.begin("")
        yield working.output
        working.publish()
    except BaseException:
        working.discard()
        raise


@contextmanager
def new_or_renewed(target: OutputDirectory) -> Iterator[Path]:
    """Yield a directory in which the block writes the files that are the target's to renew, and no others.

    Where there is no target yet, it appears whole or not at all. Otherwise each file in it is renewed by itself.

    Raises:
        OutputError: One of the files is there and prune_bert did not write it, or another run is at work there.
    """
    if not target.exists():
        with staged_directory(target) as staging:
            yield staging
        return
    lock = HeldLock(hidden(target.path, "lock"))
    try:
        target.check()
        enlist(target.path, target.renewed, finished=False)
        yield target.path
        enlist(target.path, target.renewed, finished=True)
    finally:
        lock.release()
