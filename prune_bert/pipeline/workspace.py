"""The working directory of one run: beside its output, resumed after a kill, renamed into place at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from prune_bert.checkpoint import replace_directory
from prune_bert.checkpoint.staging import check_output_dir, target_of
from prune_bert.errors import UserError

Result = TypeVar("Result")

_STEPS = "steps"


class WorkspaceError(UserError):
    """Another run is at work on the same output directory."""


class Workspace:
    """A hidden directory beside ``output_dir`` that holds the finished steps of a run, each a JSON file.

    A run that was killed finds them there when it is started again with the same settings, model and data;
    with others it starts afresh. Only the main process writes.
    """

    def __init__(self, output_dir: str | Path, overwrite: bool, accelerator: Accelerator) -> None:
        self.target = check_output_dir(output_dir, overwrite)
        self.directory = working_directory(output_dir)
        self.seconds: dict[str, float] = {}
        self._accelerator = accelerator
        self._lock: Any = None

    def open(self, fingerprint: Mapping[str, Any], *, resume: bool = True, precious: str | None = None) -> bool:
        """Make the directory, or take up the one of a killed run with the same fingerprint.

        Args:
            fingerprint: What the results depend on.
            resume: Take up what is there; otherwise start afresh.
            precious: A subdirectory of training checkpoints: another run's are not thrown away unasked.

        Returns:
            Whether there is something to resume.

        Raises:
            WorkspaceError: If a living process is at work in it, it cannot be made, or it holds another run's training.
        """
        resumed = False
        if self._accelerator.is_main_process:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WorkspaceError(
                    f"output_dir {str(self.target)!r} cannot be made there ({error.strerror}); choose another"
                ) from error
            self._lock = _lock(self.directory)
            digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True, default=str).encode()).hexdigest()
            marker = self.directory / "fingerprint"
            if resume and marker.is_file() and marker.read_text() == digest:
                resumed = (self.directory / _STEPS).is_dir() and any((self.directory / _STEPS).iterdir())
            else:
                if resume and precious is not None:
                    _refuse_training(self.directory, precious)
                _empty(self.directory)
                (self.directory / _STEPS).mkdir()
                _write(marker, digest)
        return bool(self._same_everywhere(resumed))

    def step(
        self,
        name: str,
        compute: Callable[[], Result],
        encode: Callable[[Result], Any],
        decode: Callable[[Any], Result],
    ) -> Result:
        """Give a step's result: from disk where a run before has finished it, computed and written otherwise.

        Every process takes part in ``compute``; the result of the main process counts.
        """
        file = self.directory / _STEPS / f"{name}.json"
        stored = json.loads(file.read_text()) if self._accelerator.is_main_process and file.is_file() else None
        stored = self._same_everywhere(stored)
        if stored is None:
            start = time.perf_counter()
            result = compute()
            stored = {"seconds": time.perf_counter() - start, "result": encode(result)}
            if self._accelerator.is_main_process:
                _write(file, json.dumps(stored))
            stored = self._same_everywhere(stored)
        self.seconds[name] = stored["seconds"]
        return decode(stored["result"])

    def finish(self, drop: Sequence[str] = ()) -> Path:
        """Drop the steps (and other subdirectories) and rename the rest to ``output_dir``.

        What was there before goes only then.
        """
        if self._accelerator.is_main_process:
            for name in (_STEPS, *drop):
                shutil.rmtree(self.directory / name, ignore_errors=True)
            for name in ("fingerprint", "lock"):
                (self.directory / name).unlink(missing_ok=True)
            replace_directory(self.directory, self.target)
        self._accelerator.wait_for_everyone()
        return self.target

    def _same_everywhere(self, value: Any) -> Any:
        if self._accelerator.num_processes == 1:
            return value
        values = [value]
        broadcast_object_list(values)
        return values[0]


def working_directory(output_dir: str | Path) -> Path:
    """Give the hidden directory in which a run for ``output_dir`` works."""
    target = target_of(output_dir)
    return target.with_name(f".{target.name}.unfinished")


def _lock(directory: Path) -> Any:
    """Hold a lock that the system lets go of when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two runs on one directory are then not told apart
        return None
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise WorkspaceError(
            f"another run is at work on this output_dir (it holds {str(directory)!r}): wait for it, or choose another"
        ) from error
    return file


def _refuse_training(directory: Path, name: str) -> None:
    """Keep the hours of training that a run with other settings has left.

    Raises:
        WorkspaceError: There are some.
    """
    if any((directory / name).rglob("checkpoint-*.pt")):
        raise WorkspaceError(
            f"{str(directory)!r} holds the unfinished training of another run (other settings, model or data): finish "
            "that with its own settings, choose another --output_dir, or pass --no_resume to throw it away"
        )


def _empty(directory: Path) -> None:
    for item in directory.iterdir():
        if item.name == "lock":
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
