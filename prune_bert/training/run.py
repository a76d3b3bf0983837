"""One training run: what it holds on to, how accelerate wraps it, and how it is saved and continued."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import nn

from prune_bert.training import state
from prune_bert.training.batches import BatchOrder
from prune_bert.training.examples import TrainingExamples
from prune_bert.training.losses import LossFunction
from prune_bert.training.settings import TrainingError, TrainSettings
from prune_bert.training.stopping import should_stop

Validation = Callable[[nn.Module], float]

_NOT_OF_THE_RESULT = ("checkpointing_steps", "resume")  # settings that leave the trained weights as they are
# what accelerate leaves on a model; with the last one there, it would pass over the model the next time
_MARKS = ("forward", "_original_forward", "_is_accelerate_prepared")


@dataclass
class Record:
    """What is counted while training, saved with each checkpoint."""

    step: int = 0
    loss_sum: float = 0.0
    window_sum: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """Everything that one training run holds on to; ``prepared`` is ``model`` as accelerate wraps it.

    ``best_weights`` are those of the best validation so far, where the settings keep them.
    """

    model: nn.Module
    prepared: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    settings: TrainSettings
    order: BatchOrder
    examples: TrainingExamples
    loss_function: LossFunction
    record: Record
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """How many optimiser steps the whole run has."""
        return planned_steps(self.settings, self.order)

    @property
    def stopped(self) -> bool:
        """Whether the run's patience is at an end."""
        return should_stop(self.record.validation, self.settings.early_stopping_patience)

    @property
    def fp16(self) -> bool:
        """Whether gradients are scaled, so that a step with infinite ones is skipped rather than a fault."""
        return self.accelerator.scaler is not None


def batch_order(lengths: np.ndarray, settings: TrainSettings, processes: int) -> BatchOrder:
    """Return the order of examples of these lengths for these settings and this many processes."""
    return BatchOrder(
        lengths=lengths,
        batch_size=settings.per_device_train_batch_size,
        batches_per_step=processes * settings.gradient_accumulation_steps,
        seed=settings.seed,
    )


def planned_steps(settings: TrainSettings, order: BatchOrder) -> int:
    """Return how many optimiser steps a run has that does not stop early."""
    return settings.max_steps or math.ceil(settings.num_train_epochs * order.steps_per_epoch)


@contextmanager
def prepared_model(
    accelerator: Accelerator, model: nn.Module, settings: TrainSettings
) -> Iterator[tuple[nn.Module, torch.optim.Optimizer]]:
    """Yield the model and its optimiser as accelerate wraps them, and unwrap the model at the end."""
    own = {name: model.__dict__[name] for name in _MARKS if name in model.__dict__}
    model.train()
    try:
        yield accelerator.prepare(model, _optimizer(model, settings))
    finally:
        accelerator.free_memory()
        for name in _MARKS:
            model.__dict__.pop(name, None)
        model.__dict__.update(own)
        model.zero_grad()
        model.eval()


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW over the trainable parameters, with decay on matrices only, not on biases and norms.

    Raises:
        TrainingError: Every parameter is frozen.
    """
    trainable = trainable_parameters(model)
    if not trainable:
        raise TrainingError("no parameter of the model is trainable; set requires_grad on some, or add LoRA")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


@contextmanager
def random_state_kept(seed: int) -> Iterator[None]:
    """Seed every generator for the run and put the caller's random state back afterwards."""
    random_state = state.capture_random_state()
    set_seed(seed)
    try:
        yield
    finally:
        state.restore_random_state(random_state)


def save_run(run: Run, state_dir: Path, fingerprint: Mapping[str, Any]) -> None:
    """Write a checkpoint from the main process, with the random state of every process."""
    random_states = gather_object([state.capture_random_state()])
    if run.accelerator.is_main_process:
        payload = {
            "fingerprint": dict(fingerprint),
            "record": asdict(run.record),
            "weights": state.trainable_weights(run.model),
            "best_weights": run.best_weights,
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.accelerator.scaler.state_dict() if run.fp16 else None,
            "random_states": random_states,
        }
        state.save_checkpoint(state_dir, run.record.step, payload)
    run.accelerator.wait_for_everyone()


def restore_run(run: Run, saved: Mapping[str, Any]) -> None:
    """Put weights, optimiser, gradient scale and this process's random state back from a checkpoint."""
    state.load_trainable_weights(run.model, saved["weights"])
    run.best_weights.update(saved["best_weights"])
    run.optimizer.load_state_dict(saved["optimizer"])
    if run.fp16:
        run.accelerator.scaler.load_state_dict(saved["scaler"])
    state.restore_random_state(saved["random_states"][run.accelerator.process_index])


def saved_state(
    state_dir: Path | None, fingerprint: Mapping[str, Any], settings: TrainSettings, accelerator: Accelerator
) -> dict[str, Any] | None:
    """Return the checkpoint to go on from, if there is one; without resume, remove those of earlier runs."""
    if state_dir is None:
        return None
    if settings.resume:
        saved = state.load_newest(state_dir, accelerator)
        if saved is not None:
            state.check_fingerprint(saved["fingerprint"], fingerprint, state_dir)
    else:
        saved = None
        if accelerator.is_main_process:
            state.clear_checkpoints(state_dir)
    accelerator.wait_for_everyone()
    return saved


def run_fingerprint(
    model: nn.Module,
    data: str,
    settings: TrainSettings,
    accelerator: Accelerator,
    loss_function: LossFunction,
    validation: Validation | None = None,
) -> dict[str, Any]:
    """Return what makes a run this run; a resumed one must agree in all of it.

    A loss function and a validation that have a ``fingerprint()`` tell their settings and their data by it.
    """
    trainable = sum(p.numel() for p in trainable_parameters(model))
    fingerprint = {name: value for name, value in asdict(settings).items() if name not in _NOT_OF_THE_RESULT}
    fingerprint |= {
        "loss_function": getattr(loss_function, "__qualname__", type(loss_function).__qualname__),
        "mixed_precision": str(accelerator.mixed_precision),
        "processes": accelerator.num_processes,
        "training examples": data,
        "trainable parameters": trainable,
        "initial weights": state.weights_fingerprint(model),
        "model config": state.config_fingerprint(model),
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
    }
    parts: tuple[Any, ...] = (loss_function, validation)
    for part in parts:
        if hasattr(part, "fingerprint"):
            fingerprint |= part.fingerprint()
    shared = [fingerprint]
    broadcast_object_list(shared)  # a fresh head may differ between processes; the main process's counts
    return shared[0]
