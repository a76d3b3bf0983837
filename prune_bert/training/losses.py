"""Losses for every example of a batch: what the training loop is given to minimise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

Batch = Mapping[str, torch.Tensor]

# Takes the model (as prepared by accelerate) and a batch with "labels", and returns one loss an example,
# ``(batch,)``: the loop takes the mean over all examples of a step, on all processes. An object with settings of
# its own tells them in ``fingerprint()``, a dictionary, so that no checkpoint is continued with other ones; one that
# reads no labels has ``needs_labels`` False.
LossFunction = Callable[[nn.Module, Batch], torch.Tensor]


def classification_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of every example, ``(batch,)``."""
    return cross_entropies(_logits(model, batch), batch["labels"])


def regression_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the squared error of every example, ``(batch,)``."""
    return squared_errors(_logits(model, batch), batch["labels"])


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every example, ``(batch,)``, of logits, ``(batch, num_labels)``."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def squared_errors(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the squared error of every example, ``(batch,)``, of outputs, ``(batch, 1)``."""
    return F.mse_loss(outputs.float().squeeze(-1), labels.float(), reduction="none")


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Run the model on everything but the labels; returns ``(batch, num_labels)``."""
    logits: torch.Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits
