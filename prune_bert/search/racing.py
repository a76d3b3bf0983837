"""Racing: plans that cannot win any more are dropped before all calibration batches are spent on them.

Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification", AISTATS 2016) sets when to
look: after 1, 2, 4, 8 ... batches. What goes is not a fixed half but what a test cuts, as in Hoeffding races (Maron
and Moore, "Hoeffding Races", NIPS 1993), here with a paired Student t interval.

The test. For a plan and a rival the losses of the same examples are subtracted, and the mean difference gets the
two-sided interval of Student's t. A plan is cut where the whole interval lies above 0 against each of the `keep` best
rivals so far. Multiplicity: with P plans and L looks at most ``keep * (P - 1) * L`` such comparisons can go against a
plan that belongs among the `keep` best, so each interval has the level ``1 - (1 - confidence) / (keep * (P - 1) * L)``
(Bonferroni). So with the stated confidence a race cuts not one of the truly best, whatever P and L are; several races
each have their own. The interval takes the mean of the examples seen as near to normal; hence `min_examples`, below
which nothing is cut.

The batches must each be a random part of the calibration slice (`calibration_batches`): batches sorted by length are
not, and the first of them says little of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from statistics import NormalDist
from typing import Any

from prune_bert.knobs import RACING_CONFIDENCE, SEED
from prune_bert.plan import PruningPlan
from prune_bert.search.objective import Evaluated, SearchError
from prune_bert.search.sites import forward_order, preference

LossesOfBatch = Callable[[Sequence[PruningPlan], int], Sequence[Sequence[float]]]
"""Returns for each plan the loss of every example of one calibration batch, the examples in one order for all plans."""


@dataclass(frozen=True)
class Racing:
    """What a strategy needs to race its plans.

    Attributes:
        losses: The losses of a batch.
        batches: How many batches there are; each a random part of the slice.
        confidence: That no plan is cut which belongs among the best.
        min_examples: Below so many examples nothing is cut.
    """

    losses: LossesOfBatch
    batches: int
    confidence: float = RACING_CONFIDENCE.default
    min_examples: int = 32


@dataclass(frozen=True)
class Cut:
    """A plan that a race dropped.

    Attributes:
        plan: The plan.
        difference: Its loss minus that of the best rival, on the examples seen.
        interval: The bounds of that difference, at the level that the race's confidence asks of one comparison.
        examples: How many examples were seen.
    """

    plan: PruningPlan
    difference: float
    interval: tuple[float, float]
    examples: int


@dataclass(frozen=True)
class RaceResult:
    """How a race ended.

    Attributes:
        survivors: The plans that saw every batch, with their mean loss, best first.
        cut: The plans that did not.
        confidence: That none of the `keep` best is among the cut.
        comparisons: How many comparisons that confidence is divided among.
        work: The share of the plans' batches that was evaluated; 1 without racing.
    """

    survivors: tuple[Evaluated, ...]
    cut: tuple[Cut, ...]
    confidence: float
    comparisons: int
    work: float

    def __str__(self) -> str:
        total = len(self.survivors) + len(self.cut)
        return (
            f"{len(self.cut)} of {total} plans cut at {self.confidence:.0%} confidence, "
            f"with {self.work:.0%} of the work"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "survivors": [{"plan": str(found.plan), "value": found.value} for found in self.survivors],
            "cut": [
                {
                    "plan": str(cut.plan),
                    "difference": cut.difference,
                    "interval": list(cut.interval),
                    "examples": cut.examples,
                }
                for cut in self.cut
            ],
            "confidence": self.confidence,
            "comparisons": self.comparisons,
            "work": self.work,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RaceResult:
        """Read what `to_dict` gave."""
        read = PruningPlan.parse
        return cls(
            survivors=tuple(Evaluated(read(item["plan"]), item["value"]) for item in stored["survivors"]),
            cut=tuple(
                Cut(
                    read(item["plan"]), item["difference"], (item["interval"][0], item["interval"][1]), item["examples"]
                )
                for item in stored["cut"]
            ),
            confidence=stored["confidence"],
            comparisons=stored["comparisons"],
            work=stored["work"],
        )


def calibration_batches(n: int, batches: int, seed: int = SEED.default) -> tuple[tuple[int, ...], ...]:
    """Divide examples 0 to n - 1 at random into batches whose sizes differ by at most one, for a race.

    Raises:
        SearchError: There are fewer examples than batches, or no batch.
    """
    if not 1 <= batches <= n:
        raise SearchError(f"{n} examples cannot be divided into {batches} batches; choose 1 to {n}")
    order = list(range(n))
    Random(seed).shuffle(order)
    return tuple(tuple(sorted(order[start::batches])) for start in range(batches))


def race(
    plans: Iterable[PruningPlan],
    losses_of_batch: LossesOfBatch,
    batches: int,
    *,
    keep: int = 1,
    confidence: float = RACING_CONFIDENCE.default,
    min_examples: int = 32,
    saved: Callable[[PruningPlan], float] | None = None,
) -> RaceResult:
    """Race plans over calibration batches; the test is stated at the head of this module.

    Args:
        plans: The plans.
        losses_of_batch: The losses of a batch, by example.
        batches: How many batches there are.
        keep: How many plans are wanted at the end; never fewer survive.
        confidence: That none of the `keep` best is cut.
        min_examples: Below so many examples nothing is cut.
        saved: What a plan saves; a plan is then only cut by rivals that save as much, so that it may stay on
            the front. By default all plans are alike.

    Raises:
        SearchError: A setting is out of range, or the losses are not one finite number for each plan and example.
    """
    alive = sorted(set(plans), key=forward_order)
    _check(len(alive), batches, keep, confidence)
    looks = _looks(batches)
    comparisons = keep * max(1, len(alive) - 1) * max(1, len(looks) - 1)
    level = 1 - (1 - confidence) / comparisons
    losses: dict[PruningPlan, list[float]] = {plan: [] for plan in alive}
    cut: list[Cut] = []
    seen = done = 0
    for look in looks:
        for batch in range(seen, look):
            _extend(losses, alive, losses_of_batch(alive, batch))
            done += len(alive)
        seen = look
        if look < batches and len(losses[alive[0]]) >= min_examples:
            beaten = _beaten(alive, losses, keep, level, saved or (lambda plan: 0.0))
            cut += beaten
            gone = {item.plan for item in beaten}
            alive = [plan for plan in alive if plan not in gone]
    means = [Evaluated(plan, _mean(losses[plan])) for plan in alive]
    survivors = tuple(sorted(means, key=lambda found: (found.value, preference(found.plan))))
    return RaceResult(survivors, tuple(cut), confidence, comparisons, done / (len(losses) * batches))


def _check(num_plans: int, batches: int, keep: int, confidence: float) -> None:
    if num_plans < 1 or batches < 1 or keep < 1:
        raise SearchError(f"a race of {num_plans} plans over {batches} batches for {keep} places: each is at least 1")
    if RACING_CONFIDENCE.fault(confidence):
        raise SearchError(f"the confidence of a race lies between 0 and 1, such as 0.95; {confidence} does not")


def _looks(batches: int) -> list[int]:
    """Return the numbers of batches after which the race looks: 1, 2, 4, 8 ... and all."""
    return [2**power for power in range(batches.bit_length()) if 2**power < batches] + [batches]


def _extend(
    losses: dict[PruningPlan, list[float]], plans: Sequence[PruningPlan], rows: Sequence[Sequence[float]]
) -> None:
    sizes = {len(row) for row in rows}
    if len(rows) != len(plans) or len(sizes) != 1:
        raise SearchError(
            f"a batch gave {len(rows)} rows of {sorted(sizes)} losses for {len(plans)} plans; one row for each plan "
            "and one loss for each example are needed"
        )
    for plan, row in zip(plans, rows, strict=True):
        numbers = [float(loss) for loss in row]
        if not all(map(math.isfinite, numbers)):
            raise SearchError(f"the losses of {str(plan) or 'the unpruned model'} are not finite; a race needs numbers")
        losses[plan] += numbers


def _beaten(
    alive: Sequence[PruningPlan],
    losses: Mapping[PruningPlan, Sequence[float]],
    keep: int,
    level: float,
    saved: Callable[[PruningPlan], float],
) -> list[Cut]:
    """Return the plans that each of the `keep` best rivals beats."""
    means = {plan: _mean(losses[plan]) for plan in alive}
    savings = {plan: saved(plan) for plan in alive}
    ranked = sorted(alive, key=lambda plan: (means[plan], preference(plan)))
    beaten = []
    for plan in ranked[keep:]:
        rivals = list(islice((other for other in ranked if other != plan and savings[other] >= savings[plan]), keep))
        # the last of the rivals is the nearest to the plan, so it is the first to fail
        intervals = (paired_interval(losses[plan], losses[rival], level) for rival in reversed(rivals))
        if len(rivals) == keep and all(low > 0 for low, _ in intervals):
            interval = paired_interval(losses[plan], losses[rivals[0]], level)
            beaten.append(Cut(plan, means[plan] - means[rivals[0]], interval, len(losses[plan])))
    return beaten


def paired_interval(losses: Sequence[float], rival: Sequence[float], level: float) -> tuple[float, float]:
    """Return the two-sided Student t interval of the mean difference of two plans' losses on the same examples."""
    differences = [mine - other for mine, other in zip(losses, rival, strict=True)]
    n, mean = len(differences), _mean(differences)
    if n < 2:
        return -math.inf, math.inf
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (n - 1)
    half = student_t(0.5 + level / 2, n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


def student_t(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t, from the normal one (Abramowitz and Stegun 1964, 26.7.5).

    Off by less than 1 % from 10 degrees of freedom on, for the probabilities that a race uses.
    """
    z = NormalDist().inv_cdf(probability)
    square = z * z
    terms = (
        (square + 1) / 4,
        ((5 * square + 16) * square + 3) / 96,
        (((3 * square + 19) * square + 17) * square - 15) / 384,
        ((((79 * square + 776) * square + 1482) * square - 1920) * square - 945) / 92160,
    )
    correction = sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))
    return z + z * correction


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
