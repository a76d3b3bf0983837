"""Sums over tokens in float64: all that least squares needs of any number of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over tokens of inputs and targets.

    Attributes:
        gram: ``(inputs + 1, inputs + 1)``, of the inputs with a one appended.
        cross: ``(inputs + 1, outputs)``, of those with the targets.
        square: ``(outputs,)``, of the squared targets.
        count: The number of tokens, ``()``.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor
    count: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> Moments:
        """Sum over tokens: ``(tokens, inputs)``, ``(tokens, outputs)`` and ``(tokens,)``."""
        inputs, targets, weights = in_double(inputs), in_double(targets), in_double(weights).unsqueeze(1)
        with_one = torch.cat((inputs, torch.ones_like(weights)), dim=1)
        count = torch.tensor(float(len(inputs)), dtype=torch.float64, device=inputs.device)
        weighted = weights * targets
        return cls(with_one.T @ (weights * with_one), with_one.T @ weighted, (weighted * targets).sum(0), count)

    @classmethod
    def zeros(cls, inputs: int, outputs: int, device: torch.device) -> Moments:
        """Begin with no token."""
        shapes = ((inputs + 1, inputs + 1), (inputs + 1, outputs), (outputs,), ())
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=sums_device(device)) for shape in shapes))

    def __add__(self, other: Moments) -> Moments:
        """Sum over the tokens of both."""
        return Moments(*(a + b for a, b in zip(self.tensors, other.tensors, strict=True)))

    def __sub__(self, other: Moments) -> Moments:
        """Leave out tokens that were summed."""
        return Moments(*(a - b for a, b in zip(self.tensors, other.tensors, strict=True)))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All sums, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def mean_input(self) -> torch.Tensor:
        """The weighted mean of the inputs, ``(inputs,)``."""
        return self.gram[-1, :-1] / self.gram[-1, -1]

    @property
    def mean_target(self) -> torch.Tensor:
        """The weighted mean of the targets, ``(outputs,)``."""
        return self.cross[-1] / self.gram[-1, -1]

    def centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sums about the means: ``(inputs, inputs)``, ``(inputs, outputs)`` and ``(outputs,)``."""
        weight, x, y = self.gram[-1, -1], self.mean_input, self.mean_target
        gram = self.gram[:-1, :-1] - weight * torch.outer(x, x)
        return gram, self.cross[:-1] - weight * torch.outer(x, y), (self.square - weight * y * y).clamp_min(0)


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """The same, channel by channel: ``(5, channels)`` sums of 1, z, y, zz and zy."""

    sums: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> ChannelMoments:
        """Sum over tokens: ``(tokens, channels)`` twice, and ``(tokens,)``."""
        z, y, w = in_double(inputs), in_double(targets), in_double(weights).unsqueeze(1)
        return cls(torch.stack([(w * item).sum(0) for item in (torch.ones_like(z), z, y, z * z, z * y)]))

    @classmethod
    def zeros(cls, channels: int, device: torch.device) -> ChannelMoments:
        """Begin with no token."""
        return cls(torch.zeros(5, channels, dtype=torch.float64, device=sums_device(device)))

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        """Sum over the tokens of both."""
        return ChannelMoments(self.sums + other.sums)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All sums."""
        return (self.sums,)

    def scale_and_bias(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit ``y = scale * z + bias`` in each channel; where z is constant the scale is 0."""
        weight, z, y, zz, zy = self.sums
        z, y = z / weight, y / weight
        spread = (zz / weight - z * z).clamp_min(0)
        scale = torch.where(spread > 1e-12 * (1 + z * z), (zy / weight - z * y) / spread.clamp_min(1e-300), 0.0)
        return scale, y - scale * z


Sums = TypeVar("Sums", Moments, ChannelMoments)


def summed_over_processes(sums: Sequence[Sums], accelerator: Accelerator) -> list[Sums]:
    """Add up the sums of all processes, and bring them to the CPU."""
    found = []
    for one in sums:
        tensors = one.tensors
        if accelerator.num_processes > 1:
            tensors = tuple(accelerator.reduce(tensor.clone(), "sum") for tensor in tensors)
        found.append(type(one)(*(tensor.cpu() for tensor in tensors)))
    return found


def sums_device(device: torch.device) -> torch.device:
    """Say where to sum: where the activations are, but for Apple's devices, which have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, where it is to be summed."""
    return tensor.to(sums_device(tensor.device)).double()
