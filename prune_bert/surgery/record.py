"""What a model's config remembers of the surgery done on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prune_bert.corrections import CorrectionSpec
from prune_bert.plan import PruningPlan, Site

CONFIG_KEY = "prune_bert"


@dataclass(frozen=True)
class PruningRecord:
    """What was removed, in the numbering of the unpruned model.

    Attributes:
        plan: Everything that has been removed so far.
        original_num_hidden_layers: The depth before the first removal.
        corrections: The shape of the correction of each compensated site. A compensated layer leaves a stand-in in
            the list of layers, and so counts as one that remains.
    """

    plan: PruningPlan
    original_num_hidden_layers: int
    corrections: Mapping[Site, CorrectionSpec] = field(default_factory=dict)

    @property
    def original_layer_indices(self) -> tuple[int, ...]:
        """The original index of each layer that remains, in order."""
        gone = {site.layer for site in self.plan if site.component == "layer" and site not in self.corrections}
        return tuple(index for index in range(self.original_num_hidden_layers) if index not in gone)

    def current_stand_ins(self) -> PruningPlan:
        """Give the sites that left a stand-in, in the numbering of the model as it is now."""
        return PruningPlan(tuple(self._now(site) for site in self._standing()), self.plan.norm)

    def current_corrections(self) -> dict[Site, CorrectionSpec]:
        """Give the shapes of the corrections, in the numbering of the model as it is now."""
        return {self._now(site): self.corrections[site] for site in self._standing() if site in self.corrections}

    def extended(self, plan: PruningPlan, corrections: Mapping[Site, CorrectionSpec] | None = None) -> PruningRecord:
        """Add a plan, and the corrections of its sites, given in the numbering of the model as it is now.

        Raises:
            PlanError: If the norm rules differ.
        """
        before, added = self.original_layer_indices, corrections or {}
        originals = {site: Site(before[site.layer], site.component) for site in plan}
        swallowed = {site.layer for site in originals.values() if site.component == "layer"}
        kept = tuple(site for site in self.plan if site.component == "layer" or site.layer not in swallowed)
        merged = PruningPlan(kept, self.plan.norm) | PruningPlan(tuple(originals.values()), plan.norm)
        specs = {site: spec for site, spec in self.corrections.items() if site in merged}
        specs |= {originals[site]: spec for site, spec in added.items()}
        return PruningRecord(merged, self.original_num_hidden_layers, specs)

    def _standing(self) -> tuple[Site, ...]:
        return tuple(site for site in self.plan if site.component != "layer" or site in self.corrections)

    def _now(self, site: Site) -> Site:
        return Site(self.original_layer_indices.index(site.layer), site.component)

    def to_json(self) -> dict[str, Any]:
        """Give the record as it stands in ``config.json``."""
        found: dict[str, Any] = {
            "plan": str(self.plan),
            "original_num_hidden_layers": self.original_num_hidden_layers,
            "original_layer_indices": list(self.original_layer_indices),
        }
        if self.corrections:
            found["corrections"] = {str(site): spec.to_json() for site, spec in self.corrections.items()}
        return found


def pruning_record(config: Any) -> PruningRecord:
    """Read the record in a model's config; of an unpruned model it is an empty plan.

    Raises:
        PlanError: If somebody has changed the plan's text into something that is not a plan.
        CorrectionError: Or a correction's shape into something that is none.
    """
    data = getattr(config, CONFIG_KEY, None)
    if not isinstance(data, dict) or "plan" not in data:
        return PruningRecord(PruningPlan(), int(config.num_hidden_layers))
    specs = {_site(text): CorrectionSpec.from_json(item) for text, item in data.get("corrections", {}).items()}
    return PruningRecord(PruningPlan.parse(data["plan"]), int(data["original_num_hidden_layers"]), specs)


def _site(text: str) -> Site:
    (site,) = PruningPlan.parse(text)
    return site
