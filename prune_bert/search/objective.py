"""What a search minimises, what it found of one plan, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan

Objective = Callable[[Sequence[PruningPlan]], Sequence[float]]
"""Assigns each plan a number, a loss: lower is better. It gets many plans at once so that it can share their work, and
its numbers must not depend on which plans come together. A number that is nan counts as the worst."""


class SearchError(UserError, ValueError):
    """A search that cannot be run as asked for, or whose journal is another's."""


@dataclass(frozen=True)
class Evaluated:
    """A plan and what the objective said of it.

    Attributes:
        plan: The plan.
        value: Its loss; lower is better, and infinite where it is not a number.
    """

    plan: PruningPlan
    value: float


@dataclass(frozen=True)
class SearchProgress:
    """How far a search has come.

    Attributes:
        done: Plans evaluated or cut.
        at_most: Plans there will be, at most: a beam meets some of its plans twice.
        seconds: Time since the start.
    """

    done: int
    at_most: int
    seconds: float

    @property
    def seconds_left(self) -> float:
        """The time that the rest takes at the pace so far, at most; nan before the first plan."""
        return self.seconds / self.done * (self.at_most - self.done) if self.done else math.nan


OnProgress = Callable[[SearchProgress], None]
