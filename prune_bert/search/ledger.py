"""Every plan that a search has evaluated, each once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from prune_bert.plan import PruningPlan
from prune_bert.search.objective import Evaluated, Objective, OnProgress, SearchError, SearchProgress
from prune_bert.search.racing import RaceResult, Racing, race
from prune_bert.search.sites import forward_order

PLANS_PER_CALL = 256


class Ledger:
    """The values found so far; what is not known is asked of the objective, in parts and depth first.

    Args:
        objective: What is minimised.
        at_most: How many plans there will be.
        progress: Told after every call of the objective.
        plans_per_call: Plans in one call: what a killed search loses of its journal.
    """

    def __init__(
        self,
        objective: Objective,
        at_most: int,
        progress: OnProgress | None = None,
        plans_per_call: int = PLANS_PER_CALL,
    ) -> None:
        if plans_per_call < 1:
            raise SearchError(f"plans_per_call is {plans_per_call}; at least 1 is needed")
        self._objective = objective
        self._at_most = at_most
        self._progress = progress
        self._plans_per_call = plans_per_call
        self._values: dict[PruningPlan, float] = {}
        self._cut = 0
        self._started = time.perf_counter()

    def __call__(self, plans: Iterable[PruningPlan]) -> list[Evaluated]:
        """Return plans with their values, in the order given.

        Raises:
            SearchError: The objective gives another number of values than there are plans.
        """
        wanted = list(plans)
        new = sorted({plan for plan in wanted if plan not in self._values}, key=forward_order)
        for start in range(0, len(new), self._plans_per_call):
            part = new[start : start + self._plans_per_call]
            self.add(part, self._objective(part))
        return [Evaluated(plan, self._values[plan]) for plan in wanted]

    def add(self, plans: Sequence[PruningPlan], values: Sequence[float], cut: int = 0) -> None:
        """Enter values found, and how many plans were cut on the way."""
        if len(values) != len(plans):
            raise SearchError(f"the objective gave {len(values)} values for {len(plans)} plans; one each is needed")
        for plan, value in zip(plans, values, strict=True):
            self._values[plan] = math.inf if math.isnan(value) else float(value)
        self._cut += cut
        if self._progress:
            done = len(self._values) + self._cut
            self._progress(SearchProgress(done, max(done, self._at_most), self.seconds))

    def race(
        self,
        plans: Iterable[PruningPlan],
        racing: Racing,
        *,
        keep: int,
        saved: Callable[[PruningPlan], float] | None = None,
    ) -> RaceResult:
        """Race plans in the place of evaluating them, and enter the survivors' mean losses as their values."""
        result = race(
            plans,
            racing.losses,
            racing.batches,
            keep=keep,
            confidence=racing.confidence,
            min_examples=racing.min_examples,
            saved=saved,
        )
        survivors = result.survivors
        self.add([found.plan for found in survivors], [found.value for found in survivors], cut=len(result.cut))
        return result

    @property
    def evaluated(self) -> tuple[Evaluated, ...]:
        """Every plan with its value, in the order in which they were found."""
        return tuple(Evaluated(plan, value) for plan, value in self._values.items())

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.perf_counter() - self._started
