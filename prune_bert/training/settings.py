"""What a training run is told, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from prune_bert.config.options import TrainOptions
from prune_bert.errors import UserError
from prune_bert.knobs import (
    CHECKPOINTING_STEPS,
    EARLY_STOPPING_PATIENCE,
    EVALUATION_STEPS,
    GRADIENT_ACCUMULATION_STEPS,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    MAX_SEQ_LENGTH,
    MAX_STEPS,
    NUM_TRAIN_EPOCHS,
    SEED,
    TRAIN_BATCH_SIZE,
    WARMUP_RATIO,
    WEIGHT_DECAY,
    range_faults,
)
from prune_bert.training.stopping import best_of


class TrainingError(UserError, ValueError):
    """Settings, data or a loss with which training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Every knob of the training loop; defaults and ranges are the configuration's.

    One optimiser step sees ``per_device_train_batch_size * gradient_accumulation_steps`` examples on each
    process. ``max_steps`` counts optimiser steps and, where given, wins over ``num_train_epochs``.
    ``checkpointing_steps`` None saves at the end of every epoch.

    A run with a validation is judged every ``evaluation_steps``, or at the end of every epoch, and at its end. It
    stops after ``early_stopping_patience`` validations in a row without a better score. With ``keep_best`` it is
    judged before the first step, too, and the weights of its best validation are put back at the end: it never
    ends with a lower score than it began with.

    Raises:
        TrainingError: A value is out of its range; the message lists all that are.
    """

    learning_rate: float = LEARNING_RATE.field()
    num_train_epochs: float = NUM_TRAIN_EPOCHS.field()
    max_steps: int | None = MAX_STEPS.field()
    per_device_train_batch_size: int = TRAIN_BATCH_SIZE.field()
    gradient_accumulation_steps: int = GRADIENT_ACCUMULATION_STEPS.field()
    weight_decay: float = WEIGHT_DECAY.field()
    warmup_ratio: float = WARMUP_RATIO.field()
    max_grad_norm: float = MAX_GRAD_NORM.field()
    max_seq_length: int = MAX_SEQ_LENGTH.field()
    seed: int = SEED.field()
    checkpointing_steps: int | None = CHECKPOINTING_STEPS.field()
    resume: bool = TrainOptions.resume
    early_stopping_patience: int | None = EARLY_STOPPING_PATIENCE.field(default=None)
    evaluation_steps: int | None = EVALUATION_STEPS.field(default=None)
    keep_best: bool = False

    def __post_init__(self) -> None:
        faults = range_faults(self)
        if faults:
            raise TrainingError("; ".join(faults))


@dataclass(frozen=True)
class HistoryPoint:
    """The mean loss over the optimiser steps since the point before, and the learning rate at ``step``."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run was, counted from its first step also where it was resumed.

    ``final_loss`` is the mean over the last stretch of ``history``; ``validation`` holds ``(step, score)``.
    """

    steps: int
    epochs: float
    final_loss: float
    mean_loss: float
    history: tuple[HistoryPoint, ...]
    seconds: float
    resumed_from: int | None
    validation: tuple[tuple[int, float], ...] = ()
    stopped_early: bool = False

    @property
    def best_validation(self) -> float | None:
        """The highest validation score of the run, or None without validation."""
        best = best_of(self.validation)
        return None if best is None else best[1]

    @property
    def best_step(self) -> int | None:
        """The step of the best validation, 0 for the weights it began with, or None without validation."""
        best = best_of(self.validation)
        return None if best is None else best[0]

    @property
    def final_validation(self) -> float | None:
        """The validation score at the end of the run, or None without validation."""
        return self.validation[-1][1] if self.validation else None
