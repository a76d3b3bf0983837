"""The types in which a checkpoint's tensors are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn

from prune_bert.checkpoint.sources import CheckpointError

# By the names of safetensors.
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Stored = Mapping[str, tuple[str, tuple[int, ...]]]


def stored_type(stored: Stored) -> torch.dtype:
    """Return the type of most tensors of a checkpoint, fp32 where none is a floating point number.

    The config's own word may be missing or wrong, and loading in another type would round.
    """
    counted = Counter(dtype for dtype, _ in stored.values() if dtype in _TYPES)
    return _TYPES[counted.most_common(1)[0][0]] if counted else torch.float32


def check_types(name: str, model: nn.Module, stored: Stored) -> None:
    """Refuse a parameter that is stored with less precision than the others.

    Raises:
        CheckpointError: It names the tensor.
    """
    usual = stored_type(stored)
    parameters = dict(model.named_parameters())
    for key, (said, _) in sorted(stored.items()):
        dtype = _TYPES.get(said)
        if key in parameters and (dtype is None or torch.promote_types(dtype, usual) != dtype):
            raise CheckpointError(
                f"{name!r}: {key} is stored as {said}, and most of the weights are {usual}: it was rounded after the "
                "model was saved; copy or download the checkpoint again"
            )
