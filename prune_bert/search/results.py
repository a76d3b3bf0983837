"""What a search found, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune_bert.plan import PruningPlan
from prune_bert.search.objective import Evaluated
from prune_bert.search.racing import RaceResult
from prune_bert.search.sites import preference

if TYPE_CHECKING:
    from prune_bert.display import Shown


@dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search found.

    Attributes:
        strategy: Which strategy searched.
        evaluated: Every plan that was evaluated in full, with its value, in the order of evaluation.
        path: One plan for each number of removed sites, fewest first. Those of `one_shot` and `greedy` are nested,
            each removing what the one before did and one site more; those of `beam` and `exhaustive` are the best
            found of their size.
        races: The races on the way, if any, with what they cut.
        seconds: Wall-clock time.
    """

    strategy: str
    evaluated: tuple[Evaluated, ...]
    path: tuple[Evaluated, ...]
    races: tuple[RaceResult, ...] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        from prune_bert.display import text_of

        return text_of(self)

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        from prune_bert.display import html_of

        return html_of(self)

    def _shown(self) -> Shown:
        from prune_bert.display import Shown, number

        facts = [("evaluated", str(len(self.evaluated))), ("cut", str(self.num_cut) if self.races else "")]
        facts += [("best", f"{str(self.best.plan)!r} {number(self.best.value)}")] if self.evaluated else []
        rows = [(str(len(found.plan)), number(found.value), str(found.plan)) for found in self.path]
        return Shown(self.strategy, [*facts, ("seconds", number(self.seconds))], ("sites", "value", "path"), rows)

    @property
    def best(self) -> Evaluated:
        """The plan of the lowest value; of equals the one that removes the most sites."""
        return min(self.evaluated, key=lambda found: (found.value, -len(found.plan), preference(found.plan)))

    @property
    def removed(self) -> tuple[PruningPlan, ...]:
        """What each step of the path removed that the one before had not; of use where the path is nested."""
        steps = zip(self.path, self.path[1:], strict=False)
        return tuple(after.plan - before.plan for before, after in steps)

    @property
    def num_cut(self) -> int:
        """How many plans the races cut."""
        return sum(len(race.cut) for race in self.races)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_dict` gives it back."""
        return {
            "strategy": self.strategy,
            "evaluated": _to_json(self.evaluated),
            "path": _to_json(self.path),
            "races": [race.to_dict() for race in self.races],
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SearchResult:
        """Read what `to_dict` gave."""
        return cls(
            strategy=stored["strategy"],
            evaluated=_from_json(stored["evaluated"]),
            path=_from_json(stored["path"]),
            races=tuple(RaceResult.from_dict(race) for race in stored["races"]),
            seconds=stored["seconds"],
        )


def _to_json(found: Iterable[Evaluated]) -> list[dict[str, Any]]:
    """Write an infinite value, which JSON does not have, as null."""
    return [{"plan": str(item.plan), "value": item.value if math.isfinite(item.value) else None} for item in found]


def _from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Evaluated, ...]:
    return tuple(
        Evaluated(PruningPlan.parse(item["plan"]), math.inf if item["value"] is None else item["value"])
        for item in stored
    )
