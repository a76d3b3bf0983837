"""A journal on disk of what a search has found, so that a killed one loses at most the batch in hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

from prune_bert.plan import PruningPlan
from prune_bert.search.changes import changes, summary
from prune_bert.search.objective import SearchError
from prune_bert.search.racing import LossesOfBatch
from prune_bert.storage import files

Value = TypeVar("Value")

_NAMED = 6
_HEADER = '{"prune_bert_journal": 1, "fingerprint": '


class Journal:
    """JSON lines, one a value found, each written through to the disk before the search goes on.

    The first line holds the fingerprint of the run, all that its values depend on. The file is locked as long as
    the journal is open, and the system lets go of the lock when the process ends, however it ends. Use `open`, or
    `replica` on the processes of a run that do not write.
    """

    def __init__(
        self, known: Mapping[str, Any], descriptor: int | None = None, path: str | Path = "journal.jsonl"
    ) -> None:
        self._known = dict(known)
        self._descriptor = descriptor
        self._path = Path(path)

    @classmethod
    def open(cls, path: str | Path, fingerprint: Mapping[str, Any] | str) -> Journal:
        """Begin a journal, or take one up that was begun with the same fingerprint.

        Raises:
            SearchError: Another process has it open, it belongs to another run, or it is no journal.
            OutputError: It is a link, or no file.
        """
        path = Path(path)
        files.make_parents(path)
        descriptor = files.open_for_appending(path)
        try:
            _lock(descriptor, path)
            known = _take_up(descriptor, path, fingerprint)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(known, descriptor, path)

    @classmethod
    def replica(cls, known: Mapping[str, Any]) -> Journal:
        """Make a journal without a file, for the other processes of a run: they must know what the writer knows."""
        return cls(known)

    @property
    def known(self) -> Mapping[str, Any]:
        """The values by key, those of the runs before included."""
        return MappingProxyType(self._known)

    def record(self, values: Mapping[str, Any]) -> None:
        """Write values and wait until they are on the disk."""
        lines = [json.dumps({"key": key, "value": value}, default=float) for key, value in values.items()]
        if self._descriptor is not None:
            files.append(self._descriptor, "".join(f"{line}\n" for line in lines).encode(), self._path)
        # what a resumed run would read, to the bit
        self._known |= {item["key"]: item["value"] for item in map(json.loads, lines)}

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def journaled(
    compute: Callable[[Sequence[PruningPlan]], Sequence[Value]], journal: Journal
) -> Callable[[Sequence[PruningPlan]], Sequence[Value]]:
    """Wrap an objective, or anything that gives each plan a value that JSON has, so that no plan is computed twice.

    Only plans that the journal does not know are computed, in one call; strategies divide their plans into calls of
    `plans_per_call`, which bounds what a kill loses.
    """

    def known_or_computed(plans: Sequence[PruningPlan]) -> Sequence[Value]:
        unknown = list(dict.fromkeys(plan for plan in plans if str(plan) not in journal.known))
        if unknown:
            values = compute(unknown)
            if len(values) != len(unknown):
                raise SearchError(f"{len(values)} values came for {len(unknown)} plans; one each is needed")
            journal.record({str(plan): value for plan, value in zip(unknown, values, strict=True)})
        return [journal.known[str(plan)] for plan in plans]

    return known_or_computed


def journaled_losses(losses_of_batch: LossesOfBatch, journal: Journal, objective: str = "losses") -> LossesOfBatch:
    """Wrap the losses of a race in the same way; here the batch in hand is one calibration batch of all its plans.

    Args:
        losses_of_batch: The losses.
        journal: Where they are kept.
        objective: What the losses are of: those of one objective are never read for another.
    """

    def known_or_computed(plans: Sequence[PruningPlan], batch: int) -> Sequence[Sequence[float]]:
        keys = {plan: f"{objective} in batch {batch} of {plan}" for plan in plans}
        unknown = [plan for plan, key in keys.items() if key not in journal.known]
        if unknown:
            rows = zip(unknown, losses_of_batch(unknown, batch), strict=True)
            journal.record({keys[plan]: [float(loss) for loss in row] for plan, row in rows})
        return [journal.known[keys[plan]] for plan in plans]

    return known_or_computed


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two runs on one journal are then not told apart
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SearchError(
            f"another search is at work on {str(path)!r}: wait for it, or choose another output directory"
        ) from error


def _take_up(descriptor: int, path: Path, fingerprint: Mapping[str, Any] | str) -> dict[str, Any]:
    """Read what is there, drop a torn last line, and write the header where there is none."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read()
    header = f"{_HEADER}{json.dumps(fingerprint, sort_keys=True, default=str)}}}"
    first, newline, rest = data.partition(b"\n")
    if not newline and (_HEADER.encode().startswith(first) or first.startswith(_HEADER.encode())):
        files.truncate(descriptor, 0, path)  # killed before the first line was whole, or never begun
        files.append(descriptor, f"{header}\n".encode(), path)
        files.sync_directory(path.parent)
        return {}
    _check_header(first, header, path)
    known, good = _values(rest, path)
    files.truncate(descriptor, len(first) + 1 + good, path)
    return known


def _check_header(found: bytes, expected: str, path: Path) -> None:
    try:
        stored = json.loads(found)["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise SearchError(f"{str(path)!r} is not the journal of a search; choose another output directory") from error
    differing = changes(stored, json.loads(expected)["fingerprint"])
    if differing:
        names = ", ".join(change.name for change in differing[:_NAMED]) or "its fingerprint"
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        values = f" ({summary(differing)})" if differing[0].name else ""
        raise SearchError(
            f"{str(path)!r} is the journal of another run (different: {names}{more}){values}; run with the same "
            "settings, choose another output directory, or delete the journal to start afresh"
        )


def _values(data: bytes, path: Path) -> tuple[dict[str, Any], int]:
    """Read the lines after the first.

    Returns:
        The values by key, and how many bytes hold whole lines.

    Raises:
        SearchError: A line before the last is damaged.
    """
    known: dict[str, Any] = {}
    good = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            item = json.loads(line)
            if line.endswith(b"\n"):
                known[item["key"]] = item["value"]
                good += len(line)
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines) - 1:
                raise SearchError(
                    f"line {number + 2} of {str(path)!r} is damaged; delete the journal to start afresh"
                ) from error
    return known, good
