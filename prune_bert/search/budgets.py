"""Budgets in the user's words, and the choice of a plan within one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prune_bert.knobs import (
    BUDGET_BATCH_SIZE,
    BUDGET_SEQUENCE_LENGTH,
    KEEP_LAYERS,
    MAX_ACCURACY_DROP,
    MAX_LATENCY_MS,
    MAX_PARAMETERS,
    MIN_SPEEDUP,
    knobs_of,
    short,
)
from prune_bert.plan import PruningPlan
from prune_bert.search.objective import SearchError
from prune_bert.search.sites import preference

_SLACK = 1e-9  # a drop of 0.893 to 0.883 is one point, whatever the last bit of the difference


@dataclass(frozen=True)
class Candidate:
    """A plan with what a budget asks of it.

    Attributes:
        plan: The plan.
        accuracy: The headline metric on the calibration slice; higher is better.
        latency_ms: Its latency, predicted or measured, at the budget's batch size and sequence length.
        accuracy_drop: What it loses against the unpruned model, in points (hundredths of the metric).
        accuracy_drop_worst: The drop at the worse end of its interval.
        speedup: The unpruned model's latency over its own.
        parameters: What is left of them.
        layers: Layers that are left (`layers_left`).
    """

    plan: PruningPlan
    accuracy: float
    latency_ms: float
    accuracy_drop: float | None = None
    accuracy_drop_worst: float | None = None
    speedup: float | None = None
    parameters: int | None = None
    layers: int | None = None


@dataclass(frozen=True)
class Budget:
    """What a pruned model may cost; what is None is not asked for.

    Attributes:
        max_accuracy_drop: Points of the headline metric that may be lost on the calibration slice.
        respect_interval: Take the drop at the worse end of its interval.
        min_speedup: How many times faster than the unpruned model, at least.
        max_latency_ms: Milliseconds for one batch, at most.
        max_parameters: Parameters left, at most.
        keep_layers: Layers left, exactly.
        batch_size: The batch size that latency and speed-up are meant for.
        sequence_length: The sequence length that they are meant for.
    """

    max_accuracy_drop: float | None = MAX_ACCURACY_DROP.field()
    respect_interval: bool = False
    min_speedup: float | None = MIN_SPEEDUP.field()
    max_latency_ms: float | None = MAX_LATENCY_MS.field()
    max_parameters: int | None = MAX_PARAMETERS.field()
    keep_layers: int | None = KEEP_LAYERS.field()
    batch_size: int = BUDGET_BATCH_SIZE.field()
    sequence_length: int = BUDGET_SEQUENCE_LENGTH.field()

    def __bool__(self) -> bool:
        """Return whether anything is asked for."""
        return any(True for _ in self._asked())

    def __str__(self) -> str:
        asked = [
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in self._asked()
        ]
        return " and ".join(asked) if asked else "no budget"

    def conflicts(self, *, depth: int | None = None, whole_layers: bool = False) -> tuple[str, ...]:
        """Say what is wrong with a budget, or cannot be had together; nothing where all is well.

        Args:
            depth: Layers of the unpruned model, if known.
            whole_layers: Whether the search removes whole layers only.
        """
        return tuple(self._faults(depth, whole_layers))

    def check(self, *, depth: int | None = None, whole_layers: bool = False) -> None:
        """Refuse a budget with conflicts.

        Raises:
            SearchError: It lists every one.
        """
        conflicts = self.conflicts(depth=depth, whole_layers=whole_layers)
        if conflicts:
            raise SearchError(f"the budget cannot be met: {'; '.join(conflicts)}")

    def shortfalls(self, candidate: Candidate) -> dict[str, float]:
        """Return for each demand that a candidate misses by how much, relative to the demand.

        Raises:
            SearchError: What a demand speaks of was not measured for the candidate.
        """
        misses = {}
        for name, limit in self._asked():
            value = self._value(candidate, name)
            short = _shortfall(name, value, float(limit))
            if short > _SLACK:
                misses[name] = short
        return misses

    def _asked(self) -> Iterator[tuple[str, float | int]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _MEASURED and value is not None:
                yield field.name, value

    def _value(self, candidate: Candidate, name: str) -> float:
        attribute = _MEASURED[name]
        if name == "max_accuracy_drop" and self.respect_interval:
            attribute = "accuracy_drop_worst"
        value = getattr(candidate, attribute)
        if value is None:
            plan = str(candidate.plan) or "the unpruned model"
            raise SearchError(f"{name} asks for a candidate's {attribute}, which {plan} comes without")
        return float(value)

    def _faults(self, depth: int | None, whole_layers: bool) -> Iterator[str]:
        if self.respect_interval and self.max_accuracy_drop is None:
            yield "respect_interval speaks of max_accuracy_drop, which is not given"
        for name, knob in knobs_of(Budget).items():
            value = getattr(self, name)
            if knob.fault(value):
                yield f"{name} {short(value)} is not {knob.rule()}"
        yield from self._depth_faults(depth, whole_layers)

    def _depth_faults(self, depth: int | None, whole_layers: bool) -> Iterator[str]:
        if depth is None or self.keep_layers is None or self.keep_layers < 1:
            return
        if self.keep_layers > depth:
            yield f"keep_layers {self.keep_layers} is more than the model's {depth} layers"
        elif self.keep_layers == depth and whole_layers:
            yield f"keep_layers {self.keep_layers} keeps all layers of the model, so there is nothing to remove"
        elif whole_layers and self.min_speedup is not None and self.min_speedup > depth / self.keep_layers:
            yield (
                f"keep_layers {self.keep_layers} of {depth} makes the model at most {depth / self.keep_layers:.2f} "
                f"times faster, and min_speedup asks for {self.min_speedup:g}"
            )


_MEASURED = {
    "max_accuracy_drop": "accuracy_drop",
    "min_speedup": "speedup",
    "max_latency_ms": "latency_ms",
    "max_parameters": "parameters",
    "keep_layers": "layers",
}


class UnmetBudgetError(SearchError):
    """No candidate meets the budget.

    Attributes:
        nearest: The candidate that misses it least: the least of the greatest relative shortfalls.
    """

    def __init__(self, message: str, nearest: Candidate) -> None:
        super().__init__(message)
        self.nearest = nearest


def choose(candidates: Iterable[Candidate], budget: Budget) -> Candidate:
    """Choose the fastest candidate within the accuracy asked for, or else the most accurate within the rest.

    A budget that limits the accuracy drop, whatever else it limits, gives the fastest that meets all of it; any
    other gives the most accurate. Ties go to the other of the two, then to the fewest layers and later sites.

    Raises:
        UnmetBudgetError: No candidate meets the budget; it carries the nearest.
        SearchError: The budget asks for nothing or contradicts itself, there are no candidates, or one was not
            measured for what is asked.
    """
    budget.check()
    if not budget:
        raise SearchError(f"the budget asks for nothing; give one of {', '.join(_MEASURED)}")
    found = list(candidates)
    if not found:
        raise SearchError(f"no plan was evaluated that could meet {budget}")
    shortfalls = [(budget.shortfalls(candidate), candidate) for candidate in found]
    meeting = [candidate for misses, candidate in shortfalls if not misses]
    if meeting:
        return min(meeting, key=_fastest if budget.max_accuracy_drop is not None else _most_accurate)
    misses, nearest = min(
        shortfalls, key=lambda pair: (max(pair[0].values()), sum(pair[0].values()), _fastest(pair[1]))
    )
    raise UnmetBudgetError(_message(budget, nearest, misses, len(found)), nearest)


def _fastest(candidate: Candidate) -> tuple[object, ...]:
    return candidate.latency_ms, -candidate.accuracy, -len(candidate.plan), preference(candidate.plan)


def _most_accurate(candidate: Candidate) -> tuple[object, ...]:
    return -candidate.accuracy, candidate.latency_ms, -len(candidate.plan), preference(candidate.plan)


def _shortfall(name: str, value: float, limit: float) -> float:
    """Say by how much of the limit a value misses it; 0 or less where it does not."""
    if math.isnan(value):
        return math.inf
    if name == "max_accuracy_drop":
        return (value - limit) / max(limit, 1.0)  # a limit of 0 points has no relative miss
    if name == "min_speedup":
        return limit / value - 1
    return abs(value - limit) / limit if name == "keep_layers" else value / limit - 1


def _message(budget: Budget, nearest: Candidate, misses: dict[str, float], count: int) -> str:
    parts = []
    for name in misses:
        value, unit = budget._value(nearest, name), " points" if name == "max_accuracy_drop" else ""
        what = {"keep_layers": "layers left", "min_speedup": "speed-up"}.get(name, name.removeprefix("max_"))
        parts.append(f"{what.replace('_ms', ' in ms').replace('_', ' ')} {value:g}{unit}")
    plan = str(nearest.plan) or "the unpruned model"
    return (
        f"none of {count} plans meets {budget}; the nearest is '{plan}' with {', '.join(parts)}: loosen the budget, "
        "or search more sites"
    )
