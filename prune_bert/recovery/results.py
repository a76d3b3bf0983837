"""What a finished recovery gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prune_bert.training import HistoryPoint, TrainResult


@dataclass(frozen=True)
class RecoverPhase:
    """One stretch of training.

    Attributes:
        site: The site removed before it, as text, in the numbering of the model that was handed over; None where
            none was.
        training: How the training went.
    """

    site: str | None
    training: TrainResult

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecoverPhase:
        """Read what ``dataclasses.asdict`` made of one."""
        training = dict(data["training"])
        training["history"] = tuple(HistoryPoint(**point) for point in training["history"])
        training["validation"] = tuple((step, score) for step, score in training["validation"])
        return cls(data["site"], TrainResult(**training))


@dataclass(frozen=True)
class RecoverResult:
    """What a finished recovery was, counted from its start also where it was resumed.

    Attributes:
        phases: One for ``at_once``; one a site for ``gradual``, of which the last decides what is kept.
        train_samples: Rows that were trained on.
        selection_samples: Rows set aside to stop early and to keep the best.
    """

    phases: tuple[RecoverPhase, ...]
    train_samples: int
    selection_samples: int

    @property
    def steps(self) -> int:
        """Optimiser steps taken in all phases."""
        return sum(phase.training.steps for phase in self.phases)

    @property
    def seconds(self) -> float:
        """Seconds of training in all phases."""
        return sum(phase.training.seconds for phase in self.phases)

    @property
    def stopped_early(self) -> bool:
        """Whether the last phase stopped before its last step."""
        return self.phases[-1].training.stopped_early

    @property
    def best_step(self) -> int | None:
        """The step of the last phase that did best on the slice set aside; 0 for what it began with."""
        return self.phases[-1].training.best_step

    @property
    def selection_losses(self) -> tuple[tuple[int, float], ...]:
        """Steps of the last phase and the mean loss at each on the slice set aside."""
        return tuple((step, -score) for step, score in self.phases[-1].training.validation)
