"""The working directory of one run: beside its output, resumed after a kill, renamed into place at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from prune_bert import storage
from prune_bert.pipeline.resuming import Marker, afresh, differences, keeps_training
from prune_bert.storage import OutputDirectory, WorkingDirectory, output_directory

Result = TypeVar("Result")

_STEPS = "steps"
STATE = "state"
"""The subdirectory of the working directory in which a training keeps its checkpoints."""

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

    def open(
        self,
        fingerprint: Mapping[str, Any],
        *,
        resume: bool = True,
        precious: str | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make the directory, or take up what a killed run has left of which the fingerprint is the same.

        Args:
            fingerprint: What the finished steps depend on.
            resume: Take up what is there; otherwise start afresh.
            precious: A subdirectory of training checkpoints: another run's are not thrown away unasked.
            training: What that training depends on, by default what the steps do: with steps of another fingerprint
                it is kept all the same.

        Returns:
            Whether there are finished steps to resume from.

        Raises:
            OutputError: If a living process is at work in it, another run has finished meanwhile, or it cannot be made.
            ResumingError: If it holds another run's training.
        """
        resumed = False
        if self._accelerator.is_main_process:
            stored = Marker.parse(self._working.open(self._output))
            try:
                state = fingerprint if training is None and precious is not None else training
                wanted = Marker(fingerprint, state or {})
                resumed = self._take_up(stored if resume else None, wanted, precious if resume else None)
            except BaseException:
                self._working.release()
                raise
        return bool(self._same_everywhere(resumed))

    def _take_up(self, stored: Marker | None, wanted: Marker, precious: str | None) -> bool:
        """Keep what is valid, throw the rest away, and record what this run depends on."""
        steps = self.root / _STEPS
        finished = steps.is_dir() and any(steps.iterdir())
        protected = None if self._working.cleared else precious
        kept = protected is not None and keeps_training(self.root, protected, stored, wanted)
        if stored is not None and not differences(stored.steps, wanted.steps):
            self._working.resume()
            storage.make_directory(steps)
            return finished
        if stored is not None and stored.steps and finished:
            sys.stderr.write(f"note: {afresh(self.root, stored, wanted, kept=kept)}\n")
        # a kill from here on leaves no step, and no training, under a wrong fingerprint
        keep = (protected,) if kept and protected is not None else ()
        self._working.begin(wanted.text(), keep=keep, meanwhile=Marker({}, wanted.state).text())
        storage.make_directory(steps)
        return False

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
