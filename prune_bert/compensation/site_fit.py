"""The fit of one site, from its sums to the correction that its stand-in carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from prune_bert.compensation.moments import ChannelMoments, Moments
from prune_bert.compensation.neurons import Neurons
from prune_bert.compensation.ports import Port
from prune_bert.compensation.result import SiteFit
from prune_bert.compensation.settings import CompensationError, CompensationSettings
from prune_bert.compensation.solving import RIDGES, Choice, LinearFit, cross_validate, solve, summed
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite

_SMALLEST_RANK = 4


@dataclass(frozen=True)
class Ranks:
    """The ranks that a site may have.

    Attributes:
        allowed: To choose from; ``(width,)`` for a full map.
        note: What a reader should know of them, or nothing.
    """

    allowed: tuple[int, ...]
    note: str = ""


def ranks_of(settings: CompensationSettings, port: Port, tokens: int) -> Ranks:
    """Settle which ranks a site may have, for the number of tokens that it is fitted to.

    Raises:
        CompensationError: The rank is over the width, no rank is cheap enough, or there are too few tokens for any.
    """
    site, width, work = port.site, port.width, port.work
    determined = int(tokens * (settings.folds - 1) / settings.folds) - 1
    if determined < 1:
        raise CompensationError(f"{site}: {tokens} tokens are too few to fit to; take a larger calibration slice")
    if settings.form == "affine":
        return Ranks((width,))
    if settings.rank is not None:
        if settings.rank > width:
            raise CompensationError(
                f"compensation_rank {settings.rank} is over the model's width of {width}; use a lower one, or the form "
                "affine"
            )
        if settings.rank > determined:
            return Ranks(
                (determined,), f"{site}: rank {settings.rank} lowered to {determined}, for {tokens} tokens to fit to"
            )
        return Ranks((settings.rank,))
    most = int(settings.max_cost * work / (2 * width))
    if most < 1:
        raise CompensationError(
            f"{site}: compensation_max_cost {settings.max_cost:g} leaves no room for rank 1, which costs "
            f"{2 * width / work:.2g} of what it replaces"
        )
    powers = [2**power for power in range(2, 20) if 2**power <= min(most, width, determined)]
    return Ranks(tuple(powers) or (min(most, determined, _SMALLEST_RANK),))


# From the sums of each fold, the settings, the ranks allowed and the channels' weights to rank and ridge.
Choose = Callable[[Sequence[Moments], CompensationSettings, Ranks, torch.Tensor], Choice]


def by_cross_validation(
    folds: Sequence[Moments], settings: CompensationSettings, ranks: Ranks, metric: torch.Tensor
) -> Choice:
    """Choose the rank, and the ridge where the settings leave it open, of least cross-validated error."""
    ridges = RIDGES if settings.ridge is None else (settings.ridge,)
    return cross_validate(folds, ranks.allowed, ridges, metric)


def fit_map(
    folds: Sequence[Moments],
    settings: CompensationSettings,
    ranks: Ranks,
    metric: torch.Tensor,
    neurons: Neurons | None = None,
    choose: Choose | None = None,
) -> tuple[FittedSite, SiteFit]:
    """Fit the correction of a site to the sums of each fold.

    Args:
        folds: The sums; the targets are what the correction should give, beyond what kept neurons do.
        settings: The settings.
        ranks: The ranks to choose from.
        metric: ``(hidden,)`` weights of an error in each channel, above 0.
        neurons: The neurons that stay; their activations are the inputs after the hidden states.
        choose: Chooses rank and ridge; by default `by_cross_validation`.

    Raises:
        CompensationError: A sum is no finite number, or a fold is empty.
    """
    _check(folds)
    choice = (choose or by_cross_validation)(folds, settings, ranks, metric)
    total = summed(folds)
    linear = solve(total, choice.rank, choice.ridge, metric)
    rank = None if settings.form == "affine" else choice.rank
    kept = 0 if neurons is None else len(neurons)
    spec = CorrectionSpec(rank, settings.placement, kept, "gelu" if neurons is None else neurons.activation)
    fit = SiteFit(rank, kept, choice.ridge, choice.error, int(total.count))
    return FittedSite(_correction(linear, spec, neurons)), fit


def with_norm(fitted: FittedSite, moments: ChannelMoments) -> FittedSite:
    """Add the refit of the LayerNorm that stays."""
    scale, bias = moments.scale_and_bias()
    return FittedSite(fitted.correction, scale.float(), bias.float())


def rounded(fitted: FittedSite, dtype: torch.dtype, site: object) -> FittedSite:
    """Round a fit to the type in which it will be stored, so that what is evaluated is what is saved.

    Raises:
        CompensationError: A value does not fit into it.
    """

    def cast(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        stored = tensor.detach().to(dtype).float()
        if not torch.isfinite(stored).all():
            raise CompensationError(
                f"{site}: the fit has values up to {tensor.abs().max():.2g}, too large for the {dtype} of this "
                "checkpoint; use a stronger compensation_ridge, or a checkpoint in float32"
            )
        return stored

    values = {name: cast(tensor) for name, tensor in fitted.correction.state_dict().items()}
    correction = Correction(fitted.correction.width, fitted.correction.spec)
    correction.load_state_dict(values)
    return FittedSite(correction, cast(fitted.norm_weight), cast(fitted.norm_bias))


def _check(folds: Sequence[Moments]) -> None:
    for fold in folds:
        if not all(torch.isfinite(tensor).all() for tensor in fold.tensors):
            raise CompensationError(
                "the activations on the calibration slice are not all finite; in fp16 this is an overflow: use "
                "mixed_precision bf16 or no; otherwise the weights are damaged"
            )
        if not fold.count:
            raise CompensationError(
                f"the calibration slice has fewer examples than the {len(folds)} folds of cross-validation; take a "
                "larger one"
            )


def _correction(linear: LinearFit, spec: CorrectionSpec, neurons: Neurons | None) -> Correction:
    correction = Correction(len(linear.bias), spec)
    with torch.no_grad():
        correction.bias.copy_(linear.bias)
        if spec.rank is None:
            correction.map.weight.copy_(linear.matrix)
        elif spec.rank:
            correction.down.weight.copy_(linear.down)
            correction.up.weight.copy_(linear.up)
        if neurons is not None:
            correction.inner.weight.copy_(neurons.inner)
            correction.inner.bias.copy_(neurons.inner_bias)
            correction.outer.weight.copy_(neurons.outer.cpu() + linear.beside)
    return correction
