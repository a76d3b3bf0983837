"""Plans in groups that one pass over the slice can fit: each removes one site more than the group's base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prune_bert.plan import PruningPlan, Site
from prune_bert.search.sites import forward_order


@dataclass(frozen=True)
class PlanGroup:
    """Plans that are fitted together.

    Attributes:
        base: What they have in common but for one site each; None where each is fitted on its own.
        plans: The plans.
    """

    base: PruningPlan | None
    plans: tuple[PruningPlan, ...]


def groups_of(plans: Sequence[PruningPlan]) -> list[PlanGroup]:
    """Divide plans, none of them empty, into as few groups as a greedy choice of bases gives.

    The step of a greedy search is one group, that of a beam about one for each plan that goes on. Where no two plans
    have a base in common, each is on its own. The result depends on which plans there are and on nothing else.
    """
    under: dict[PruningPlan, list[PruningPlan]] = {}
    for plan in sorted(set(plans), key=forward_order):
        for base in _bases(plan):
            under.setdefault(base, []).append(plan)
    if not any(len(covered) > 1 for covered in under.values()):
        return [PlanGroup(None, (plan,)) for plan in sorted(set(plans), key=forward_order)]
    groups: list[PlanGroup] = []
    while under:
        base = min(under, key=lambda base: (-len(under[base]), forward_order(base)))
        group = under[base]
        groups.append(PlanGroup(base, tuple(group)))
        left = {other: [plan for plan in covered if plan not in group] for other, covered in under.items()}
        under = {other: covered for other, covered in left.items() if covered}
    return groups


def _bases(plan: PruningPlan) -> Iterator[PruningPlan]:
    """Return every plan that one more site makes this one; a layer may have taken the place of its sublayers."""
    for site in plan:
        rest = tuple(other for other in plan if other != site)
        yield PruningPlan(rest, plan.norm)
        if site.component == "layer":
            attention, ffn = Site(site.layer, "attention"), Site(site.layer, "ffn")
            for before in ((attention,), (ffn,), (attention, ffn)):
                yield PruningPlan((*rest, *before), plan.norm)
