"""What a compensation is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from prune_bert.architectures import ffn_activation, ffn_width
from prune_bert.config.compensating import CompensationForm, CompensationOptions
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite, Placement
from prune_bert.errors import UserError
from prune_bert.knobs import (
    COMPENSATION_FOLDS,
    COMPENSATION_MAX_COST,
    COMPENSATION_NEURONS,
    COMPENSATION_RANK,
    COMPENSATION_RIDGE,
    range_faults,
)
from prune_bert.plan import Site


class CompensationError(UserError, ValueError):
    """A compensation that cannot be fitted: to these settings, this slice or this model."""


@dataclass(frozen=True, kw_only=True)
class CompensationSettings:
    """Every knob of a compensation; defaults and ranges are the configuration's.

    Attributes:
        form: ``"low_rank"``; ``"neurons"``, of an FFN a low rank beside its neurons of most effect; or ``"affine"``,
            a full map.
        rank: The rank; None: for each site the one of least cross-validated error within `max_cost`.
        max_cost: With no `rank`: the matrix work of a map, as a share of the sublayer's that it replaces.
        neurons: How many neurons ``"neurons"`` keeps.
        placement: Before or after the LayerNorm that stays.
        refit_norm: Fit the scale and bias of that LayerNorm anew.
        ridge: The strength of the ridge, times the mean square of an input channel; None: for each site the one of
            least cross-validated error.
        folds: Parts of the slice for cross-validation.

    Raises:
        CompensationError: A value is out of its range; the message lists all that are.

    Examples:
        >>> settings = CompensationSettings(rank=8, ridge=0.01)
        >>> fitted = compensate(model, "attention:2", rows, tokenizer, settings=settings)
    """

    form: CompensationForm = "low_rank"
    rank: int | None = COMPENSATION_RANK.field()
    max_cost: float = COMPENSATION_MAX_COST.field()
    neurons: int = COMPENSATION_NEURONS.field()
    placement: Placement = CompensationOptions.compensation_placement
    refit_norm: bool = CompensationOptions.compensation_refit_norm
    ridge: float | None = COMPENSATION_RIDGE.field()
    folds: int = COMPENSATION_FOLDS.field()

    def __post_init__(self) -> None:
        rules = [
            ("form", f"one of {', '.join(get_args(CompensationForm))}", self.form in get_args(CompensationForm)),
            ("placement", f"one of {', '.join(get_args(Placement))}", self.placement in get_args(Placement)),
            ("placement", "before, for the form neurons", self.placement == "before" or self.form != "neurons"),
        ]
        faults = [f"{name} must be {rule}, not {getattr(self, name)!r}" for name, rule, holds in rules if not holds]
        faults += range_faults(self)
        if faults:
            raise CompensationError("; ".join(f"compensation_{fault}" for fault in faults))

    @classmethod
    def from_options(cls, options: Any) -> CompensationSettings:
        """Take the knobs from a configuration with `CompensationOptions`, whose ``compensation`` is not ``"none"``."""
        knobs = {name: getattr(options, f"compensation_{name}") for name in _NAMES}
        return cls(form=options.compensation, **knobs)

    def blank_at(self, site: Site, model_config: Any, open_rank: int) -> FittedSite:
        """Make a correction of the shape that a fit at a site will have, with random values.

        Args:
            site: The site that carries it.
            model_config: The config of the unpruned model.
            open_rank: The rank where it is left to cross-validation.

        Raises:
            CorrectionError: The rank is over the width.
        """
        of_neurons = self.form == "neurons" and site.component == "ffn"
        spec = CorrectionSpec(
            None if self.form == "affine" else self.rank or open_rank,
            self.placement,
            min(self.neurons, ffn_width(model_config)) if of_neurons else 0,
            ffn_activation(model_config) or "gelu",
        )
        return FittedSite(Correction(int(model_config.hidden_size), spec))


_NAMES = ("rank", "max_cost", "neurons", "placement", "refit_norm", "ridge")
