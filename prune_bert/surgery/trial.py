"""Trying out a drop on a copy that shares the model's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain

from torch import nn

from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan, Site
from prune_bert.surgery.drop import drop


def undroppable_layers(model: nn.Module, layers: Iterable[int]) -> dict[int, str]:
    """Find layers that cannot be dropped, such as the one after which DeBERTa-v2 runs a convolution.

    Args:
        model: A model of transformers; it is not changed.
        layers: Which layers to try, each alone.

    Returns:
        Why not, for each layer that cannot be dropped.
    """
    found = {}
    for layer in layers:
        try:
            drop(structural_copy(model), PruningPlan((Site(layer),)))
        except UserError as error:
            found[layer] = str(error)
    return found


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules and config, but not its weights, which both have."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)
