"""What a compensated stand-in adds: a small map that was fitted to what was removed.

A correction is ``delta(x) = up(down(x)) + bias``, or ``map(x) + bias``, and of an FFN perhaps a few of its neurons,
``+ outer(activation(inner(x)))``. It goes into a stand-in before the LayerNorm that stays, ``LN(x + delta(x))``, or
after it, ``LN(x) + delta(x)``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from prune_bert.errors import UserError

Placement = Literal["before", "after"]


class CorrectionError(UserError, ValueError):
    """A correction that cannot be: a rank over the width, a form that is not known."""


@dataclass(frozen=True)
class CorrectionSpec:
    """The shape of one correction, as a model's config remembers it.

    Attributes:
        rank: The rank of the map; None for a full one, 0 for a bias alone.
        placement: Before or after the LayerNorm that stays; of no meaning where none does.
        neurons: How many neurons of the FFN it keeps.
        activation: Their activation, by transformers' name.

    Raises:
        CorrectionError: A value is none of those.
    """

    rank: int | None
    placement: Placement = "before"
    neurons: int = 0
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 0):
            raise CorrectionError(f"the rank of a correction is 0 or more, or none for a full map, not {self.rank!r}")
        if not isinstance(self.neurons, int) or self.neurons < 0:
            raise CorrectionError(f"a correction keeps 0 or more neurons, not {self.neurons!r}")
        if self.placement not in get_args(Placement):
            raise CorrectionError(
                f"unknown placement {self.placement!r} of a correction, expected {' | '.join(get_args(Placement))}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in ``config.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CorrectionSpec:
        """Read what `to_json` gave.

        Raises:
            CorrectionError: It is something else.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise CorrectionError(
                f"{data!r} describes no correction: rank, placement, neurons and activation are expected"
            ) from error


class Correction(nn.Module):
    """A map of hidden states: linear, full or of low rank, and some neurons.

    Args:
        width: The width of the hidden states.
        spec: The shape.

    Raises:
        CorrectionError: The rank is over the width, or the activation is not known.
    """

    def __init__(self, width: int, spec: CorrectionSpec) -> None:
        super().__init__()
        self.spec = spec
        rank = spec.rank
        if rank is not None and rank > width:
            raise CorrectionError(f"rank {rank} is over the model's width {width}; a full map is the form affine")
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
            if rank is None:
                self.map = nn.Linear(width, width, bias=False)
            elif rank:
                self.down = nn.Linear(width, rank, bias=False)
                self.up = nn.Linear(rank, width, bias=False)
            if spec.neurons:
                self.inner = nn.Linear(width, spec.neurons)
                self.activation = activation_of(spec.activation)
                self.outer = nn.Linear(spec.neurons, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def width(self) -> int:
        """The width of the hidden states."""
        return len(self.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is to be added to hidden states ``(batch, seq, hidden)``, of the same shape."""
        moved = self.bias.expand_as(hidden)
        if self.spec.rank is None:
            moved = moved + self.map(hidden)
        elif self.spec.rank:
            moved = moved + self.up(self.down(hidden))
        if self.spec.neurons:
            moved = moved + self.outer(self.activation(self.inner(hidden)))
        return moved

    def extra_repr(self) -> str:
        """Say the shape, for ``print(model)``."""
        form = "full" if self.spec.rank is None else f"rank={self.spec.rank}"
        neurons = f", neurons={self.spec.neurons}" if self.spec.neurons else ""
        return f"width={self.width}, {form}{neurons}, placement={self.spec.placement}"


def activation_of(name: str) -> nn.Module:
    """Make an activation by transformers' name for it.

    Raises:
        CorrectionError: There is none.
    """
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise CorrectionError(f"transformers knows no activation {name!r}")
    found: nn.Module = ACT2FN[name]
    return found


@dataclass(frozen=True, eq=False)
class FittedSite:
    """What was fitted for one site.

    Attributes:
        correction: The map. A stand-in takes a copy of it.
        norm_weight: The refitted scale of the LayerNorm that stays, ``(hidden,)``, or None where it is as it was.
        norm_bias: Its refitted bias, likewise.
    """

    correction: Correction
    norm_weight: torch.Tensor | None = None
    norm_bias: torch.Tensor | None = None

    def correction_like(self, weight: torch.Tensor) -> Correction:
        """Return a copy of the correction on the device and in the type of a model's weight."""
        return copy.deepcopy(self.correction).to(weight)

    def norm_like(self, norm: nn.Module) -> nn.Module:
        """Return a copy of a LayerNorm with what was refitted; the LayerNorm itself stays as it is."""
        refitted: Any = copy.deepcopy(norm)
        with torch.no_grad():
            for parameter, values in ((refitted.weight, self.norm_weight), (refitted.bias, self.norm_bias)):
                if values is not None:
                    parameter.copy_(values)
        return refitted  # type: ignore[no-any-return]
