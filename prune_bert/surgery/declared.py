"""Where a model's own code says that attention weights are returned.

Either transformers says so, in the table of classes from which it captures them (``_can_record_outputs``), or the
``return`` statements of a module's ``forward`` name them.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import nn

from prune_bert.surgery.probe import Call

_NAMES = re.compile(r"(self_)?(attn|attention)_(\w+_)?(weights|probs)")

Declared = Mapping[type, int]
"""Classes of modules that return attention weights, each with their place in its output."""


def declared_attention(model: nn.Module) -> dict[type, int]:
    """Return the classes in a model of which it is declared that they return attention weights."""
    classes: set[type] = {type(module) for module in model.modules()}
    named = {cls: _named_place(cls) for cls in classes}
    recorded = {cls: index for key, cls, index in _recorded_outputs(model) if key.endswith("attentions")}
    return {cls: index for cls, index in named.items() if index is not None} | recorded


def captured_attention(model: nn.Module) -> tuple[type, ...]:
    """Return the classes on which transformers 5 hangs the hooks that capture self-attention weights."""
    return tuple(dict.fromkeys(cls for key, cls, _ in _recorded_outputs(model) if key == "attentions"))


def declared_weights(
    modules: Mapping[str, nn.Module], calls: Mapping[str, Call], declared: Declared
) -> list[torch.Tensor]:
    """Return the attention weights that modules of declared classes returned in one forward.

    Args:
        modules: The modules that were watched, by path.
        calls: Their calls.
        declared: What `declared_attention` found.
    """
    weights = []
    for path, call in calls.items():
        index = _place_in(type(modules[path]), declared)
        length = len(call.output) if isinstance(call.output, (tuple, list)) else 0
        if index is not None and -length <= index < length:
            weights.append(call.output[index])
    return [item for item in weights if isinstance(item, torch.Tensor)]


def _place_in(cls: type, declared: Declared) -> int | None:
    return next((declared[base] for base in cls.__mro__ if base in declared), None)


def _recorded_outputs(model: nn.Module) -> Iterator[tuple[str, type, int]]:
    for module in model.modules():
        for key, specs in (getattr(type(module), "_can_record_outputs", None) or {}).items():
            for spec in specs if isinstance(specs, (list, tuple)) else (specs,):
                cls = getattr(spec, "target_class", spec)
                index = 1 if spec is cls else getattr(spec, "index", None)
                if isinstance(cls, type) and isinstance(index, int):
                    yield key, cls, index


@lru_cache(maxsize=1024)
def _named_place(cls: Hashable) -> int | None:
    """Read in a class's ``forward`` which item of the tuple that it returns is named as attention weights.

    None if there is no source, no such name, or not the same place in every ``return`` of a tuple.
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(cls.forward)))  # type: ignore[attr-defined]
        tree = ast.parse(source)
    except (AttributeError, OSError, TypeError, SyntaxError):
        return None
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    places = {_weights_among(value.elts) for value in returned if isinstance(value, ast.Tuple)}
    return places.pop() if len(places) == 1 else None


def _weights_among(items: list[ast.expr]) -> int | None:
    if any(isinstance(item, ast.Starred) for item in items):
        return None
    places = [place for place, item in enumerate(items) if isinstance(item, ast.Name) and _NAMES.fullmatch(item.id)]
    return places[0] if len(places) == 1 else None
