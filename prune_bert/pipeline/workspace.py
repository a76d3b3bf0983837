"""The working directory of one run: beside its output, resumed after a kill, renamed into place at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from prune_bert import storage
from prune_bert.errors import UserError
from prune_bert.storage import OutputDirectory, WorkingDirectory, output_directory

Result = TypeVar("Result")

_STEPS = "steps"
# The settings that name something on this machine which a run reads.
_INPUTS = (
    "model_name_or_path",
    "tokenizer_name",
    "teacher_name_or_path",
    "data_dir",
    "train_file",
    "validation_file",
    "plan",
)


class WorkspaceError(UserError):
    """The working directory holds the unfinished training of another run."""


class Workspace:
    """A hidden directory beside ``output_dir`` that holds the finished steps of a run, each a JSON file.

    A run that was killed finds them there when it is started again with the same settings, model and data;
    with others it starts afresh. Only the main process writes. Once it is open, it is a context: a run that fails
    before anything is finished leaves nothing behind.

    Args:
        config: Its ``output_dir``, whether to overwrite it, and what the run reads and never overwrites.
        accelerator: The processes of the run.
        companions: The ends of the hidden names of files beside the output directory that end with the run.

    Raises:
        OutputError: The output directory may not, or cannot, be written.
    """

    def __init__(self, config: Any, accelerator: Accelerator, companions: Sequence[str] = ()) -> None:
        self._output = checked_output(config, accelerator)
        self.target = self._output.path
        self.seconds: dict[str, float] = {}
        self._working = WorkingDirectory(self.target, companions=companions)
        self._accelerator = accelerator

    @property
    def directory(self) -> Path:
        """What becomes the output directory."""
        return self._working.output

    @property
    def root(self) -> Path:
        """The hidden directory itself, for what is needed only to resume."""
        return self._working.root

    def open(self, fingerprint: Mapping[str, Any], *, resume: bool = True, precious: str | None = None) -> bool:
        """Make the directory, or take up the one of a killed run with the same fingerprint.

        Args:
            fingerprint: What the results depend on.
            resume: Take up what is there; otherwise start afresh.
            precious: A subdirectory of training checkpoints: another run's are not thrown away unasked.

        Returns:
            Whether there is something to resume.

        Raises:
            OutputError: If a living process is at work in it, another run has finished meanwhile, or it cannot be made.
            WorkspaceError: If it holds another run's training.
        """
        resumed = False
        if self._accelerator.is_main_process:
            digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True, default=str).encode()).hexdigest()
            same = self._working.open(self._output) == digest
            try:
                if resume and same:
                    self._working.resume()
                else:
                    if resume and precious is not None and not self._working.cleared:
                        _refuse_training(self.root, precious)
                    self._working.begin(digest)
                storage.make_directory(self.root / _STEPS)
                resumed = any((self.root / _STEPS).iterdir())
            except BaseException:
                self._working.release()
                raise
        return bool(self._same_everywhere(resumed))

    def step(
        self,
        name: str,
        compute: Callable[[], Result],
        encode: Callable[[Result], Any],
        decode: Callable[[Any], Result],
    ) -> Result:
        """Return a step's result: from disk where a run before has finished it, computed and written otherwise.

        Every process takes part in ``compute``; the result of the main process counts.
        """
        file = self.root / _STEPS / f"{name}.json"
        stored = json.loads(file.read_text()) if self._accelerator.is_main_process and file.is_file() else None
        stored = self._same_everywhere(stored)
        if stored is None:
            start = time.perf_counter()
            result = compute()
            stored = {"seconds": time.perf_counter() - start, "result": encode(result)}
            if self._accelerator.is_main_process:
                storage.write_text(file, json.dumps(stored))
            stored = self._same_everywhere(stored)
        self.seconds[name] = stored["seconds"]
        return decode(stored["result"])

    def remove(self, name: str) -> None:
        """Remove from the directory what a killed run may have left under a name; on the main process."""
        storage.remove(self.directory / name)

    def finish(self) -> Path:
        """Rename the directory to ``output_dir``; what was there before, and the steps, go only then.

        Raises:
            OutputError: The output directory holds by now what prune_bert did not write.
        """
        if self._accelerator.is_main_process:
            self._working.publish()
        self._accelerator.wait_for_everyone()
        return self.target

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the lock and, where the run failed before anything was finished, of the whole directory."""
        if not self._accelerator.is_main_process:
            return
        if exc is None or self._anything_to_resume():
            self._working.release()
        else:
            self._working.discard()

    def _anything_to_resume(self) -> bool:
        if not self.root.is_dir():
            return False
        kept = [item for item in self.root.iterdir() if item.is_dir() and item != self.directory]
        return any(item.is_file() for folder in kept for item in folder.rglob("*"))

    def _same_everywhere(self, value: Any) -> Any:
        if self._accelerator.num_processes == 1:
            return value
        values = [value]
        broadcast_object_list(values)
        return values[0]


def checked_output(config: Any, accelerator: Accelerator) -> OutputDirectory:
    """Check the output directory of a run before any work; the main process tidies up after a killed run first.

    Raises:
        OutputError: It may not, or cannot, be written.
    """
    check = output_directory if accelerator.is_main_process else OutputDirectory
    return check(config.output_dir, config.overwrite_output_dir, inputs_of(config))


def working_directory(output_dir: str | Path) -> Path:
    """Return the directory in which a run for ``output_dir`` gathers its results."""
    return WorkingDirectory(storage.resolved(output_dir)).output


def inputs_of(config: Any) -> dict[str, str]:
    """Return what a run reads from this machine, by the names of its settings."""
    given = {name: getattr(config, name, None) for name in _INPUTS}
    found = {name: str(value) for name, value in given.items() if value is not None}
    if not found.get("plan", "").endswith(".json"):
        found.pop("plan", None)
    return found


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
