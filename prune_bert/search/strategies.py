"""The strategies: each takes an objective and sites, and gives the plans it tried and the path it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prune_bert.plan import NormRule, PruningPlan, Site
from prune_bert.search.exhausting import exhaustive
from prune_bert.search.ledger import PLANS_PER_CALL, Ledger
from prune_bert.search.names import unknown_name
from prune_bert.search.objective import Evaluated, Objective, OnProgress, SearchError
from prune_bert.search.racing import Racing
from prune_bert.search.results import SearchResult
from prune_bert.search.sites import Allowed, Savings, checked_sites, increase, next_plans, preference, price


def one_shot(
    objective: Objective,
    sites: Iterable[Site],
    *,
    scores: Mapping[Site, float],
    max_removed: int | None = None,
    norm: NormRule = "keep",
    allowed: Allowed | None = None,
    progress: OnProgress | None = None,
    plans_per_call: int = PLANS_PER_CALL,
) -> SearchResult:
    """Remove the sites of the lowest scores, once scored and never again: one plan for each number of sites.

    Args:
        objective: What is minimised; here it only judges what the scores chose.
        sites: Those that may go.
        scores: The importance of each site, higher meaning keep; of equal ones the later site goes first.
        max_removed: The most sites to remove; by default all.
        norm: The norm rule of the plans.
        allowed: Which plans may be chosen; by default all. Sites that may not go alone go with their neighbours.
        progress: Told how far it is.
        plans_per_call: Plans in one call of the objective.

    Raises:
        SearchError: A site has no score.
    """
    sites = checked_sites(sites)
    missing = [site for site in sites if math.isnan(scores.get(site, math.nan))]
    if missing:
        raise SearchError(f"{missing[0]} has no score; one_shot needs one for each of the {len(sites)} sites")
    plans = [PruningPlan((), norm)]
    while found := _within(next_plans(plans[-1], sites, allowed), _steps(sites, max_removed), len(plans)):
        plans.append(min(found, key=_by_scores(plans[-1], scores)))
    ledger = Ledger(objective, len(plans), progress, plans_per_call)
    path = tuple(ledger(plans))
    return SearchResult("one_shot", ledger.evaluated, path, seconds=ledger.seconds)


def greedy(
    objective: Objective,
    sites: Iterable[Site],
    *,
    costs: Mapping[Site, float] | None = None,
    max_removed: int | None = None,
    until: Callable[[Evaluated], bool] | None = None,
    norm: NormRule = "keep",
    allowed: Allowed | None = None,
    progress: OnProgress | None = None,
    plans_per_call: int = PLANS_PER_CALL,
) -> SearchResult:
    """Eliminate backwards: at each step remove the site whose loss rises least per unit of cost, then score anew.

    Where the loss does not rise, the greatest fall times cost goes first. The path is nested. As SLEB does for the
    layers of decoders (Song et al., "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of
    Transformer Blocks", ICML 2024), here for any sites and with their cost.

    Args:
        objective: What is minimised.
        sites: Those that may go. Where a layer is among them beside its own sublayers, it can take their place.
        costs: What each site saves; by default a layer as much as two sublayers.
        max_removed: The most steps; by default until nothing is left to remove.
        until: Ends the search after the first step for which it is true.
        norm: The norm rule of the plans.
        allowed: Which plans may be chosen; by default all. Sites that may not go alone go with their neighbours.
        progress: Told how far it is.
        plans_per_call: Plans in one call of the objective.

    Raises:
        SearchError: There are no sites, or a cost is missing or not above 0.
    """
    sites, saved = checked_sites(sites), Savings(checked_sites(sites), costs)
    steps, n = _steps(sites, max_removed), len(sites)
    ledger = Ledger(objective, 1 + sum(n - step for step in range(steps)), progress, plans_per_call)
    path = _start(ledger, sites, norm, allowed)
    for step in range(steps):
        here = path[-1]
        found = ledger(_within(next_plans(here.plan, sites, allowed), steps, step + 1))
        if not found:
            break
        path.append(min(found, key=_rank(here, saved)))
        if until is not None and until(path[-1]):
            break
    return SearchResult("greedy", ledger.evaluated, tuple(path), seconds=ledger.seconds)


def beam(
    objective: Objective,
    sites: Iterable[Site],
    *,
    width: int = 4,
    costs: Mapping[Site, float] | None = None,
    max_removed: int | None = None,
    racing: Racing | None = None,
    norm: NormRule = "keep",
    allowed: Allowed | None = None,
    progress: OnProgress | None = None,
    plans_per_call: int = PLANS_PER_CALL,
) -> SearchResult:
    """Remove a site at a time from each of the best few plans, and go on with the best few of what comes out.

    Plans are ranked by the rise of the loss over the unpruned model per unit saved. At equal costs width 1 is `greedy`.

    Args:
        objective: What is minimised.
        sites: Those that may go.
        width: How many plans go on.
        costs: What each site saves; by default a layer as much as two sublayers.
        max_removed: The most steps; by default until nothing is left to remove.
        racing: Evaluate each step's plans by a race, whose losses must have the objective as their mean.
        norm: The norm rule of the plans.
        allowed: Which plans may be chosen; by default all. Sites that may not go alone go with their neighbours.
        progress: Told how far it is.
        plans_per_call: Plans in one call of the objective.

    Raises:
        SearchError: There are no sites, the width is below 1, or a cost is missing or not above 0.
    """
    if width < 1:
        raise SearchError(f"the width of a beam is at least 1, not {width}")
    sites, saved = checked_sites(sites), Savings(checked_sites(sites), costs)
    steps = _steps(sites, max_removed)
    ledger = Ledger(objective, _most_of_a_beam(len(sites), steps, width), progress, plans_per_call)
    path = _start(ledger, sites, norm, allowed) if racing is None else ledger([PruningPlan((), norm)])
    frontier, rank, races = list(path), _rank(path[0], saved), []
    for step in range(steps):
        further = [plan for kept in frontier for plan in next_plans(kept.plan, sites, allowed)]
        plans = dict.fromkeys(_within(further, steps, step + 1))
        if not plans:
            break
        if racing is not None:
            races.append(ledger.race(plans, racing, keep=width, saved=saved))
        found = ledger(plans) if racing is None else list(races[-1].survivors)
        frontier = sorted(found, key=rank)[:width]
        path.append(frontier[0])
    return SearchResult("beam", ledger.evaluated, tuple(path), tuple(races), ledger.seconds)


def _most_of_a_beam(sites: int, steps: int, width: int) -> int:
    """Count the plans that a beam meets at most."""
    return 1 + sum(min(width, math.comb(sites, step)) * (sites - step) for step in range(steps))


def sublayer(objective: Objective, sites: Iterable[Site], *, width: int | None = None, **options: Any) -> SearchResult:
    """Search the attention and feed-forward sublayers, by `greedy`, or by `beam` where a width is given.

    With measured costs (`LatencyTable.costs`) each step removes what costs least per millisecond saved.

    Raises:
        SearchError: A whole layer is among the sites.
    """
    sites = checked_sites(sites)
    whole = [site for site in sites if site.component == "layer"]
    if whole:
        raise SearchError(f"{whole[0]} is a whole layer; the strategy 'sublayer' takes sublayer_sites(depth)")
    return greedy(objective, sites, **options) if width is None else beam(objective, sites, width=width, **options)


STRATEGIES: Mapping[str, Callable[..., SearchResult]] = MappingProxyType(
    {"one_shot": one_shot, "greedy": greedy, "beam": beam, "exhaustive": exhaustive, "sublayer": sublayer}
)


def search_plans(
    objective: Objective, sites: Sequence[Site], *, strategy: str = "greedy", **options: Any
) -> SearchResult:
    """Search by the name of a strategy, with that strategy's own options.

    Raises:
        SearchError: There is no such strategy, or it cannot be run as asked for.

    Examples:
        >>> def losses(plans):
        ...     return [score.loss for score in evaluate_plans(model, plans, rows, tokenizer)]
        >>> found = search_plans(losses, [Site(0), Site(1), Site(3, "ffn")], strategy="greedy", max_removed=2)
        >>> len(found.path[-1].plan)
        2
    """
    if strategy not in STRATEGIES:
        raise SearchError(unknown_name("strategy", strategy, STRATEGIES))
    return STRATEGIES[strategy](objective, sites, **options)


def _steps(sites: Sequence[Site], max_removed: int | None) -> int:
    if max_removed is not None and max_removed < 1:
        raise SearchError(f"max_removed is {max_removed}; a search removes at least 1 site")
    return len(sites) if max_removed is None else min(max_removed, len(sites))


def _within(plans: Iterable[PruningPlan], most: int, step: int) -> list[PruningPlan]:
    """Leave out plans beyond the most sites to remove; those that go one at a time are as many as the steps."""
    return [plan for plan in plans if step <= most and len(plan) <= most]


def _by_scores(base: PruningPlan, scores: Mapping[Site, float]) -> Callable[[PruningPlan], tuple[Any, ...]]:
    """Rank plans by the mean score of what they remove beyond a base."""

    def key(plan: PruningPlan) -> tuple[Any, ...]:
        added = plan - base
        return math.fsum(scores[site] for site in added) / len(added), preference(added)

    return key


def _start(ledger: Ledger, sites: Sequence[Site], norm: NormRule, allowed: Allowed | None) -> list[Evaluated]:
    """Evaluate the unpruned model together with the plans of the first step, with which it shares work."""
    nothing = PruningPlan((), norm)
    return ledger([nothing, *_within(next_plans(nothing, sites, allowed), len(sites), 1)])[:1]


def _rank(base: Evaluated, saved: Savings) -> Callable[[Evaluated], tuple[Any, ...]]:
    """Rank plans by what they cost over a base per unit saved over it; ties go to the later sites.

    The loss itself comes second, for rises so small that the difference of the two losses cannot tell them.
    """
    before = saved(base.plan)

    def key(found: Evaluated) -> tuple[Any, ...]:
        rise = increase(found.value, base.value)
        return price(rise, saved(found.plan) - before), found.value, preference(found.plan)

    return key
