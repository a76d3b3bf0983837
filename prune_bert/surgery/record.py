"""What a model's config remembers of the surgery done on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prune_bert.plan import PruningPlan, Site

CONFIG_KEY = "prune_bert"


@dataclass(frozen=True)
class PruningRecord:
    """What was removed, in the numbering of the unpruned model.

    Attributes:
        plan: Everything that has been removed so far.
        original_num_hidden_layers: The depth before the first removal.
    """

    plan: PruningPlan
    original_num_hidden_layers: int

    @property
    def original_layer_indices(self) -> tuple[int, ...]:
        """The original index of each layer that remains, in order."""
        gone = set(self.plan.layers())
        return tuple(index for index in range(self.original_num_hidden_layers) if index not in gone)

    def current_sublayers(self) -> PruningPlan:
        """Give the removed sublayers in the numbering of the model as it is now."""
        now = {original: index for index, original in enumerate(self.original_layer_indices)}
        sites = tuple(Site(now[site.layer], site.component) for site in self.plan.sublayers())
        return PruningPlan(sites, self.plan.norm)

    def extended(self, plan: PruningPlan) -> PruningRecord:
        """Add a plan given in the numbering of the model as it is now.

        Raises:
            PlanError: If the norm rules differ.
        """
        before = self.original_layer_indices
        sites = tuple(Site(before[site.layer], site.component) for site in plan)
        swallowed = {site.layer for site in sites if site.component == "layer"}
        kept = tuple(site for site in self.plan if site.component == "layer" or site.layer not in swallowed)
        merged = PruningPlan(kept, self.plan.norm) | PruningPlan(sites, plan.norm)
        return PruningRecord(merged, self.original_num_hidden_layers)

    def to_json(self) -> dict[str, Any]:
        """Give the record as it stands in ``config.json``."""
        return {
            "plan": str(self.plan),
            "original_num_hidden_layers": self.original_num_hidden_layers,
            "original_layer_indices": list(self.original_layer_indices),
        }


def pruning_record(config: Any) -> PruningRecord:
    """Read the record in a model's config; of an unpruned model it is an empty plan.

    Raises:
        PlanError: If somebody has changed the plan's text into something that is not a plan.
    """
    data = getattr(config, CONFIG_KEY, None)
    if not isinstance(data, dict) or "plan" not in data:
        return PruningRecord(PruningPlan(), int(config.num_hidden_layers))
    return PruningRecord(PruningPlan.parse(data["plan"]), int(data["original_num_hidden_layers"]))
