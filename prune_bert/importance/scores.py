"""Scores as data: a value with its spread, for each site, and how they come from the values of the examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_bert.display import Displayed, Shown, number
from prune_bert.plan import PruningPlan, Site
from prune_bert.search.sites import preference

CALIBRATION_BATCHES = 10
_HEADINGS = ("least important first", "score", "spread", "95 % interval")
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """What a site is worth; higher means keep.

    Attributes:
        value: The score over all calibration examples.
        spread: The standard deviation of the score over ten calibration batches. They are equal parts of the
            examples (every tenth), whatever the batch size of the forward passes; 0 where the data have no say.
        ci95: The bounds of the value's 95 % interval for examples drawn anew (normal, for a ratio of means);
            nan for a single example.
    """

    value: float
    spread: float = 0.0
    ci95: tuple[float, float] = (math.nan, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; nan becomes null."""
        return {"value": self.value, "spread": self.spread, "ci95": [_to_json(bound) for bound in self.ci95]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Score:
        """Read what `to_dict` gave."""
        low, high = (math.nan if bound is None else bound for bound in stored["ci95"])
        return cls(stored["value"], stored["spread"], (low, high))


@dataclass(frozen=True, repr=False)
class SiteScores(Displayed):
    """The scores of a model's sites by one scorer.

    Attributes:
        scorer: The scorer's name.
        scores: For each site, in forward order.
        n: How many examples had a say; 0 for scorers that look at no data.
        seconds: Wall-clock time.
    """

    scorer: str
    scores: Mapping[Site, Score]
    n: int
    seconds: float

    def _shown(self) -> Shown:
        title = f"{self.scorer}, {len(self.scores)} sites, {self.n:,} examples"
        rows = []
        for site in self.ranking():
            score = self.scores[site]
            bounds = "" if math.isnan(score.ci95[0]) else " to ".join(map(number, score.ci95))
            rows.append((str(site), number(score.value), number(score.spread), bounds))
        return Shown(title, [("seconds", number(self.seconds))], _HEADINGS, rows)

    @property
    def values(self) -> dict[Site, float]:
        """The bare values, as the strategy `one_shot` takes them."""
        return {site: score.value for site, score in self.scores.items()}

    def ranking(self) -> tuple[Site, ...]:
        """Return the sites, the least important first: the order of removal. Of equal ones the later comes first."""
        return tuple(sorted(self.scores, key=lambda site: (self.scores[site].value, preference(PruningPlan((site,))))))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_dict` gives it back."""
        scores = [
            {"layer": site.layer, "component": site.component, **score.to_dict()} for site, score in self.scores.items()
        ]
        return {"scorer": self.scorer, "scores": scores, "n": self.n, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SiteScores:
        """Read what `to_dict` gave."""
        scores = {Site(item["layer"], item["component"]): Score.from_dict(item) for item in stored["scores"]}
        return cls(stored["scorer"], scores, stored["n"], stored["seconds"])


def certain(value: float) -> Score:
    """Return a score that no data had a say in."""
    return Score(value, 0.0, (value, value))


def mean_scores(sums: NDArray[np.floating[Any]], weights: NDArray[np.floating[Any]]) -> list[Score]:
    """Turn the examples' values into one score for each column: the sum of the sums over the sum of the weights.

    Args:
        sums: ``(n, columns)``, for example the sum over an example's tokens.
        weights: ``(n,)``, for example how many tokens it has.
    """
    sums, weights = sums.astype(np.float64), weights.astype(np.float64)
    n, parts = len(sums), min(CALIBRATION_BATCHES, len(sums))
    values = sums.sum(0) / weights.sum()
    of_parts = np.stack([sums[part::parts].sum(0) / weights[part::parts].sum() for part in range(parts)])
    spreads = of_parts.std(0, ddof=1) if parts > 1 else np.zeros_like(values)
    if n < 2:
        return [Score(float(value), float(spread)) for value, spread in zip(values, spreads, strict=True)]
    residuals = (sums - values * weights[:, None]) / weights.mean()  # (n, columns), of the ratio, linearised
    errors = residuals.std(0, ddof=1) / math.sqrt(n)
    return [
        Score(float(value), float(spread), (float(value - half), float(value + half)))
        for value, spread, half in zip(values, spreads, _NORMAL_95 * errors, strict=True)
    ]


def _to_json(number: float) -> float | None:
    return None if math.isnan(number) else number
