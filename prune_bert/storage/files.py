"""The one place through which this project changes the disk: atomic files, renames, removals, each a single operation.

Every operation passes `before` first, so that a test can let the n-th one fail, or let the process die at it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from prune_bert.errors import UserError

TEMPORARY = ".prune_bert-*.tmp"
"""The pattern of the names under which files are written; one that remains is of a process that was killed."""

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
_AT_FDCWD = -100
_NOT_HERE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


class OutputError(UserError, ValueError):
    """An output directory that may not, or cannot, be written."""


def before(operation: str, path: Path) -> None:
    """Do nothing; called before each operation on the disk. Tests replace it."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file to fill, which takes the name ``path`` once it is whole and on the disk.

    It is written beside its place under a name that nobody can foresee. Where the block or the disk fails, nothing of
    it remains and a file that was there before is as it was.

    Raises:
        OSError: The file cannot be written.
    """
    before("create", path)
    temporary = path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with io.BufferedWriter(_SeamFile(descriptor, path)) as file:
            yield file
            file.flush()
            before("sync", path)
            os.fsync(descriptor)
        before("replace", path)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_file(temporary)
        raise
    sync_directory(path.parent)


class _SeamFile(io.FileIO):
    """An open file whose writes pass `before`, too."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any, /) -> int:
        before("write", self._path)
        return super().write(data)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole, or leave what is there; see `writing`."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 as a whole, or leave what is there; see `writing`."""
    write_bytes(path, text.encode("utf-8"))


def open_for_appending(path: Path) -> int:
    """Open a file to read it and to append to it, making it where it is missing; return its descriptor.

    Raises:
        OutputError: What has the name is a link, or no file at all.
        OSError: It cannot be opened.
    """
    before("create", path)
    try:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise OutputError(f"{str(path)!r} is a link or a directory: move it away, or choose another") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutputError(f"{str(path)!r} is no file: move it away, or choose another")
    return descriptor


def append(descriptor: int, content: bytes, path: Path) -> None:
    """Write at the end of an open file and wait until it is on the disk."""
    os.lseek(descriptor, 0, os.SEEK_END)
    data = memoryview(content)
    while data:
        before("append", path)
        data = data[os.write(descriptor, data) :]
    before("sync", path)
    os.fsync(descriptor)


def truncate(descriptor: int, length: int, path: Path) -> None:
    """Cut an open file."""
    before("truncate", path)
    os.ftruncate(descriptor, length)


def make_directory(path: Path) -> bool:
    """Make one directory; return False where one of that name, and no link to one, is there already.

    Raises:
        OSError: It cannot be made, or something else has the name.
    """
    before("mkdir", path)
    try:
        path.mkdir()
    except FileExistsError:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return False
        raise
    return True


def make_parents(path: Path) -> list[Path]:
    """Make the directories above a path that are missing; return those that were made, the topmost first."""
    missing = [folder for folder in path.parents if not folder.exists()]
    return [folder for folder in reversed(missing) if make_directory(folder)]


def rename(source: Path, target: Path) -> None:
    """Rename a file or a directory; a directory replaces none but an empty one."""
    before("rename", target)
    source.replace(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two directories exchange their names in one step; return False where the system cannot do that."""
    before("exchange", other)
    function = None
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def remove_file(path: Path) -> None:
    """Remove a file or a link; it is no fault that there is none."""
    before("unlink", path)
    path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    before("rmdir", path)
    path.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a directory with all that it holds, links themselves and not what they point to."""
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            remove_file(Path(entry.path))
    remove_directory(path)


def remove(path: Path) -> None:
    """Remove whatever has a name: a file, a link, or a directory with all that it holds."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        remove_tree(path)
    else:
        remove_file(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory as lasting as the files themselves."""
    if os.name != "posix":
        return
    before("sync directory", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems know no such call
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make a directory with all that it holds lasting: other libraries have written some of its files."""
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if not stat.S_ISREG(os.lstat(file).st_mode):
                continue
            before("sync", file)
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))
