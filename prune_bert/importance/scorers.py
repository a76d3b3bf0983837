"""The scorers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prune_bert.importance.calibration import Calibration
from prune_bert.importance.gradients import fisher, taylor
from prune_bert.importance.leaving_out import loss_increase
from prune_bert.importance.scores import Score
from prune_bert.importance.similarity import angular, block_influence, contribution
from prune_bert.importance.weights import magnitude, positional
from prune_bert.plan import Site
from prune_bert.search.orders import POSITIONAL_ORDERS


@dataclass(frozen=True)
class Scorer:
    """A way to score sites.

    Attributes:
        compute: From a model and examples to a score for each site; its docstring names the paper.
        needs_data: Whether it looks at examples.
        needs_labels: Whether it looks at their labels.
    """

    compute: Callable[[Calibration], dict[Site, Score]]
    needs_data: bool = True
    needs_labels: bool = False


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        **{name: Scorer(positional, needs_data=False) for name in POSITIONAL_ORDERS},
        "magnitude": Scorer(magnitude, needs_data=False),
        "contribution": Scorer(contribution),
        "block_influence": Scorer(block_influence),
        "angular": Scorer(angular),
        "taylor": Scorer(taylor, needs_labels=True),
        "fisher": Scorer(fisher, needs_labels=True),
        "loss_increase": Scorer(loss_increase, needs_labels=True),
    }
)
