"""The knobs of compensation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prune_bert.config.options import About, knob_field
from prune_bert.knobs import COMPENSATION_MAX_COST, COMPENSATION_NEURONS, COMPENSATION_RANK, COMPENSATION_RIDGE

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
    compensation_rank: int | None = knob_field(
        COMPENSATION_RANK, "rank of the maps; none: by cross-validation, within compensation_max_cost", "N"
    )
    compensation_max_cost: float = knob_field(
        COMPENSATION_MAX_COST,
        "share of a sublayer's matrix work that its map may cost, where the rank is open",
        "X",
    )
    compensation_neurons: int = knob_field(COMPENSATION_NEURONS, "how many neurons of an FFN neurons keeps", "N")
    compensation_placement: Literal["before", "after"] = field(
        default="before", metadata=About(help="side of the LayerNorm that stays on which the map is added")
    )
    compensation_refit_norm: bool = field(
        default=True, metadata=About(help="fit that LayerNorm's scale and bias, too", metavar="true|false")
    )
    compensation_ridge: float | None = knob_field(
        COMPENSATION_RIDGE, "ridge, times the mean square of an input; none: by cross-validation", "X"
    )
