"""What a training run is told, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from prune_bert.config.options import RuntimeOptions, TaskOptions, TrainOptions
from prune_bert.errors import UserError
from prune_bert.training.stopping import best_of


class TrainingError(UserError, ValueError):
    """Settings, data or a loss with which training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Every knob of the training loop; the defaults are the configuration's.

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

    learning_rate: float = TrainOptions.learning_rate
    num_train_epochs: float = TrainOptions.num_train_epochs
    max_steps: int | None = TrainOptions.max_steps
    per_device_train_batch_size: int = TrainOptions.per_device_train_batch_size
    gradient_accumulation_steps: int = TrainOptions.gradient_accumulation_steps
    weight_decay: float = TrainOptions.weight_decay
    warmup_ratio: float = TrainOptions.warmup_ratio
    max_grad_norm: float = TrainOptions.max_grad_norm
    max_seq_length: int = TaskOptions.max_seq_length
    seed: int = RuntimeOptions.seed
    checkpointing_steps: int | None = TrainOptions.checkpointing_steps
    resume: bool = TrainOptions.resume
    early_stopping_patience: int | None = None
    evaluation_steps: int | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be {rule}, not {getattr(self, name)!r}" for name, rule, holds in self._rules() if not holds
        ]
        if faults:
            raise TrainingError("; ".join(faults))

    def _rules(self) -> list[tuple[str, str, bool]]:
        """Name, rule in words, and whether it holds, for every field that has a range."""
        rules = [
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("num_train_epochs", "above 0", self.num_train_epochs > 0),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("warmup_ratio", "from 0 to 1", 0 <= self.warmup_ratio <= 1),
            ("max_grad_norm", "0 (no clipping) or more", self.max_grad_norm >= 0),
        ]
        optional = ("max_steps", "checkpointing_steps", "early_stopping_patience", "evaluation_steps")
        rules += [(name, "at least 1, or none", _is_count_or_none(getattr(self, name))) for name in optional]
        counts = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_seq_length")
        return rules + [(name, "at least 1", getattr(self, name) >= 1) for name in counts]


def _is_count_or_none(value: int | None) -> bool:
    return value is None or value >= 1


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
