"""What a finished recovery gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prune_bert.display import Displayed, Shown, number
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


@dataclass(frozen=True, repr=False)
class RecoverResult(Displayed):
    """What a finished recovery was, counted from its start also where it was resumed.

    Attributes:
        phases: One for ``at_once``; one a site for ``gradual``, of which the last decides what is kept.
        train_samples: Rows that were trained on.
        selection_samples: Rows set aside to stop early and to keep the best.
    """

    phases: tuple[RecoverPhase, ...]
    train_samples: int
    selection_samples: int

    def _shown(self) -> Shown:
        facts = [
            ("rows set aside", f"{self.selection_samples:,}" if self.selection_samples else ""),
            ("best step", "" if not self.phases or self.best_step is None else str(self.best_step)),
            ("seconds", number(self.seconds)),
        ]
        early = ", stopped early" if self.phases and self.stopped_early else ""
        title = f"{self.steps:,} steps on {self.train_samples:,} rows{early}"
        rows = [(one.site or "", str(one.training.steps), number(one.training.seconds)) for one in self.phases]
        return Shown(title, facts, *((("after removing", "steps", "seconds"), rows) if len(rows) > 1 else ()))

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
