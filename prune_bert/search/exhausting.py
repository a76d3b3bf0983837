"""The exhaustive search, and what it costs before it starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations
from math import comb

from prune_bert.plan import NormRule, PruningPlan, Site
from prune_bert.search.ledger import PLANS_PER_CALL, Ledger
from prune_bert.search.objective import Evaluated, Objective, OnProgress, SearchError
from prune_bert.search.racing import Racing
from prune_bert.search.results import SearchResult
from prune_bert.search.sites import Allowed, checked_sites, preference

EXHAUSTIVE_LIMIT = 16


@dataclass(frozen=True)
class ExhaustiveCost:
    """What evaluating every subset of so many sites takes.

    Attributes:
        sites: How many sites.
        plans: How many subsets.
        passes: How often a site is run, each prefix of a plan once for all plans that begin with it.
        passes_alone: The same where each plan is run on its own.
        seconds: The estimate, or None where the time of the unpruned model is not known.
    """

    sites: int
    plans: int
    passes: int
    passes_alone: int
    seconds: float | None = None

    def __str__(self) -> str:
        time = "" if self.seconds is None else f", about {_words(self.seconds)}"
        return f"{self.plans:,} plans over {self.sites} sites{time}"


def exhaustive_cost(
    num_sites: int, *, sizes: Collection[int] | None = None, seconds_unpruned: float | None = None
) -> ExhaustiveCost:
    """Count what an exhaustive search does, and estimate its time.

    Args:
        num_sites: How many sites may go.
        sizes: The numbers of removed sites that count; by default all.
        seconds_unpruned: The time that the objective takes for the unpruned model.
    """
    sizes = _sizes(num_sites, sizes)
    passes = 0
    for site in range(num_sites):
        behind = num_sites - site - 1
        for gone in range(site + 1):
            if any(gone <= size <= gone + behind for size in sizes):
                passes += comb(site, gone)
    plans = sum(comb(num_sites, size) for size in sizes)
    alone = sum(comb(num_sites, size) * (num_sites - size) for size in sizes)
    seconds = None if seconds_unpruned is None else seconds_unpruned * passes / max(1, num_sites)
    return ExhaustiveCost(num_sites, plans, passes, alone, seconds)


def exhaustive(
    objective: Objective,
    sites: Iterable[Site],
    *,
    sizes: Collection[int] | None = None,
    racing: Racing | None = None,
    keep: int = 8,
    seconds_unpruned: float | None = None,
    norm: NormRule = "keep",
    allowed: Allowed | None = None,
    progress: OnProgress | None = None,
    plans_per_call: int = PLANS_PER_CALL,
) -> SearchResult:
    """Evaluate every subset of at most 16 sites, depth first.

    Args:
        objective: What is minimised.
        sites: Those that may go: whole layers, or sublayers.
        sizes: The numbers of removed sites that count; by default all, none and every site among them.
        racing: Race the plans of each size, whose losses must have the objective as their mean.
        keep: With racing, how many plans of each size are evaluated in full at least.
        seconds_unpruned: The objective's time for the unpruned model, for the estimate in the refusal.
        norm: The norm rule of the plans.
        allowed: Which plans may be chosen; by default all.
        progress: Told how far it is.
        plans_per_call: Plans in one call of the objective.

    Raises:
        SearchError: There are too many sites (with their count, the time and the alternatives), or a layer and
            its own sublayers are both among them.
    """
    sites = checked_sites(sites)
    cost = exhaustive_cost(len(sites), sizes=sizes, seconds_unpruned=seconds_unpruned)
    _check(sites, cost)
    ledger = Ledger(objective, cost.plans, progress, plans_per_call)
    groups = [[PruningPlan(chosen, norm) for chosen in combinations(sites, size)] for size in _sizes(len(sites), sizes)]
    if allowed is not None:
        groups = [fine for group in groups if (fine := [plan for plan in group if not plan or allowed(plan)])]
    races = [] if racing is None else [ledger.race(group, racing, keep=keep) for group in groups]
    if racing is None:
        ledger(plan for group in groups for plan in group)
    path = _best_of_each_size(ledger.evaluated)
    return SearchResult("exhaustive", ledger.evaluated, path, tuple(races), ledger.seconds)


def _sizes(num_sites: int, sizes: Collection[int] | None) -> list[int]:
    chosen = sorted(set(range(num_sites + 1) if sizes is None else sizes))
    if not chosen or chosen[0] < 0 or chosen[-1] > num_sites:
        raise SearchError(f"sizes {chosen}: of {num_sites} sites 0 to {num_sites} can be removed")
    return chosen


def _check(sites: tuple[Site, ...], cost: ExhaustiveCost) -> None:
    if len(sites) > EXHAUSTIVE_LIMIT:
        raise SearchError(
            f"exhaustive would evaluate {cost}; it takes at most {EXHAUSTIVE_LIMIT} sites "
            f"({2**EXHAUSTIVE_LIMIT:,} plans): use the strategy beam or greedy, or search fewer sites"
        )
    whole = {site.layer for site in sites if site.component == "layer"}
    both = [site for site in sites if site.component != "layer" and site.layer in whole]
    if both:
        raise SearchError(
            f"exhaustive over layer:{both[0].layer} and over {both[0]} counts plans twice; give whole layers or "
            "sublayers, or use the strategy greedy or beam, which take both"
        )


def _best_of_each_size(found: Iterable[Evaluated]) -> tuple[Evaluated, ...]:
    best: dict[int, Evaluated] = {}
    for item in sorted(found, key=lambda item: (item.value, preference(item.plan))):
        best.setdefault(len(item.plan), item)
    return tuple(best[size] for size in sorted(best))


def _words(seconds: float) -> str:
    """Write a time as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"
