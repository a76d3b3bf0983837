"""The finished phases of a recovery on disk: complete or absent, and only ever continued by the run that wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from prune_bert.recovery.results import RecoverPhase
from prune_bert.storage import remove
from prune_bert.training import clear_checkpoints, state


class PhaseStore:
    """Where the phases of one recovery are kept: after each the whole model's weights and how it went.

    Within a phase the training loop keeps its own checkpoints in `directory`; they go once the phase is finished.

    Args:
        root: The directory, or None to keep nothing.
        fingerprint: What makes this recovery this recovery.
        accelerator: Only its main process writes.
    """

    def __init__(self, root: Path | None, fingerprint: Mapping[str, Any], accelerator: Accelerator) -> None:
        self._root = root
        self._fingerprint = dict(fingerprint)
        self._accelerator = accelerator

    def directory(self, phase: int) -> Path | None:
        """Return where the training loop keeps its checkpoints of a phase, counted from 0."""
        return None if self._root is None else self._root / f"phase-{phase:03d}"

    def load(self, resume: bool) -> tuple[list[RecoverPhase], dict[str, torch.Tensor]]:
        """Return the finished phases and the weights after the last; without resume, remove those of earlier runs.

        Raises:
            ResumeError: They belong to another recovery.
        """
        if self._root is None:
            return [], {}
        saved = state.load_newest(self._root, self._accelerator) if resume else None
        if saved is not None:
            state.check_fingerprint(saved["fingerprint"], self._fingerprint, self._root)
        self._accelerator.wait_for_everyone()  # nobody reads any more
        if self._accelerator.is_main_process and not resume:
            clear_checkpoints(self._root)
            self._remove_directories()
        self._accelerator.wait_for_everyone()
        if saved is None:
            return [], {}
        return [RecoverPhase.from_dict(phase) for phase in saved["phases"]], saved["weights"]

    def save(self, model: nn.Module, phases: Sequence[RecoverPhase]) -> None:
        """Write the weights after a phase, and let go of what the training loop kept."""
        if self._root is None:
            return
        if self._accelerator.is_main_process:
            payload = {
                "fingerprint": self._fingerprint,
                "phases": [asdict(phase) for phase in phases],
                "weights": all_weights(model),
            }
            state.save_checkpoint(self._root, len(phases), payload)
            self._remove_directories()
        self._accelerator.wait_for_everyone()

    def _remove_directories(self) -> None:
        if self._root is None:
            return
        for directory in self._root.glob("phase-[0-9][0-9][0-9]"):
            remove(directory)


def all_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter by name, frozen ones too: LoRA trains what is frozen before and after."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def put_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy what `all_weights` returned back into a model of the same structure."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
