"""``drop``: the sites of a plan removed for good."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan
from prune_bert.stand_ins import INDEX_NAMES
from prune_bert.surgery.fitted import check_corrections
from prune_bert.surgery.probe import SurgeryError, base_model_inputs, probing
from prune_bert.surgery.rebuild import per_layer_lists, settable_depth, whole_layers
from prune_bert.surgery.record import CONFIG_KEY, PruningRecord, pruning_record
from prune_bert.surgery.saving_whole import save_whole_from_now_on
from prune_bert.surgery.snapshot import all_or_nothing
from prune_bert.surgery.swaps import Corrections, install_stand_ins, put
from prune_bert.surgery.temporary import bypass, is_bypassed


def drop(model: nn.Module, plan: PruningPlan | str, corrections: Corrections | None = None) -> nn.Module:
    """Remove the sites of a plan for good: weights freed, layers renumbered, config updated.

    Removed layers are deleted; removed sublayers and compensated layers leave a stand-in. The result is checked
    against ``bypass`` on dummy inputs before the weights are let go, so that a family whose layers are not
    interchangeable is refused. The model's config remembers the plan and the original layer indices, and its
    ``save_pretrained`` writes the stand-ins, too: in the portable form, or where there is none in the compact one.
    If anything is raised, the model is as it was.

    Args:
        model: A model of transformers; it is changed in place.
        plan: What to remove, or its text, in the numbering of the model as it is now.
        corrections: What ``compensate`` fitted for the plan's sites, if it did.

    Returns:
        The same model.

    Raises:
        SurgeryError: If no layer would remain, a bypass is in place, or the result would not run or would differ from
            ``bypass``.
        ArchitectureError: If the model's layers cannot be found, or its family lacks a component.
        PlanError: If the text is not a plan.
        CompensationError: If the corrections were fitted for another model or plan.

    Examples:
        >>> drop(model, "layer:1 ffn:3").config.num_hidden_layers
        3
    """
    plan = PruningPlan.of(plan)
    if not plan:
        return model
    check_corrections(model, plan, corrections)
    found = dict(corrections or {})
    check_droppable(model, plan)
    plan = whole_layers(plan, found)
    encoder = find_encoder(model)
    record = pruning_record(model.config).extended(plan, {site: one.correction.spec for site, one in found.items()})
    with all_or_nothing(model):
        with bypass(model, plan, found):
            expected = _hidden_states(model)
        standing = PruningPlan(tuple(site for site in plan if site.component != "layer" or site in found), plan.norm)
        install_stand_ins(model, standing, found)
        _shorten_heads(model, encoder, plan - standing)
        _delete_layers(model, encoder, plan - standing, record)
        _check_equal(model, plan, encoder.model_type, expected)
        save_whole_from_now_on(model)
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
    depth, gone = len(find_encoder(model).layers), len(whole_layers(plan, {}).layers())
    if gone >= depth:
        raise SurgeryError(f"{plan} removes all {depth} layers; a model keeps at least one layer")
    obstacle = settable_depth(model.config) if gone else ""
    if obstacle:
        family = find_encoder(model).model_type
        raise SurgeryError(f"the number of layers of a {family} cannot be changed ({obstacle}): bypass them instead")
    bypass(model, plan)


def _delete_layers(model: nn.Module, encoder: Encoder, plan: PruningPlan, record: PruningRecord) -> None:
    """Delete and renumber layers, and set the config right."""
    gone = set(plan.layers())
    kept = [index for index in range(len(encoder.layers)) if index not in gone]
    layers = nn.ModuleList([encoder.layers[index] for index in kept])
    layers.training = encoder.layers.training
    put(model, encoder.path, layers)
    _renumber(layers)
    values = {"num_hidden_layers": len(kept), CONFIG_KEY: record.to_json()}
    values |= per_layer_lists(model.config, len(encoder.layers), kept)
    for name, value in values.items():
        setattr(model.config, name, value)


def _shorten_heads(model: nn.Module, encoder: Encoder, plan: PruningPlan) -> None:
    """Take the columns of removed layers out of what reads the attention of every layer, such as ESM's contact head."""
    depth, gone = len(encoder.layers), set(plan.layers())
    for path in encoder.reads_all_layers if gone else ():
        original = cast(nn.Linear, model.get_submodule(path))
        rows = original.weight.reshape(len(original.weight), depth, -1)  # (out, layers, heads)
        kept = rows[:, [index for index in range(depth) if index not in gone]].flatten(1)
        shorter = copy.copy(original)
        shorter._parameters = {**original._parameters, "weight": nn.Parameter(kept.detach().clone())}
        shorter.in_features = kept.shape[1]
        put(model, path, shorter)


def _check_equal(model: nn.Module, plan: PruningPlan, model_type: str, expected: torch.Tensor) -> None:
    """Refuse a model that, after a drop, does not run or has other hidden states, ``(batch, seq, hidden)``."""
    try:
        hidden = _hidden_states(model)
    except (UserError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of a family raises
        why = " ".join(str(error).split())[:200]
        raise SurgeryError(
            f"after dropping {plan}, this {model_type} does not run any more ({type(error).__name__}: {why}); "
            "nothing was changed"
        ) from error
    if not torch.allclose(hidden, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise SurgeryError(
            f"dropping {plan} from this {model_type} gives other hidden states than bypassing it (something "
            "outside the layer depends on its index, such as DeBERTa's convolution after layer 0); nothing was changed"
        )


def _renumber(layers: nn.ModuleList) -> None:
    """Renumber the modules that know their own index (for a key-value cache)."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in INDEX_NAMES:
                if isinstance(vars(module).get(name), int):
                    vars(module)[name] = index


def _hidden_states(model: nn.Module) -> torch.Tensor:
    base, inputs = base_model_inputs(model)
    with probing(base):
        hidden: torch.Tensor = base(**inputs)[0]
    return hidden
