"""The latency of a plan, predicted from a few measurements; data only, the measuring is done elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prune_bert.plan import PruningPlan, Site
from prune_bert.search.objective import SearchError

# A sublayer too fast to be told from nothing still has to have a price.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class LatencyTable:
    """What a model's parts take on one device, for one batch size and sequence length.

    Attributes:
        batch_size: Sequences in a batch.
        sequence_length: Tokens in a sequence.
        depth: Layers of the unpruned model.
        fixed_ms: What stays whatever is removed: embeddings, pooler, head, the call itself.
        layer_ms: What one layer takes.
        attention_ms: What of it goes with the attention sublayer; None where the family has no sublayers.
        ffn_ms: What of it goes with the feed-forward sublayer.
    """

    batch_size: int
    sequence_length: int
    depth: int
    fixed_ms: float
    layer_ms: float
    attention_ms: float | None = None
    ffn_ms: float | None = None

    @classmethod
    def from_timings(
        cls,
        *,
        batch_size: int,
        sequence_length: int,
        depth: int,
        unpruned_ms: float,
        without_layers_ms: float,
        without_attention_ms: float | None = None,
        without_ffn_ms: float | None = None,
    ) -> LatencyTable:
        """Make a table of at most four timings: the whole model, and without all sites of each kind.

        Raises:
            SearchError: The model without its layers is not faster than the whole.
        """
        if depth < 1 or not 0 < without_layers_ms < unpruned_ms:
            raise SearchError(
                f"{depth} layers took no measurable time: the model takes {unpruned_ms:.3f} ms with them and "
                f"{without_layers_ms:.3f} ms without; measure more rounds, or a larger batch"
            )

        def share(without_ms: float | None) -> float | None:
            return None if without_ms is None else max(0.0, (unpruned_ms - without_ms) / depth)

        layer_ms = (unpruned_ms - without_layers_ms) / depth
        attention_ms, ffn_ms = share(without_attention_ms), share(without_ffn_ms)
        return cls(batch_size, sequence_length, depth, without_layers_ms, layer_ms, attention_ms, ffn_ms)

    @property
    def unpruned_ms(self) -> float:
        """The latency of the whole model."""
        return self.fixed_ms + self.depth * self.layer_ms

    def saved_ms(self, site: Site) -> float:
        """Return what removing one site saves.

        Raises:
            SearchError: The model has no such layer, or the table no such sublayer.
        """
        if site.layer >= self.depth:
            raise SearchError(f"{site}: the latency table is of a model with {self.depth} layers, numbered from 0")
        saved = {"layer": self.layer_ms, "attention": self.attention_ms, "ffn": self.ffn_ms}[site.component]
        if saved is None:
            raise SearchError(f"{site}: the latency table has no {site.component} sublayers, only whole layers")
        return saved

    def predict_ms(self, plan: PruningPlan) -> float:
        """Predict the latency of a plan: the fixed part and what remains of each layer."""
        saved = dict.fromkeys(range(self.depth), 0.0)
        for site in plan:
            saved[site.layer] = self.saved_ms(site) + saved[site.layer]
        return self.fixed_ms + sum(max(0.0, self.layer_ms - gone) for gone in saved.values())

    def speedup(self, plan: PruningPlan) -> float:
        """Predict how many times faster the model is under a plan."""
        return self.unpruned_ms / self.predict_ms(plan)

    def costs(self, sites: Iterable[Site]) -> dict[Site, float]:
        """Return what each site saves in milliseconds, as strategies take it: at least 1 % of a layer."""
        return {site: max(self.saved_ms(site), _LEAST_SHARE * self.layer_ms) for site in sites}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; ``LatencyTable(**stored)`` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> LatencyTable:
        """Read what `to_dict` gave."""
        return cls(**stored)
