"""Which plans a search may choose: those without whose sites the model can be dropped and saved."""

from __future__ import annotations

from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.config import SearchConfig
from prune_bert.pipeline.keeping import standing_sites
from prune_bert.plan import PruningPlan, Site
from prune_bert.search import SearchError, next_plans
from prune_bert.surgery import Rebuilding, undroppable_layers
from prune_bert.surgery.rebuild import whole_layers


class SavablePlans:
    """Tells of a plan whether ``prune`` would save the model without it, from what is found out once.

    Args:
        config: The search's settings.
        model: The unpruned model.
    """

    def __init__(self, config: SearchConfig, model: nn.Module) -> None:
        self._config = config
        self._model = model
        self._rebuilding = Rebuilding(model)
        self._fixed: dict[int, str] = {}
        self._tried: set[int] = set()

    def __call__(self, plan: PruningPlan) -> bool:
        """Return whether a plan may be chosen."""
        return not self.obstacle(plan)

    def obstacle(self, plan: PruningPlan) -> str:
        """Say why a plan may not be chosen; nothing where it may."""
        standing = standing_sites(self._config, plan)
        carried = {site.layer for site in standing if site.component == "layer"}
        gone = set(whole_layers(plan, standing).layers()) - carried
        for layer in sorted(gone):
            if layer not in self._tried:
                self._tried.add(layer)
                self._fixed |= undroppable_layers(self._model, (layer,))
            if layer in self._fixed:
                return self._fixed[layer]
        return self._rebuilding.obstacle(plan, standing)

    def check(self, sites: tuple[Site, ...]) -> None:
        """Refuse a search among whose sites there is nothing that may go.

        Raises:
            SearchError: It says why the first of them may not.
        """
        nothing = PruningPlan((), self._config.norm)
        if next_plans(nothing, sites, self):
            return
        family = find_encoder(self._model).model_type
        reason = self.obstacle(PruningPlan(sites[:1], self._config.norm))
        raise SearchError(f"nothing can be removed from this {family} so that it can be saved: {reason}")
