"""Losses for every example of a batch: what the training loop is given to minimise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

Batch = Mapping[str, torch.Tensor]

# Takes the model (as prepared by accelerate) and a batch with "labels", and returns one loss an example,
# ``(batch,)``: the loop takes the mean over all examples of a step, on all processes.
LossFunction = Callable[[nn.Module, Batch], torch.Tensor]


def classification_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of every example, ``(batch,)``."""
    return F.cross_entropy(_logits(model, batch).float(), batch["labels"], reduction="none")


def regression_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the squared error of every example, ``(batch,)``."""
    return F.mse_loss(_logits(model, batch).float().squeeze(-1), batch["labels"].float(), reduction="none")


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Run the model on everything but the labels; returns ``(batch, num_labels)``."""
    logits: torch.Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits
