"""What a model's config remembers of the surgery done on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prune_bert.corrections import CorrectionError, CorrectionSpec
from prune_bert.errors import UserError
from prune_bert.plan import PlanError, PruningPlan, Site

CONFIG_KEY = "prune_bert"

# More layers than any model has: what lies above is a damaged number, and would take minutes to work through.
_DEPTH_LIMIT = 10_000


class RecordError(UserError, ValueError):
    """A record of pruning in a config that contradicts itself or the config that it stands in."""


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
        """Return the sites that left a stand-in, in the numbering of the model as it is now."""
        return PruningPlan(tuple(self._now(site) for site in self._standing()), self.plan.norm)

    def current_corrections(self) -> dict[Site, CorrectionSpec]:
        """Return the shapes of the corrections, in the numbering of the model as it is now."""
        return {self._now(site): self.corrections[site] for site in self._standing() if site in self.corrections}

    def with_corrections(self, corrections: Mapping[Site, CorrectionSpec]) -> PruningRecord:
        """Return the record with other corrections of its sites, given in the numbering of the model as it is now."""
        before = self.original_layer_indices
        specs = {Site(before[site.layer], site.component): spec for site, spec in corrections.items()}
        return PruningRecord(self.plan, self.original_num_hidden_layers, {**self.corrections, **specs})

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
        """Return the record as it stands in ``config.json``."""
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
        RecordError: If the record contradicts itself, or the config's ``num_hidden_layers``.
    """
    data = getattr(config, CONFIG_KEY, None)
    if data is None:
        return PruningRecord(PruningPlan(), int(config.num_hidden_layers))
    record = _read(data)
    depth, said = len(record.original_layer_indices), config.num_hidden_layers
    if isinstance(said, bool) or said != depth:
        raise RecordError(
            f"config.json says num_hidden_layers {said!r}, and its record of pruning leaves {depth} of "
            f"{record.original_num_hidden_layers} layers ({record.plan}); one of the two was edited: {_MEND}"
        )
    return record


_MEND = "copy or download the checkpoint again"


def _read(data: Any) -> PruningRecord:
    """Read a record from JSON, and check that its parts agree."""
    if not isinstance(data, dict):
        raise _damaged(f"it is {type(data).__name__}, not a mapping")
    depth = data.get("original_num_hidden_layers")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= _DEPTH_LIMIT:
        raise _damaged(f"original_num_hidden_layers is {_short(depth)}, not a number of layers")
    try:
        plan = PruningPlan.parse(data["plan"]) if isinstance(data.get("plan"), str) else None
        record = None if plan is None else PruningRecord(plan, depth, _read_corrections(data.get("corrections", {})))
    except (PlanError, CorrectionError) as error:
        raise _damaged(_short(str(error), 160)) from error
    if record is None:
        raise _damaged(f"its plan is {_short(data.get('plan'))}, not a text")
    _check(record, data.get("original_layer_indices"))
    return record


def _read_corrections(data: Any) -> dict[Site, CorrectionSpec]:
    if not isinstance(data, dict):
        raise CorrectionError(f"corrections is {_short(data)}, not a mapping")
    found = {}
    for text, item in data.items():
        sites = tuple(PruningPlan.parse(text))
        if len(sites) != 1 or not isinstance(item, dict):
            raise CorrectionError(f"corrections has {_short(text)}: {_short(item)}, not a site and a shape")
        found[sites[0]] = CorrectionSpec.from_json(item)
    return found


def _check(record: PruningRecord, indices: Any) -> None:
    """Refuse a record whose sites lie outside the model or whose parts contradict each other."""
    depth = record.original_num_hidden_layers
    outside = [site for site in record.plan if site.layer >= depth]
    if outside:
        raise _damaged(f"it removes {outside[0]} from a model of {depth} layers, numbered 0 to {depth - 1}")
    strangers = [site for site in record.corrections if site not in record.plan]
    if strangers:
        raise _damaged(f"it has a correction for {strangers[0]}, which its plan ({record.plan}) does not remove")
    kept = list(record.original_layer_indices)
    if not kept:
        raise _damaged(f"its plan ({record.plan}) removes all {depth} layers")
    if indices is not None and (not isinstance(indices, list) or [*map(repr, indices)] != [*map(repr, kept)]):
        raise _damaged(f"original_layer_indices is {_short(indices)}, and its plan ({record.plan}) leaves {kept}")


def _damaged(reason: str) -> RecordError:
    return RecordError(f"the record of pruning in config.json ({CONFIG_KEY}) is damaged: {reason}; {_MEND}")


def _short(value: Any, limit: int = 60) -> str:
    text = value if isinstance(value, str) and limit > 60 else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
