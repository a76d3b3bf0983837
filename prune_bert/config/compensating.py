"""The knobs of compensation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prune_bert.config.options import About

CompensationForm = Literal["low_rank", "neurons", "affine"]


@dataclass(frozen=True, kw_only=True)
class CompensationOptions:
    """What is fitted, without training, in the place of what is removed."""

    compensation: Literal["none", "low_rank", "neurons", "affine"] = field(
        default="none",
        metadata=About(
            help="fit to a slice of train: low_rank maps; neurons: and an FFN's best neurons; affine: full maps"
        ),
    )
    compensation_rank: int | None = field(
        default=32,
        metadata=About(
            help="rank of the maps; none: by cross-validation, within compensation_max_cost", metavar="N", at_least=1
        ),
    )
    compensation_max_cost: float = field(
        default=0.05,
        metadata=About(
            help="share of a sublayer's matrix work that its map may cost, where the rank is open",
            metavar="X",
            above=0,
            at_most=1,
        ),
    )
    compensation_neurons: int = field(
        default=128, metadata=About(help="how many neurons of an FFN neurons keeps", metavar="N", at_least=1)
    )
    compensation_placement: Literal["before", "after"] = field(
        default="before", metadata=About(help="side of the LayerNorm that stays on which the map is added")
    )
    compensation_refit_norm: bool = field(
        default=True, metadata=About(help="fit that LayerNorm's scale and bias, too", metavar="true|false")
    )
    compensation_ridge: float | None = field(
        default=None,
        metadata=About(
            help="ridge, times the mean square of an input; none: by cross-validation", metavar="X", at_least=0
        ),
    )
