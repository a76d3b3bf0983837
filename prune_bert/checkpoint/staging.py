"""Directories that appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune_bert.checkpoint.sources import CheckpointError


def target_of(output_dir: str | Path) -> Path:
    """Return the absolute path of an output directory.

    Raises:
        CheckpointError: If it is the root of the file system, or the home of somebody unknown.
    """
    try:
        target = Path(output_dir).expanduser().absolute()
    except RuntimeError as error:  # ~somebody, and nobody knows where that is
        raise CheckpointError(f"output_dir {str(output_dir)!r}: {error} Write the path in full") from error
    if not target.name:
        raise CheckpointError(f"output_dir {str(output_dir)!r} is the root of the file system; name a directory in it")
    return target


def check_output_dir(output_dir: str | Path, overwrite: bool) -> Path:
    """Refuse an output directory that could not be written, before any work is done.

    Raises:
        CheckpointError: If it is a file, exists without leave to overwrite it, or cannot be written.
    """
    target = target_of(output_dir)
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"output_dir {str(output_dir)!r} is a file; name a directory")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise CheckpointError(
            f"output_dir {str(output_dir)!r} exists and is not empty; choose another, or pass --overwrite_output_dir"
        )
    if target == Path.cwd() or target in Path.cwd().parents:
        raise CheckpointError(f"output_dir {str(output_dir)!r} is the working directory or above it; name one below")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise CheckpointError(f"output_dir {str(output_dir)!r} lies under {str(parent)!r}, which is a file")
    if not os.access(parent, os.W_OK):
        raise CheckpointError(f"output_dir {str(output_dir)!r}: {str(parent)!r} is not writable; choose another")
    _check_takes_directories(parent, output_dir)
    return target


def _check_takes_directories(parent: Path, given: str | Path) -> None:
    """Make a directory of a name of its own and remove it again: ``/proc`` says that it is writable, and is not.

    Several processes of a run may do so at the same time.

    Raises:
        CheckpointError: None can be made there.
    """
    try:
        Path(tempfile.mkdtemp(prefix=".prune_bert-", dir=parent)).rmdir()
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"output_dir {str(given)!r} cannot be made there ({reason}); choose another") from error


@contextmanager
def staged_directory(output_dir: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty directory to fill, which becomes ``output_dir`` when the block ends well and vanishes otherwise.

    Raises:
        CheckpointError: If ``output_dir`` is a file, exists without leave to overwrite it, or cannot be written.
    """
    target = check_output_dir(output_dir, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        replace_directory(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; what was there is deleted only once the new one is in place."""
    retired = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    if target.exists():
        target.rename(retired)
    try:
        source.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)
