"""The list of files that prune_bert wrote into a directory: what is not on it, or was changed since, is somebody's."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prune_bert.storage.files import TEMPORARY, remove_file, write_text
from prune_bert.storage.legacy import foreign_to_earlier_versions

MANIFEST = ".prune_bert_manifest.json"
_VERSION = 1
_CHUNK = 1 << 20

Entry = Mapping[str, Any]


def seal(directory: Path, token: str = "") -> None:
    """Write the manifest of a directory, and anew those of directories in it that have one.

    Args:
        directory: All its files are prune_bert's.
        token: Of the run that wrote it; see `token_of`.
    """
    for temporary in directory.rglob(TEMPORARY):
        remove_file(temporary)
    for nested in sorted(directory.rglob(MANIFEST), reverse=True):
        if nested.parent != directory:
            _write(nested.parent, _entries(nested.parent), token_of(nested.parent))
    _write(directory, _entries(directory), token)


def token_of(directory: Path) -> str:
    """Return the token of the run that wrote a directory; empty where nothing tells."""
    stored = _read(directory / MANIFEST)
    return "" if stored is None else str(stored.get("token", ""))


def foreign_file(directory: Path) -> str | None:
    """Return a file in a directory that prune_bert did not write, or that was changed since; None where all are its.

    Returns:
        What it is, in words that go on from "holds".
    """
    for folder, names in _by_manifest(directory):
        stored = _read(folder / MANIFEST)
        if stored is None:
            found = foreign_to_earlier_versions(folder, names)
        else:
            found = next((said for name in names if (said := _fault(folder, name, stored["files"]))), None)
        if found is not None:
            return found
    return None


def foreign_among(directory: Path, names: Iterable[str]) -> str | None:
    """Return one of the files of these names that prune_bert did not write; None where all are its, or absent."""
    present = [name for name in names if os.path.lexists(directory / name)]
    stored = _read(directory / MANIFEST)
    if stored is None:
        return foreign_to_earlier_versions(directory, present) if present else None
    return next((said for name in present if (said := _fault(directory, name, stored["files"]))), None)


def enlist(directory: Path, names: Iterable[str], *, finished: bool) -> None:
    """Put files onto the manifest of a directory that has other files beside them.

    Args:
        directory: The directory.
        names: Of the files; one that is not there is taken off the list.
        finished: They are as they will stay; otherwise they are being written, and any content is theirs.
    """
    stored = _read(directory / MANIFEST)
    if stored is None:
        known, unknown = {}, [name for name, _ in _files(directory) if name != MANIFEST]
        if foreign_to_earlier_versions(directory, unknown) is None:
            known = _entries(directory)
    else:
        known = dict(stored["files"])
    for name in names:
        known.pop(name, None)
        if not finished:
            known[name] = {}
        elif (directory / name).is_file():
            known[name] = _entry(directory / name)
    _write(directory, known, token_of(directory))


def _write(directory: Path, entries: Mapping[str, Entry], token: str) -> None:
    content = {"prune_bert_manifest": _VERSION, "token": token, "files": dict(sorted(entries.items()))}
    write_text(directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a manifest says; None where there is none, or another file of its name."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    listed = isinstance(stored, dict) and stored.get("prune_bert_manifest") == _VERSION and stored.get("files")
    return stored if isinstance(listed, dict) else None


def _by_manifest(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each directory that has a manifest, the outermost in any case, with the files that are its to list."""
    groups: dict[Path, list[str]] = {directory: []}
    for _, path in _files(directory):
        owner = next(folder for folder in path.parents if folder == directory or (folder / MANIFEST).exists())
        if path != owner / MANIFEST:
            groups.setdefault(owner, []).append(path.relative_to(owner).as_posix())
    yield from groups.items()


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield everything in a directory that is not itself a directory, with its relative name."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(folder, name)
            yield path.relative_to(directory).as_posix(), path


def _entries(directory: Path) -> dict[str, Entry]:
    own = dict(_by_manifest(directory))[directory]
    paths = {name: directory / name for name in own}
    return {name: _entry(path) for name, path in paths.items() if path.is_file() or path.is_symlink()}


def _entry(path: Path) -> Entry:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):  # a tracker's, such as wandb's to its latest run
        return {"link": str(path.readlink())}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": _digest(path)}


def _fault(directory: Path, name: str, listed: Mapping[str, Entry]) -> str | None:
    """Say what is wrong with a file; nothing where it is as it was written."""
    path, entry, status = directory / name, listed.get(name), os.lstat(directory / name)
    if stat.S_ISREG(status.st_mode) and fnmatch.fnmatch(path.name, TEMPORARY):
        return None
    if entry is not None and stat.S_ISLNK(status.st_mode) and entry.get("link") == str(path.readlink()):
        return None
    if entry is None or not stat.S_ISREG(status.st_mode):
        return f"{str(path)!r}, which prune_bert did not write"
    if not entry or (entry.get("size"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
        return None
    if entry.get("size") == status.st_size and entry.get("sha256") == _digest(path):
        return None
    return f"{str(path)!r}, which was changed after prune_bert wrote it"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
