"""What a correction should give at a site, and what each token and channel counts for."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from prune_bert.compensation.moments import ChannelMoments, in_double
from prune_bert.compensation.neurons import Neurons
from prune_bert.compensation.passes import Tokens
from prune_bert.compensation.ports import Port

_EPSILON = 1e-6

# From tokens to ``(tokens, hidden)`` targets and ``(tokens,)`` weights.
Residual = Callable[[Tokens], tuple[torch.Tensor, torch.Tensor]]


def before_norm(port: Port, neurons: Neurons | None = None) -> Residual:
    """Aim at what is added before the LayerNorm: ``x + f(x)`` of the unpruned model less ``x`` of the pruned one.

    The LayerNorm divides an error by the token's spread, so tokens of small spread count for more. What kept neurons
    add in the FFN is taken off first: the fit then shrinks towards it.
    """

    def residual(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        before = in_double(tokens.before)
        targets, weights = before - in_double(tokens.inputs), in_double(tokens.weights)
        if neurons is not None:
            targets = targets - in_double(F.linear(neurons.fire(tokens.inputs), neurons.outer))
        if port.norm is not None or port.residual_outside:
            weights = weights / (before.var(-1, unbiased=False) + _EPSILON)
        return targets, weights

    return residual


def after_norm(port: Port, norm: ChannelMoments | None) -> Residual:
    """Aim at what is added after the LayerNorm: its output in the unpruned model less that in the pruned one."""
    scale, bias = _own(port) if norm is None else norm.scale_and_bias()

    def residual(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        z = in_double(normalised(tokens.inputs.float(), port))
        return in_double(tokens.after) - (z * scale.to(z.device) + bias.to(z.device)), tokens.weights

    return residual


def normalised(hidden: torch.Tensor, port: Port) -> torch.Tensor:
    """Return ``(tokens, hidden)`` as the LayerNorm that stays makes them, before its scale and bias."""
    return F.layer_norm(hidden, hidden.shape[-1:], eps=float(getattr(port.norm, "eps", _EPSILON)))


def channel_weights(port: Port, *, after: bool) -> torch.Tensor:
    """Return what an error in each channel counts for, ``(hidden,)``: before a LayerNorm, its scale."""
    if port.norm is None or after:
        return torch.ones(port.width, dtype=torch.float64)
    scale = _own(port)[0].abs().cpu()
    return scale + 1e-3 * scale.mean() + _EPSILON


def _own(port: Port) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = (in_double(getattr(port.norm, name).detach()) for name in ("weight", "bias"))
    return weight, bias
