"""The hidden directory in which an output directory is made, and the one rename that publishes it.

Beside ``out`` there are, while a run is at work, ``.out.unfinished`` (or ``.out.writing``) and ``.out.lock``. In the
former lie the marker that makes it ours, whatever the run needs to resume, and ``output``, which in the end takes the
name ``out``. Where an older result has that name the two exchange their places in one step, or, where the system cannot
do that, the older one goes to ``retired`` first, and comes back at the next start should the process die in between.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import secrets
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from prune_bert.storage import files
from prune_bert.storage.files import TEMPORARY, OutputError
from prune_bert.storage.locks import HeldLock
from prune_bert.storage.manifest import foreign_file, seal, token_of
from prune_bert.storage.targets import OutputDirectory

_SUFFIXES = ("unfinished", "writing")
_LOCK = "lock"
_MARKER, _CLEARED = "fingerprint", "cleared"
_OUTPUT, _RETIRED, _DOOMED = "output", "retired", "doomed"
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EBUSY, errno.EXDEV}


class WorkingDirectory:
    """A hidden directory beside an output directory, held under a lock from `open` to the end of the run.

    Args:
        path: The output directory, resolved.
        suffix: The end of the hidden name: ``unfinished`` or ``writing``.
        companions: The ends of the hidden names of files that end with the run, such as a journal.
    """

    def __init__(self, path: Path, suffix: str = "unfinished", companions: Sequence[str] = ()) -> None:
        self.root = hidden(path, suffix)
        self.output = self.root / _OUTPUT
        self._path = path
        self._companions = list(companions)
        self._lock: HeldLock | None = None
        self._made: list[Path] = []
        self._token = ""
        self._target: OutputDirectory | None = None

    def open(self, target: OutputDirectory) -> str:
        """Take the lock, check the output directory again, and make the hidden directory where it is missing.

        Returns:
            The fingerprint of the run that left it and can be resumed; empty where there is none.

        Raises:
            OutputError: Another run is at work or has finished meanwhile, or the place cannot be had.
        """
        self._target = target
        try:
            self._made = files.make_parents(self.root)
            self._lock = HeldLock(hidden(self._path, _LOCK))
            _recover(self._path)
            target.check_unchanged()
            files.make_directory(self.root)
            _check_ours(self.root)
        except BaseException as error:
            self._let_go()
            if isinstance(error, OSError):
                raise OutputError(
                    f"output_dir {str(self._path)!r} cannot be made there ({error.strerror}); choose another"
                ) from error
            raise
        stored = _marker(self.root)
        self._token = str(stored.get("token", ""))
        return str(stored.get("fingerprint", "")) if self._token else ""

    @property
    def cleared(self) -> bool:
        """Whether nothing in it belongs to a run: it is new, or one was killed while it emptied it."""
        return not (self.root / _MARKER).exists()

    def begin(self, fingerprint: str, *, keep: Collection[str] = (), meanwhile: str = "") -> None:
        """Empty the hidden directory and mark it as that of a new run.

        Args:
            fingerprint: What `open` returns when the run is started again.
            keep: The names of subdirectories that are not emptied.
            meanwhile: What `open` returns where the process dies before all else is removed, and something is kept.
        """
        self._token = secrets.token_hex(16)
        if keep:
            self._mark(meanwhile)
            for item in sorted(self.root.iterdir()):
                if item.name not in (_MARKER, *keep):
                    files.remove(item)
        else:
            _clear(self.root)
        self.resume()
        self._mark(fingerprint)
        files.remove_file(self.root / _CLEARED)

    def _mark(self, fingerprint: str) -> None:
        stored = {"token": self._token, "fingerprint": fingerprint, "companions": self._companions}
        files.write_text(self.root / _MARKER, json.dumps(stored))

    def resume(self) -> None:
        """Make sure that there is a directory for the output."""
        files.make_directory(self.output)

    def publish(self) -> None:
        """Make the output lasting, give it its name, and remove what was needed only until then.

        Raises:
            OutputError: The output directory holds by now what prune_bert did not write.
        """
        if self._target is None:
            raise RuntimeError("a working directory is opened before it is published")
        _sweep(self.output)
        seal(self.output, self._token)
        files.sync_tree(self.output)
        self._target.check_unchanged()
        try:
            if self._target.exists():
                self._replace()
            else:
                files.rename(self.output, self._path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise OutputError(
                f"output_dir {str(self._path)!r} cannot be written ({error.strerror}): something else has come there; "
                "move it away, and run again"
            ) from error
        with contextlib.suppress(OSError):  # the result is in place; the next start tidies up
            files.sync_directory(self._path.parent)
            _remove_published(self.root, self._path)
        self.release()

    def discard(self) -> None:
        """Remove the hidden directory, and the directories above it that were made for it, and let go of the lock."""
        with contextlib.suppress(OSError):
            _clear(self.root)
            _remove_empty(self.root)
        self._let_go()

    def release(self) -> None:
        """Let go of the lock; what can be resumed stays."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.release()

    def _let_go(self) -> None:
        self.release()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                files.remove_directory(folder)

    def _replace(self) -> None:
        """Put the output in the place of an older one, which goes only if all of it is prune_bert's, even now."""
        if files.exchange(self.output, self._path):
            older = self.output
        else:
            older = self.root / _RETIRED
            files.rename(self._path, older)
            try:
                files.rename(self.output, self._path)
            except OSError:
                files.rename(older, self._path)
                raise
        foreign = foreign_file(older)
        if foreign is None:
            return
        if older != self.output or not files.exchange(older, self._path):
            files.rename(self._path, self.output)
            files.rename(older, self._path)
        raise OutputError(f"output_dir {str(self._path)!r} holds {foreign}: move it away, and run again")


def hidden(path: Path, suffix: str) -> Path:
    """Return the hidden name beside an output directory."""
    return path.with_name(f".{path.name}.{suffix}")


def recover(path: Path) -> None:
    """Tidy up beside an output directory after a run that was killed while it published, if there is one.

    Raises:
        OutputError: Another run is at work, or something else has a hidden name.
    """
    lock = hidden(path, _LOCK)
    if any(os.path.lexists(place) for place in (lock, *(hidden(path, suffix) for suffix in _SUFFIXES))):
        held = HeldLock(lock)
        try:
            _recover(path)
        finally:
            held.release()


def _recover(path: Path) -> None:
    """Put a retired output back, and remove what is left of runs that have published theirs."""
    for root in (hidden(path, suffix) for suffix in _SUFFIXES):
        if not os.path.lexists(root):
            continue
        _check_ours(root)
        retired = root / _RETIRED
        if retired.is_dir() and not os.path.lexists(path):
            files.rename(retired, path)
        token = _marker(root).get("token")
        if token and path.is_dir() and token_of(path) == token:
            _remove_published(root, path)
        elif not any(root.iterdir()):
            files.remove_directory(root)


def _remove_published(root: Path, path: Path) -> None:
    """Remove what a published run has left beside its output; the marker goes last.

    Raises:
        OutputError: What it replaced holds a file that prune_bert did not write, which came in the last moment.
    """
    for older in (root / _OUTPUT, root / _RETIRED):
        foreign = foreign_file(older) if older.is_dir() else None
        if foreign is not None:
            raise OutputError(f"{str(older)!r} is what a killed run replaced, and holds {foreign}: move it away")
        if older.is_dir():
            files.rename(older, root / _DOOMED)  # half removed, it could not be told from somebody's files
            files.remove(root / _DOOMED)
    for suffix in _marker(root).get("companions", ()):
        files.remove_file(hidden(path, Path(str(suffix)).name))
    for item in sorted(root.iterdir()):
        if item.name != _MARKER:
            files.remove(item)
    _remove_empty(root)


def _sweep(output: Path) -> None:
    """Remove what a directory that was staged within an output may have left there."""
    for root in [*output.rglob(f".*.{_SUFFIXES[1]}")]:
        if root.is_dir() and _is_file(root / _MARKER):
            files.remove(root)
    for lock in [*output.rglob(f".*.{_LOCK}")]:
        if not lock.stat().st_size:
            files.remove_file(lock)


def _clear(root: Path) -> None:
    """Empty a hidden directory; where the process dies on the way, it is marked as one that cannot be resumed."""
    if (root / _MARKER).exists():
        files.rename(root / _MARKER, root / _CLEARED)
    elif not (root / _CLEARED).exists():
        files.write_text(root / _CLEARED, "")
    for item in sorted(root.iterdir()):
        if item.name != _CLEARED:
            files.remove(item)


def _remove_empty(root: Path) -> None:
    """Remove a hidden directory in which only a marker is left."""
    for name in (_CLEARED, _MARKER):
        files.remove_file(root / name)
    files.remove_directory(root)


def _marker(root: Path) -> dict[str, Any]:
    try:
        stored = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _check_ours(root: Path) -> None:
    """Refuse a link, somebody else's directory, and one that has things in it but no marker.

    Raises:
        OutputError: It is one of these.
    """
    found = os.lstat(root)
    real = stat.S_ISDIR(found.st_mode) and (os.name != "posix" or found.st_uid == os.geteuid())
    marked = real and any(_is_file(root / name) for name in (_MARKER, _CLEARED))
    if marked or (real and all(fnmatch.fnmatch(item.name, TEMPORARY) for item in root.iterdir())):
        return
    raise OutputError(
        f"{str(root)!r} is no working directory of prune_bert (a link, or another's): move it away, or choose another "
        "output_dir"
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
