"""The neurons of an FFN that a correction keeps: those of most effect on the slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from prune_bert.architectures import ArchitectureError, Encoder
from prune_bert.compensation.moments import ChannelMoments
from prune_bert.compensation.passes import PassOver, Tokens
from prune_bert.corrections import activation_of
from prune_bert.plan import Site


@dataclass(frozen=True, eq=False)
class Neurons:
    """Neurons of one FFN.

    Attributes:
        inner: ``(neurons, hidden)``.
        inner_bias: ``(neurons,)``.
        outer: What each adds, ``(hidden, neurons)``.
        activation: Its name, as transformers has it.
        function: The activation.
    """

    inner: torch.Tensor
    inner_bias: torch.Tensor
    outer: torch.Tensor
    activation: str
    function: nn.Module

    def __len__(self) -> int:
        """Count the neurons."""
        return len(self.inner)

    def fire(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return their activations, ``(tokens, neurons)``, of ``(tokens, hidden)``."""
        fired: torch.Tensor = self.function(F.linear(inputs.to(self.inner), self.inner, self.inner_bias))
        return fired

    def select(self, indices: torch.Tensor) -> Neurons:
        """Keep some of them."""
        return Neurons(
            self.inner[indices], self.inner_bias[indices], self.outer[:, indices], self.activation, self.function
        )


def neurons_of(encoder: Encoder, site: Site, activation: str | None) -> Neurons:
    """Find all neurons of an FFN.

    Raises:
        ArchitectureError: The family's FFNs are not known, or their activation is no named one.
    """
    first, second = encoder.ffn_linears(site.layer)
    if activation is None:
        raise ArchitectureError(f"the activation of {encoder.model_type!r} is not known, so no neurons can be kept")
    inner, bias, outer = (tensor.detach() for tensor in (first.weight, first.bias, second.weight))
    return Neurons(inner, bias, outer, activation, activation_of(activation))


def chosen_neurons(
    every: Neurons,
    count: int,
    metric: torch.Tensor,
    pass_over: PassOver,
    processes: Callable[..., list[ChannelMoments]],
) -> Neurons:
    """Keep the neurons whose spread over the tokens, times what each adds, is largest."""
    sums = [ChannelMoments.zeros(len(every), every.inner.device)]

    def collect(tokens: Tokens) -> None:
        fired = every.fire(tokens.inputs)
        sums[0] = sums[0] + ChannelMoments.of(fired, fired, tokens.weights)

    pass_over(collect, ", neurons")
    weight, fired, _, squared, _ = processes(sums)[0].sums
    spread = (squared / weight - (fired / weight) ** 2).clamp_min(0).sqrt()
    effect = spread * (metric.unsqueeze(1) * every.outer.double().cpu()).norm(dim=0)
    # the order in the FFN, and the first of equals, so that the choice does not depend on the sort
    indices = torch.argsort(effect, descending=True, stable=True)[: min(count, len(every))].sort().values
    return every.select(indices.to(every.inner.device))
