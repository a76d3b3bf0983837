"""``drop``: the sites of a plan removed for good."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.plan import PruningPlan, Site
from prune_bert.surgery.fitted import check_corrections
from prune_bert.surgery.probe import SurgeryError, base_model_inputs, evaluation_mode
from prune_bert.surgery.record import CONFIG_KEY, PruningRecord, pruning_record
from prune_bert.surgery.swaps import Corrections, Swap, install_stand_ins, put
from prune_bert.surgery.temporary import bypass, is_bypassed


def drop(model: nn.Module, plan: PruningPlan | str, corrections: Corrections | None = None) -> nn.Module:
    """Remove the sites of a plan for good: weights freed, layers renumbered, config updated.

    Removed layers are deleted; removed sublayers and compensated layers leave a stand-in. The result is checked
    against ``bypass`` on dummy inputs before the weights are let go, so that a family whose layers are not
    interchangeable is refused. The model's config remembers the plan and the original layer indices.

    Args:
        model: A model of transformers; it is changed in place.
        plan: What to remove, or its text, in the numbering of the model as it is now.
        corrections: What ``compensate`` fitted for the plan's sites, if it did.

    Returns:
        The same model.

    Raises:
        SurgeryError: If no layer would remain, a bypass is in place, or the result would differ from ``bypass``.
        ArchitectureError: If the model's layers cannot be found, or its family lacks a component.
        PlanError: If the text is not a plan.
        CompensationError: If the corrections were fitted for another model or plan.

    Example:
        >>> drop(model, "layer:1 ffn:3").config.num_hidden_layers
        3
    """
    plan = PruningPlan.of(plan)
    if not plan:
        return model
    check_corrections(model, plan, corrections)
    found = dict(corrections or {})
    check_droppable(model, plan)
    plan = _whole_layers(plan, found)
    encoder = find_encoder(model)
    record = pruning_record(model.config).extended(plan, {site: one.correction.spec for site, one in found.items()})
    with bypass(model, plan, found):
        expected = _hidden_states(model)
    standing = PruningPlan(tuple(site for site in plan if site.component != "layer" or site in found), plan.norm)
    stand_ins = install_stand_ins(model, standing, found)
    settings = _delete_layers(model, encoder, plan - standing, record)
    hidden = _hidden_states(model)
    if not torch.allclose(hidden, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        _undo(model, encoder, stand_ins, settings)
        raise SurgeryError(
            f"dropping {plan} from this {encoder.model_type} gives other hidden states than bypassing it (something "
            "outside the layer depends on its index, such as DeBERTa's convolution after layer 0); nothing was changed"
        )
    return model


def check_droppable(model: nn.Module, plan: PruningPlan | str) -> None:
    """Refuse a plan that ``drop`` would refuse, without changing the model; this runs one small forward.

    Raises:
        SurgeryError: If no layer would remain, a bypass is in place, or a site cannot be replaced.
        ArchitectureError: If the model's layers cannot be found, or its family lacks a component.
    """
    plan = PruningPlan.of(plan)
    if is_bypassed(model):
        raise SurgeryError("the model is bypassed at the moment; leave the `with bypass(...)` block before drop")
    depth, gone = len(find_encoder(model).layers), len(_whole_layers(plan, {}).layers())
    if gone >= depth:
        raise SurgeryError(f"{plan} removes all {depth} layers; a model keeps at least one layer")
    bypass(model, plan)


def _whole_layers(plan: PruningPlan, corrections: Corrections) -> PruningPlan:
    """Turn both exact-identity sublayers of a layer into the layer: the same function, and plainly portable."""
    if plan.norm != "skip":
        return plan
    sublayers = [site for site in plan.sublayers() if site not in corrections]
    whole = {a.layer for a in sublayers for f in sublayers if a.layer == f.layer and a.component < f.component}
    kept = tuple(site for site in plan if site.layer not in whole)
    return PruningPlan(kept + tuple(Site(layer) for layer in whole), plan.norm)


def _delete_layers(model: nn.Module, encoder: Encoder, plan: PruningPlan, record: PruningRecord) -> dict[str, Any]:
    """Delete and renumber layers; give the config values that were overwritten."""
    gone = set(plan.layers())
    kept = [index for index in range(len(encoder.layers)) if index not in gone]
    layers = nn.ModuleList([encoder.layers[index] for index in kept])
    layers.training = encoder.layers.training
    put(model, encoder.path, layers)
    _renumber(layers)
    values = {"num_hidden_layers": len(kept), CONFIG_KEY: record.to_json()}
    values |= _per_layer_lists(model.config, len(encoder.layers), kept)
    return _set_config(model.config, values)


def _undo(model: nn.Module, encoder: Encoder, stand_ins: list[Swap], settings: dict[str, Any]) -> None:
    put(model, encoder.path, encoder.layers)
    for swap in stand_ins:
        put(model, swap.path, swap.original)
    _renumber(encoder.layers)
    _set_config(model.config, settings)
    if settings[CONFIG_KEY] is None:
        delattr(model.config, CONFIG_KEY)


def _renumber(layers: nn.ModuleList) -> None:
    """Tell the modules that know their own index (for a key-value cache) their new one."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                vars(module)["layer_idx"] = index


def _per_layer_lists(config: Any, depth: int, kept: list[int]) -> dict[str, list[Any]]:
    """Give the shortened lists of a config that hold one entry a layer, such as ``layer_types``."""
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list) and "layer" in name}
    return {name: [value[index] for index in kept] for name, value in lists.items() if len(value) == depth}


def _set_config(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    before = {name: getattr(config, name, None) for name in values}
    for name, value in values.items():
        setattr(config, name, value)
    return before


def _hidden_states(model: nn.Module) -> torch.Tensor:
    base, inputs = base_model_inputs(model)
    with evaluation_mode(base):
        hidden: torch.Tensor = base(**inputs)[0]
    return hidden
