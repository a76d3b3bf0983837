"""Checkpoints of a training run: complete or absent, and only ever continued by the run that wrote them."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from prune_bert.errors import UserError
from prune_bert.search.changes import changes
from prune_bert.storage import files

KEPT = 2
_NOT_OF_THE_MODEL = ("_name_or_path", "_commit_hash", "transformers_version")
_NAME = re.compile(r"checkpoint-(\d{8})\.pt")


class ResumeError(UserError):
    """A training checkpoint that this run cannot continue from, or cannot write."""


def save_checkpoint(state_dir: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step under a temporary name, rename it, and remove all but the newest two.

    Raises:
        ResumeError: The directory cannot be written, or the disk is full; earlier checkpoints remain.
    """
    path = state_dir / f"checkpoint-{step:08d}.pt"
    try:
        files.make_parents(path)
        with files.writing(path) as file:
            torch.save(dict(payload), file)
        for old in _checkpoints(state_dir)[:-KEPT]:
            files.remove_file(old)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = " ".join(str(error).split())
        raise ResumeError(
            f"cannot write the training checkpoint {path}: {reason}; free some space or give another directory"
        ) from error
    return path


def load_newest(state_dir: Path, accelerator: Accelerator | None = None) -> dict[str, Any] | None:
    """Return the newest checkpoint that every process can read, or None; one that cannot be read is named on stderr.

    Without an accelerator this process decides alone.
    """
    for path in reversed(_same_everywhere(_checkpoints(state_dir), accelerator)):
        payload, reason = _load(path)
        reasons = [reason] if accelerator is None else gather_object([reason])
        if not any(reasons):
            return payload
        if accelerator is None or accelerator.is_main_process:
            first = next(filter(None, reasons))
            sys.stderr.write(f"warning: passing over the damaged training checkpoint {path}: {first}\n")
    return None


def _load(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Read a checkpoint, or say why it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True), ""
    except Exception as error:  # on damaged bytes the unpickler raises whatever its next step comes upon
        return None, (str(error).splitlines() or [type(error).__name__])[0]


def _same_everywhere(paths: list[Path], accelerator: Accelerator | None) -> list[Path]:
    """Return the main process's list on every process."""
    shared = [paths]
    if accelerator is not None:
        broadcast_object_list(shared)
    return shared[0]


def clear_checkpoints(state_dir: Path) -> None:
    """Remove every training checkpoint, also half-written ones, and leave other files alone."""
    for pattern in ("checkpoint-*.pt.tmp", files.TEMPORARY):
        for path in state_dir.glob(pattern):
            files.remove_file(path)
    for path in _checkpoints(state_dir):
        files.remove_file(path)


def check_fingerprint(saved: Mapping[str, Any], current: Mapping[str, Any], state_dir: Path) -> None:
    """Refuse a checkpoint that a run with other settings, data or weights wrote.

    Raises:
        ResumeError: The message names everything that differs.
    """
    differences = [
        f"{change.name} was {change.before!r} and is now {change.after!r}" for change in changes(saved, current)
    ]
    if differences:
        raise ResumeError(
            f"the training checkpoint in {state_dir} belongs to another run: {'; '.join(differences)}; "
            "continue it with its own settings, switch resume off to start anew, or give another directory"
        )


def weights_fingerprint(model: nn.Module) -> str:
    """Return a digest of the names, shapes, trainability and values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}{parameter.requires_grad}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def config_fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return a model's config as JSON has it, without what only says where it came from; empty where it has none."""
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {}
    kept = {str(name): value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def data_fingerprint(rows: Iterable[np.ndarray]) -> str:
    """Return a digest of arrays: the token ids of every example and the labels."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.shape}{row.dtype}".encode())
        digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()[:16]


def trainable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that training changes, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def load_trainable_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy what `trainable_weights` returned back into the model."""
    with torch.no_grad():
        for name, parameter in trainable_weights(model).items():
            parameter.copy_(weights[name])


def capture_random_state() -> dict[str, Any]:
    """Return the state of every random generator that a forward pass may draw from on this process."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `capture_random_state` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _checkpoints(state_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a directory, oldest first."""
    return sorted(path for path in state_dir.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name))
