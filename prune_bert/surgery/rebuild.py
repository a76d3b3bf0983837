"""Why a model cannot be saved without some of its layers: what is built from its config would not be its like.

``from_pretrained`` builds layer ``j`` of a checkpoint by the rules of its family, from ``j`` and the config alone. In
some families not all layers are alike: ModernBERT attends globally where ``j % global_attn_every_n_layers == 0``, and
its layer 0 has no norm before the attention. A layer that moves up to a place where another kind is built then
computes something else once it is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.plan import PruningPlan, Site
from prune_bert.stand_ins import INDEX_NAMES, Identity
from prune_bert.surgery.probe import quiet_transformers
from prune_bert.surgery.record import CONFIG_KEY, pruning_record

# Newer versions store which layers attend globally; older ones, and servers, go by the layer's number.
_DERIVED_LIST = "layer_types"
# BigBird's seed places random blocks in training alone; in evaluation every layer attends by the same rule.
_NOT_COMPARED = ("training", "gradient_checkpointing", "p", "seed", *INDEX_NAMES)

Signature = dict[str, Any]
"""What the code of a layer goes by: the class and the settings of each of its modules, the shape of each weight."""


class Rebuilding:
    """Compares a model's layers with those that transformers would build in their places, for any plan.

    Nothing is run, and nothing built but empty models, one for each depth.

    Args:
        model: A model of transformers, pruned or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._encoder = find_encoder(model)
        self._kinds: list[Signature] = []
        self._here = [self._kind(layer) for layer in self._encoder.layers]
        self._built: dict[int, list[int] | str] = {}

    def obstacle(self, plan: PruningPlan | None = None, standing: Collection[Site] = ()) -> str:
        """Say why the model cannot be saved, as it is or without a plan's layers; nothing where it can.

        Args:
            plan: What goes, in the numbering of the model as it is.
            standing: Those of its whole layers that leave a stand-in with a correction, and so keep a place.
        """
        depth, carried = len(self._here), {site.layer for site in standing if site.component == "layer"}
        gone = set() if plan is None else set(whole_layers(plan, standing).layers()) - carried
        if plan is not None and not gone:
            return ""
        remaining = [index for index in range(depth) if index not in gone]
        if not remaining:
            return ""  # another rule refuses that
        record = pruning_record(self._model.config)
        names = record.original_layer_indices if plan is None else range(depth)
        built, whole = self._build(len(remaining)), self._build(depth)
        if isinstance(built, str):
            # Where not even the model as it is can be built, nothing is known; its reload will tell.
            what = f"this {self._encoder.model_type} with {len(remaining)} layers"
            return "" if isinstance(whole, str) else f"transformers cannot build {what}: {built}"
        for place, index in enumerate(remaining):
            difference = "" if index in carried else self._difference(self._here[index], built[place])
            if difference:
                before = record.original_num_hidden_layers if plan is None else depth
                return (
                    f"layer {names[index]} of this {self._encoder.model_type} would become its layer {place}, and "
                    "transformers, of this version or another, builds another kind of layer there "
                    f"({difference}); {self._advice(before)}"
                )
        return ""

    def allowed(self, plan: PruningPlan) -> bool:
        """Return whether the model could be saved without a plan's layers."""
        return not self.obstacle(plan)

    def _kind(self, layer: nn.Module) -> int:
        """Number a layer's signature, equal ones alike."""
        signature = _signature(layer)
        if signature not in self._kinds:
            self._kinds.append(signature)
        return self._kinds.index(signature)

    def _difference(self, kind: int, other: int) -> str:
        return "" if kind == other else _difference(self._kinds[kind], self._kinds[other])

    def _build(self, depth: int) -> list[int] | str:
        """Return the kinds of the layers that transformers builds at a depth, or why it cannot."""
        if depth not in self._built:
            try:
                self._built[depth] = [self._kind(layer) for layer in _empty_layers(self._model, self._encoder, depth)]
            except Exception as error:  # whatever the code of a family raises
                self._built[depth] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return self._built[depth]

    def _advice(self, depth: int) -> str:
        """Name the shortest run of neighbours that can go together from anywhere but the end."""
        whole = self._build(depth)
        if isinstance(whole, str):
            return "remove others"
        for size in range(1, depth):
            shorter = self._build(depth - size)
            if isinstance(shorter, str):
                continue
            for start in range(depth - size):
                rest = whole[:start] + whole[start + size :]
                if not any(self._difference(one, other) for one, other in zip(rest, shorter, strict=True)):
                    if size == 1:
                        return f"layers that can go are such as layer:{start}, and the last ones"
                    run = f"layer:{start}-{start + size - 1}"
                    return f"remove layers {size} neighbours at a time, such as {run}, or the last ones"
        return "only the last layers can go"


def whole_layers(plan: PruningPlan, corrections: Collection[Site]) -> PruningPlan:
    """Turn both exact-identity sublayers of a layer into the layer: the same function, and plainly portable."""
    if plan.norm != "skip":
        return plan
    sublayers = [site for site in plan.sublayers() if site not in corrections]
    whole = {a.layer for a in sublayers for f in sublayers if a.layer == f.layer and a.component < f.component}
    kept = tuple(site for site in plan if site.layer not in whole)
    return PruningPlan(kept + tuple(Site(layer) for layer in whole), plan.norm)


def per_layer_lists(config: Any, depth: int, kept: Sequence[int]) -> dict[str, Any]:
    """Return the shortened lists of a config that hold one entry a layer, such as ``layer_types``."""
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list) and "layer" in name}
    found: dict[str, Any] = {
        name: [value[index] for index in kept] for name, value in lists.items() if len(value) == depth
    }
    if "attention_layers" in found and hasattr(config, "attention_types"):  # GPT-Neo computes the one from the other
        found["attention_types"] = [[found["attention_layers"], 1]]
    return found


def _empty_layers(model: nn.Module, encoder: Encoder, depth: int) -> nn.ModuleList:
    """Build the layers of the model's like at a depth, without weights.

    Raises:
        Exception: Whatever the family's code raises.
    """
    own: Any = model.config
    values = own.to_dict() | per_layer_lists(own, len(encoder.layers), range(min(depth, len(encoder.layers))))
    values.pop(CONFIG_KEY, None)
    for name in ("num_hidden_layers", own.attribute_map.get("num_hidden_layers")):
        if name in values:
            values[name] = depth
    derived = {name: value for name, value in values.items() if name != _DERIVED_LIST}
    config = type(own).from_dict(derived)
    if hasattr(own, _DERIVED_LIST) and not getattr(config, _DERIVED_LIST, None):
        config = type(own).from_dict(values)
    config._attn_implementation = own._attn_implementation
    with torch.device("meta"), quiet_transformers():
        layers: Any = type(model)(config).get_submodule(encoder.path)
    if len(layers) != depth:
        raise ValueError(f"{len(layers)} layers are built where config.num_hidden_layers is {depth}")
    return cast(nn.ModuleList, layers)


def _signature(layer: nn.Module) -> Signature:
    """List what the code of a layer goes by; of a stand-in inside it, only that it is one."""
    found: Signature = {}
    standing = tuple(
        f"{name}." if name else "" for name, module in layer.named_modules() if isinstance(module, Identity)
    )
    for name, module in layer.named_modules():
        if f"{name}.".startswith(standing):
            found[f"{name}:"] = Identity
            continue
        found[f"{name}:"] = type(module)
        for key, value in vars(module).items():
            if isinstance(value, (bool, int, float, str, tuple, type(None))) and _is_compared(key):
                found[f"{name}.{key}".removeprefix(".")] = value
        for key, weight in module.named_parameters(recurse=False):
            found[f"{name}.{key} (shape)".removeprefix(".")] = tuple(weight.shape)
    return found


def _is_compared(name: str) -> bool:
    return not name.startswith("_") and name not in _NOT_COMPARED and "drop" not in name


def _difference(one: Signature, other: Signature) -> str:
    """Say in what two layers differ first, stand-ins aside; nothing where they do not."""
    standing = tuple(key[:-1] for side in (one, other) for key, value in side.items() if value is Identity)
    for key in sorted({*one, *other}, key=lambda key: (key.endswith(":"), key)):
        if standing and key.startswith(standing):
            continue
        if one.get(key) != other.get(key):
            return f"{key.rstrip(':') or 'its class'}: {_shown(one, key)} against {_shown(other, key)}"
    return ""


def _shown(signature: Signature, key: str) -> str:
    if key not in signature:
        return "none"
    value = signature[key]
    return value.__name__ if isinstance(value, type) else repr(value)


def settable_depth(config: Any) -> str:
    """Say why a config's number of layers cannot be set; nothing where it can."""
    try:
        copy.deepcopy(config).num_hidden_layers = int(config.num_hidden_layers)
    except Exception as error:  # NotImplementedError by Funnel, others by what is validated on the way
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return ""
