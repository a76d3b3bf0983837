"""The decision to resume: what of an unfinished run on disk is still valid for the run that starts now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune_bert.errors import UserError
from prune_bert.pipeline.fingerprints import NAMED
from prune_bert.search.changes import Change, changes, summary


class ResumingError(UserError):
    """An unfinished training that the run about to start cannot continue and must not throw away unasked."""


@dataclass(frozen=True)
class Marker:
    """What an unfinished run recorded of what it depends on.

    Attributes:
        steps: What its finished steps depend on; empty while they are being thrown away.
        state: What its training depends on; empty where it has none.
    """

    steps: Mapping[str, Any]
    state: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Marker | None:
        """Read what `text` returned; None where it is empty, or another version of this project wrote it."""
        try:
            stored = json.loads(text)
            return cls(dict(stored["steps"]), dict(stored["state"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def text(self) -> str:
        """Return it as it is stored."""
        return json.dumps({"steps": self.steps, "state": self.state}, sort_keys=True)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Change, ...]:
    """List what differs between two fingerprints; what only names things is listed where what it names differs."""
    apart = [{name: value for name, value in one.items() if name != NAMED} for one in (stored, wanted)]
    found = changes(*apart)
    return (*changes({NAMED: stored.get(NAMED)}, {NAMED: wanted.get(NAMED)}), *found) if found else ()


def keeps_training(directory: Path, name: str, stored: Marker | None, wanted: Marker) -> bool:
    """Return whether there is training on disk that this run continues; refuse to start where it is another run's.

    Args:
        directory: The working directory.
        name: The subdirectory of the training checkpoints.
        stored: What the run before recorded.
        wanted: What the run about to start depends on.

    Raises:
        ResumingError: There are some; the message says what changed.
    """
    if not any((directory / name).rglob("checkpoint-*.pt")):
        return False
    found = None if stored is None else differences(stored.state, wanted.state)
    if found is None or found:
        what = summary(found) if found else "what it depended on is not known"
        raise ResumingError(
            f"{str(directory)!r} holds the unfinished training of another run ({what}): finish that with its own "
            "settings, choose another --output_dir, or pass --no_resume to throw it away"
        )
    return True


def afresh(directory: Path, stored: Marker, wanted: Marker, *, kept: bool) -> str:
    """Say in one line why finished steps are not used, and whether the training is."""
    rest = "its training goes on, its other steps start afresh" if kept else "it starts afresh"
    changed = summary(differences(stored.steps, wanted.steps))
    return f"the unfinished run in {str(directory)!r} is not resumed ({changed}); {rest}"
