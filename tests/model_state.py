"""Everything that could differ between two states of one model, written down plainly for comparison."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from torch import nn


def state_of(model: nn.Module) -> dict[str, object]:
    """Describe a model: modules, attributes, hooks, flags, config, and the bits of every tensor.

    It shares no code with the package's own snapshot: objects are told by their identity, tensors by their bytes.
    """
    state: dict[str, object] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        state[f"{path} module"] = (id(module), type(module).__name__)
        for name, value in vars(module).items():
            state[f"{path} attribute {name}"] = _described(value)
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for number, config in enumerate(configs.values()):
        state[f"config {number}"] = _described(vars(config))
        if hasattr(config, "to_dict"):
            state[f"config {number} json"] = json.dumps(config.to_dict(), sort_keys=True, default=str)
    state["torch_function modes"] = torch._C._len_torch_function_stack()
    return state


def random_state():
    """Describe the random number generators of Python, NumPy and torch."""
    return repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Name what differs."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name, "-") != after.get(name, "-"))


def _described(value: object, depth: int = 0) -> object:
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return (id(value), str(value.dtype), tuple(value.shape), bytes(flat.view(torch.uint8).numpy()))
    if isinstance(value, dict):
        return [(str(name), _described(item, depth + 1)) for name, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_described(item, depth + 1) for item in value]
    if isinstance(value, nn.Module) or not isinstance(value, (str, int, float, bool, type(None))):
        return id(value)
    return value
