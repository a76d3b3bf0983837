"""Which site goes when, and its removal from a model that has lost others already."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from prune_bert.plan import COMPONENTS, PruningPlan, Site
from prune_bert.recovery.settings import RecoverSettings, RecoveryError
from prune_bert.surgery import drop


def removal_order(
    model: nn.Module, plan: PruningPlan | None, order: Sequence[Site] | None, settings: RecoverSettings
) -> tuple[Site, ...]:
    """Return the sites in the order in which they go; none for ``at_once``.

    From the top layer down, and the feed-forward sublayer before the attention: what a removal disturbs is what
    comes after it, so that each phase has the least to mend, and mends it for layers that are there to stay.

    Raises:
        RecoveryError: The schedule and the plan contradict each other, or ``order`` is not an order of the plan.
        SurgeryError: The plan cannot be dropped from this model; nothing has been changed.
        ArchitectureError: The model's layers cannot be found, or its family lacks a component.
    """
    if settings.schedule == "at_once":
        if plan is not None or order is not None:
            raise RecoveryError(
                "schedule 'at_once' trains a model that is pruned already and takes no plan; drop the plan first, or "
                "use schedule 'gradual'"
            )
        return ()
    if not plan:
        raise RecoveryError("schedule 'gradual' removes the sites of a plan one by one; give a plan with some")
    sites = tuple(order) if order is not None else tuple(sorted(plan, key=_top_down))
    if sorted(sites) != list(plan):
        given = " ".join(map(str, sites))
        raise RecoveryError(f"the order {given!r} is not an order of the plan {str(plan)!r}; name each site once")
    drop(copy.deepcopy(model), plan)  # a family that refuses must do so before hours of training, not after
    return sites


def remove_site(model: nn.Module, site: Site, gone: Sequence[Site], plan: PruningPlan) -> None:
    """Drop one site of a plan, in the numbering before any of them went, from a model that has lost ``gone``.

    With ``norm=skip`` the second sublayer of a layer takes the layer with it, as in a drop of the whole plan.
    """
    whole = _whole_layers(gone, plan)
    now = site.layer - sum(layer < site.layer for layer in whole)
    component = "layer" if site.layer in _whole_layers([*gone, site], plan) else site.component
    drop(model, PruningPlan((Site(now, component),), plan.norm))


def _whole_layers(sites: Sequence[Site], plan: PruningPlan) -> set[int]:
    """Return the layers that are gone with these sites."""
    layers = {site.layer for site in sites if site.component == "layer"}
    if plan.norm == "skip":
        attentions, ffns = ({site.layer for site in sites if site.component == c} for c in COMPONENTS[1:])
        layers |= attentions & ffns
    return layers


def _top_down(site: Site) -> tuple[int, int]:
    return -site.layer, -COMPONENTS.index(site.component)
