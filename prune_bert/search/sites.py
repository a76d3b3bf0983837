"""The sites that a search removes, one step from a plan to the next, and the orders in which plans are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from prune_bert.plan import COMPONENTS, Component, PruningPlan, Site
from prune_bert.search.names import unknown_name
from prune_bert.search.objective import SearchError

Allowed = Callable[[PruningPlan], bool]
"""Tells whether a plan may be chosen at all, such as by whether the model can be saved without its layers."""

# In families whose layers take turns in two or more kinds, so many neighbours at most have to go together.
_LONGEST_RUN = 12

# Half of a layer each, where nothing was measured.
_SHARES: Mapping[Component, float] = {"layer": 2.0, "attention": 1.0, "ffn": 1.0}


def sites_of(depth: int, components: Sequence[Component] = ("layer",)) -> tuple[Site, ...]:
    """Return the sites of some components in a model of so many layers, in forward order.

    Raises:
        SearchError: There is no layer or no component, or a component is unknown.
    """
    if depth < 1 or not components:
        raise SearchError(f"a model of {depth} layers and the components {list(components)} have no sites to search")
    unknown = [component for component in components if component not in COMPONENTS]
    if unknown:
        raise SearchError(unknown_name("component", unknown[0], COMPONENTS))
    return tuple(sorted(Site(layer, component) for layer in range(depth) for component in set(components)))


def layer_sites(depth: int) -> tuple[Site, ...]:
    """Return every whole layer."""
    return sites_of(depth)


def sublayer_sites(depth: int) -> tuple[Site, ...]:
    """Return every sublayer: two a layer."""
    return sites_of(depth, ("attention", "ffn"))


def layers_left(plan: PruningPlan, depth: int) -> int:
    """Count the layers of the dropped model: one is gone with its site, or with both exact-identity sublayers."""
    sublayers = {site for site in plan.sublayers() if plan.norm == "skip"}
    both = {layer for layer in range(depth) if {Site(layer, "attention"), Site(layer, "ffn")} <= sublayers}
    return depth - len(both | set(plan.layers()))


def checked_sites(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Return the sites in forward order.

    Raises:
        SearchError: There are none, or something else is among them.
    """
    given = tuple(sites)
    strangers = [site for site in given if not isinstance(site, Site)]
    if strangers:
        raise SearchError(f"a search removes Site objects, not {strangers[0]!r}")
    if not given:
        raise SearchError("there are no sites to search; give at least one, such as layer_sites(12)")
    return tuple(sorted(set(given)))


def extended(plan: PruningPlan, site: Site) -> PruningPlan:
    """Add a site to a plan; a layer takes the place of its sublayers."""
    kept = [other for other in plan if site.component != "layer" or other.layer != site.layer]
    return PruningPlan((*kept, site), plan.norm)


def next_plans(plan: PruningPlan, sites: Sequence[Site], allowed: Allowed | None = None) -> list[PruningPlan]:
    """List every plan that removes one more of the sites.

    Where that is not allowed, as many of the sites that follow go with it as make it so: in ModernBERT, where every
    third layer attends globally, three layers go at a time.
    """
    gone = set(plan.layers())
    left = [site for site in sites if site not in plan and site.layer not in gone]
    if allowed is None:
        return [extended(plan, site) for site in left]
    found = (_nearest_allowed(plan, left[start:], allowed) for start in range(len(left)))
    return list(dict.fromkeys(one for one in found if one is not None))


def _nearest_allowed(plan: PruningPlan, sites: Sequence[Site], allowed: Allowed) -> PruningPlan | None:
    """Remove the first site, and with it the fewest of those of its kind that follow; None where none will do."""
    alike = [site for site in sites if site.component == sites[0].component]
    for site in alike[:_LONGEST_RUN]:
        plan = extended(plan, site)
        if allowed(plan):
            return plan
    return None


def forward_order(plan: PruningPlan) -> tuple[tuple[float, int], ...]:
    """Sort plans depth first: those that agree on the first sites, removed and kept, come one after the other."""
    return (*((site.layer, COMPONENTS.index(site.component)) for site in plan), (math.inf, 0))


def preference(plan: PruningPlan) -> tuple[tuple[int, int], ...]:
    """Break ties: of plans with equal value the one that removes the later sites comes first.

    The top layers cost a fine-tuned encoder least (Sajjad et al. 2020), and plans that share their first layers
    share work.
    """
    return tuple((-site.layer, -COMPONENTS.index(site.component)) for site in reversed(plan.sites))


class Savings:
    """What removing sites saves, in whatever unit it was measured; by default a layer counts as two sublayers."""

    def __init__(self, sites: Sequence[Site], costs: Mapping[Site, float] | None) -> None:
        self._costs = {site: _SHARES[site.component] for site in sites} if costs is None else dict(costs)
        missing = [site for site in sites if site not in self._costs]
        if missing:
            raise SearchError(f"the costs say nothing of {missing[0]}; give one for every site, above 0")
        useless = [site for site in sites if not 0 < self._costs[site] < math.inf]
        if useless:
            raise SearchError(
                f"the cost of {useless[0]} is {self._costs[useless[0]]}; what a site saves is a number above 0"
            )

    def __call__(self, plan: PruningPlan) -> float:
        """Add up what a plan's sites save."""
        return math.fsum(self._costs[site] for site in plan)


def price(increase: float, saved: float) -> float:
    """Rank a removal by what it costs in loss per unit saved; lower is better.

    Where the loss does not rise, more saved is the better: the product takes the quotient's place.
    """
    if saved <= 0:
        return math.inf
    return increase / saved if increase > 0 else increase * saved


def increase(after: float, before: float) -> float:
    """Return the difference of two losses, 0 where both are infinite."""
    return 0.0 if after == before else after - before
