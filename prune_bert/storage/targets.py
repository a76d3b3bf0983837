"""Where a run may write: nowhere that holds what the run reads, or what prune_bert did not write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prune_bert.storage.files import OutputError
from prune_bert.storage.manifest import foreign_among, foreign_file, token_of


class OutputDirectory:
    """A directory that a run will write, checked before any work, and again right before it is replaced.

    A symbolic link is resolved once, here: the link stays and what it points to is written.

    Args:
        output_dir: As the user gave it.
        overwrite: Whether what prune_bert wrote there before may be replaced.
        inputs: What the run reads, by the names of its settings.
        renewed: The names of the files that are written anew in place, where an existing directory is not replaced.

    Raises:
        OutputError: It may not, or cannot, be written.
    """

    def __init__(
        self,
        output_dir: str | Path,
        overwrite: bool,
        inputs: Mapping[str, str | Path] | None = None,
        renewed: Sequence[str] = (),
    ) -> None:
        self.path = resolved(output_dir)
        self.renewed = tuple(renewed)
        self._given, self._overwrite, self._inputs = str(output_dir), overwrite, dict(inputs or {})
        self.check()
        self._seen = self._identity()

    def check(self) -> None:
        """Check everything again: files may have appeared since.

        Raises:
            OutputError: It may not, or cannot, be written any more.
        """
        refuse_inputs(self._given, self._inputs)
        self._check_place()
        if self.exists():
            self._check_content()

    def check_unchanged(self) -> None:
        """Check again, and that what is there now is what was there at the start.

        Leave to overwrite was given for what was there then: the result of another run, which came meanwhile, stays.

        Raises:
            OutputError: Another run has finished there, or it may not be written any more.
        """
        if self._identity() not in (self._seen, None):
            raise OutputError(
                f"output_dir {self._given!r} has been written by another run meanwhile: choose another, or run again "
                "(with --overwrite_output_dir to replace what is there now)"
            )
        self.check()

    def exists(self) -> bool:
        """Say whether there is anything to replace."""
        return self.path.is_dir() and any(self.path.iterdir())

    def _identity(self) -> tuple[int, int, str] | None:
        """Return what tells one result in this place from another; None where there is none."""
        if not self.exists():
            return None
        status = self.path.stat()
        return status.st_dev, status.st_ino, token_of(self.path)

    def _check_place(self) -> None:
        said = f"output_dir {self._given!r}"
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{said} is a file; name a directory")
        if self.path == Path.cwd() or self.path in Path.cwd().parents:
            raise OutputError(f"{said} is the working directory or above it; name one below")
        if self.path in _homes() or os.path.ismount(self.path):
            raise OutputError(f"{said} is a home directory or a mount point; name a directory below it")
        parent = next(folder for folder in self.path.parents if folder.exists())
        if not parent.is_dir():
            raise OutputError(f"{said} lies under {str(parent)!r}, which is a file")
        if not os.access(parent, os.W_OK):
            raise OutputError(f"{said}: {str(parent)!r} is not writable; choose another")

    def _check_content(self) -> None:
        said = f"output_dir {self._given!r}"
        if not self._overwrite:
            raise OutputError(f"{said} exists and is not empty; choose another, or pass --overwrite_output_dir")
        foreign = foreign_among(self.path, self.renewed) if self.renewed else foreign_file(self.path)
        if foreign is not None:
            raise OutputError(f"{said} holds {foreign}: move it away, or choose another output_dir")


def resolved(output_dir: str | Path) -> Path:
    """Return the absolute path of an output directory, without links.

    Raises:
        OutputError: There is none: a user without a home, a link to itself, a null byte, the root.
    """
    try:
        path = Path(output_dir).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"output_dir {str(output_dir)!r} names no place ({error}); name a directory") from error
    if not path.name:
        raise OutputError(f"output_dir {str(output_dir)!r} is the root of the file system; name a directory below it")
    return path


def refuse_inputs(output_dir: str | Path, inputs: Mapping[str, str | Path]) -> None:
    """Refuse an existing output directory that is, or holds, something that the run reads.

    Raises:
        OutputError: It does; whether it may be overwritten or not.
    """
    target = resolved(output_dir)
    if not target.is_dir():
        return
    for name, given in inputs.items():
        for path in _places(given):
            if target == path or target in path.parents:
                verb = "is" if target == path else "holds"
                raise OutputError(
                    f"output_dir {str(output_dir)!r} {verb} the {name} of this run, {str(given)!r}, which would be "
                    "lost; choose another output_dir"
                )


def _places(given: str | Path) -> set[Path]:
    """Return where an input lies, with and without following links; nothing where it is no file or directory here."""
    try:
        path = Path(given).expanduser()
        return {path.absolute(), path.resolve()} if path.exists() else set()
    except (OSError, RuntimeError, ValueError):  # a hub id, or nonsense that loading it will name
        return set()


def _homes() -> set[Path]:
    homes = {os.path.expanduser("~")}  # noqa: PTH111 (Path.home raises where there is none)
    if os.name == "posix":
        import pwd

        with contextlib.suppress(KeyError):  # a user without an entry, as in some containers
            homes.add(pwd.getpwuid(os.geteuid()).pw_dir)
    return {Path(home).resolve() for home in homes if os.path.isabs(home)}  # noqa: PTH117
