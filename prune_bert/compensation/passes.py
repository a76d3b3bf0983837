"""One pass over the calibration slice: the tokens at one site, batch after batch, the processes sharing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from prune_bert.compensation.ports import Batch, Port, Target, entering, entering_all, target_at, targets_at
from prune_bert.evaluation import EncodedTask, length_sorted_batches
from prune_bert.evaluation.inference import attention_mask, predict_logits
from prune_bert.surgery import Bypass


@dataclass(frozen=True, eq=False)
class Slice:
    """The calibration slice and how it is run.

    Attributes:
        encoded: The examples.
        accelerator: Device, precision and processes.
        batch_size: Examples in a batch of each process.
        folds: Parts for cross-validation; an example belongs to the part of its place in the slice.
    """

    encoded: EncodedTask
    accelerator: Accelerator
    batch_size: int
    folds: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a batch at a site, without padding.

    Attributes:
        inputs: What reaches the site in the pruned model, ``(tokens, hidden)``.
        before: What the unpruned model has there before the LayerNorm that stays, likewise.
        after: And after it.
        weights: What each counts for, ``(tokens,)``.
        folds: The part of the slice that each belongs to, ``(tokens,)``.
    """

    inputs: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    weights: torch.Tensor
    folds: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """The memory that they take."""
        tensors = (self.inputs, self.before, self.after, self.weights, self.folds)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Shows every token at a site to a function; the words are added to what the progress bar says.
PassOver = Callable[[Callable[[Tokens], None], str], None]


# What a token counts for that nothing reads: enough to hold a fit to few examples in place, too little to move it.
_OTHERS = 1e-3
_KEPT_BYTES = 256 * 2**20


class SitePasses:
    """Passes over the slice at one site; a slice that is small there is run once and remembered.

    Args:
        model: The unpruned model.
        examples: The slice.
        port: The site.
        earlier: The bypass of all sites before it, with what was fitted for them.
        description: What the progress bar says.
    """

    def __init__(self, model: nn.Module, examples: Slice, port: Port, earlier: Bypass, description: str) -> None:
        self._run = (model, examples, port, earlier)
        self._description = description
        self._kept: list[Tokens] = []
        self._whole: bool | None = None  # not known before the first pass

    def __call__(self, collect: Callable[[Tokens], None], words: str) -> None:
        """Show every token of this process's share; the words are added to what the progress bar says."""
        if self._whole:
            with torch.inference_mode(), self._run[1].accelerator.autocast():
                for tokens in self._kept:
                    collect(tokens)
            return
        room = _KEPT_BYTES

        def keep_and_collect(tokens: Tokens) -> None:
            nonlocal room
            room -= tokens.num_bytes
            if self._whole is None and room >= 0:
                self._kept.append(tokens)
            collect(tokens)

        go_over(*self._run, keep_and_collect, f"{self._description}{words}")
        self._whole = self._whole is None and room >= 0
        if not self._whole:
            self._kept.clear()


def go_over(
    model: nn.Module,
    examples: Slice,
    port: Port,
    earlier: Bypass,
    collect: Callable[[Tokens], None],
    description: str,
) -> None:
    """Show every token of this process's share of the slice at a site.

    Args:
        model: The unpruned model.
        examples: The slice.
        port: The site.
        earlier: The bypass of all sites before it, with what was fitted for them.
        collect: Is given the tokens of each batch.
        description: What the progress bar says.
    """

    def tokens(batch: Batch, places: NDArray[np.int64]) -> None:
        with earlier:
            inputs = entering(model, port, batch)
        target = target_at(model, port, batch)
        collect(tokens_of(batch, [port], [inputs], [target], examples, places)[0])

    _go_over(model, examples, tokens, description)


def go_over_all(
    model: nn.Module,
    examples: Slice,
    ports: Mapping[Port, str],
    base: Bypass,
    collect: Callable[[Sequence[Tokens]], None],
    description: str,
) -> None:
    """Show every token of this process's share of the slice at many sites, with one forward of each model a batch.

    Args:
        model: The unpruned model.
        examples: The slice.
        ports: The sites, each with its entry's path in the model.
        base: The bypass under which their inputs are taken.
        collect: Is given the tokens of each batch, one of each site.
        description: What the progress bar says.
    """

    def tokens(batch: Batch, places: NDArray[np.int64]) -> None:
        with base:
            inputs = entering_all(model, ports, batch)
        targets = targets_at(model, list(ports), batch)
        collect(tokens_of(batch, list(ports), inputs, targets, examples, places))

    _go_over(model, examples, tokens, description)


def _go_over(
    model: nn.Module, examples: Slice, run: Callable[[Batch, NDArray[np.int64]], None], description: str
) -> None:
    """Run every batch of this process's share, with the places of its examples in the slice."""
    accelerator = examples.accelerator
    batches = length_sorted_batches(examples.encoded, examples.batch_size)
    places = iter(batches[accelerator.process_index :: accelerator.num_processes])

    def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mine = next(places)
        run(batch, mine)
        return torch.zeros(len(mine), 1)

    predict_logits(model, examples.encoded, accelerator, examples.batch_size, description, forward)


def tokens_of(
    batch: Batch,
    ports: Sequence[Port],
    inputs: Sequence[torch.Tensor],
    targets: Sequence[Target],
    examples: Slice,
    places: NDArray[np.int64],
) -> list[Tokens]:
    """Take the tokens of a batch from what each site has of it; the places are those of its examples in the slice."""
    mask = attention_mask(batch).bool()
    folds = torch.as_tensor(np.remainder(places, examples.folds)).unsqueeze(1).expand(mask.shape)
    here, device = mask.cpu(), inputs[0].device
    part, even = folds[here].to(device), torch.ones_like(here, dtype=torch.float32)
    first = torch.full_like(even, _OTHERS)
    first[torch.arange(len(here)), here.int().argmax(1)] = 1.0
    weights = [(first if port.first_alone else even)[here].to(device) for port in ports]
    return [
        Tokens(entered[mask], target.before[mask], target.after[mask], weight, part)
        for entered, target, weight in zip(inputs, targets, weights, strict=True)
    ]
