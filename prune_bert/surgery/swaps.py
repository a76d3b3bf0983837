"""From a plan to pairs of a module and the stand-in for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_bert.architectures import Encoder, Part, find_encoder
from prune_bert.corrections import FittedSite
from prune_bert.plan import PruningPlan, Site
from prune_bert.stand_ins import (
    RESIDUAL_ARGUMENT,
    Argument,
    Identity,
    ReturnForm,
    forward_parameters,
    learn_form,
    stand_in_for,
)
from prune_bert.surgery.probe import Call, Observation, SurgeryError, observe


@dataclass(frozen=True)
class Swap:
    """One module and its stand-in.

    Attributes:
        path: The module's dotted path in the model.
        original: The module.
        stand_in: What takes its place.
    """

    path: str
    original: nn.Module
    stand_in: nn.Module


@dataclass(frozen=True)
class _Place:
    path: str
    part: Part
    site: Site
    module: nn.Module
    carries: bool  # the correction, where there is one: the first part of a site that is not ignored


Corrections = Mapping[Site, FittedSite]


def swaps_for(model: nn.Module, plan: PruningPlan, corrections: Corrections | None = None) -> list[Swap]:
    """Build the stand-ins of a plan, in forward order; nothing is put in place yet.

    Args:
        model: A model of transformers.
        plan: Its sites.
        corrections: What was fitted for sites of the plan; the others get plain stand-ins.

    Raises:
        SurgeryError: If a site is not there, is pruned already, or cannot be imitated.
        ArchitectureError: If the model's layers cannot be found.
    """
    if not plan:
        return []
    encoder = find_encoder(model)
    places = [place for site in plan for place in _places(model, encoder, site, plan)]
    recorded = _recorded_attention_classes(model)
    watched = {place.path: place.module for place in places}
    for place in places:
        watched |= {f"{place.path}.{name}": module for name, module in _inside(place.module, recorded)}
    seen = observe(model, watched)
    found = corrections or {}
    return [Swap(place.path, place.module, _stand_in(place, seen, recorded, found.get(place.site))) for place in places]


def install_stand_ins(model: nn.Module, plan: PruningPlan, corrections: Corrections | None = None) -> list[Swap]:
    """Put the stand-ins of a plan in place, with no way back but the swaps returned.

    Raises:
        SurgeryError: If a site is not there, is pruned already, or cannot be imitated.
    """
    swaps = swaps_for(model, plan, corrections)
    for swap in swaps:
        put(model, swap.path, swap.stand_in)
    return swaps


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Set the module at a path that exists; a misspelt path is an error, never a new attribute."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if name not in parent._modules:
        raise SurgeryError(f"there is no module at {path!r}")
    parent._modules[name] = module


def hidden_argument(module: nn.Module, call: Call) -> Argument:
    """Tell which argument of a module is the one that an identity returns.

    That is the residual where the module adds it itself (BERT's ``output`` takes two arguments), and the first
    tensor otherwise.
    """
    names = forward_parameters(module)
    if RESIDUAL_ARGUMENT in names:
        return Argument(names.index(RESIDUAL_ARGUMENT), RESIDUAL_ARGUMENT)
    if call.args or not call.kwargs:
        return Argument(0, names[0] if names else "input")
    name = next(name for name in call.kwargs if name in names)
    return Argument(names.index(name), name)


def hidden_entering(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Take the hidden states from a call of a module, or of the stand-in that has its place by now."""
    if isinstance(module, Identity):
        argument = module.identity_argument
    else:
        argument = hidden_argument(module, Call(args, kwargs, None))
    hidden: torch.Tensor = argument.pick(args, kwargs)
    return hidden


def hidden_of(output: Any) -> torch.Tensor:
    """Take the hidden states from what a module returns: the tensor, or the first one of a tuple or a mapping."""
    if isinstance(output, torch.Tensor):
        return output
    items = output.values() if isinstance(output, Mapping) else output
    return next(item for item in items if isinstance(item, torch.Tensor))


def _places(model: nn.Module, encoder: Encoder, site: Site, plan: PruningPlan) -> Iterator[_Place]:
    depth = len(encoder.layers)
    if site.layer >= depth:
        raise SurgeryError(f"{site}: {encoder.model_type} here has {depth} layers, numbered 0 to {depth - 1}")
    layer_path = f"{encoder.path}.{site.layer}"
    parts = encoder.parts(site.component, plan.norm)
    if isinstance(encoder.layers[site.layer], Identity):
        raise SurgeryError(f"{site}: layer {site.layer} is bypassed already")
    carrier = next(part for part in parts if part.skipping != "ignored")
    for part in parts:
        path = f"{layer_path}.{part.path}" if part.path else layer_path
        module = model.get_submodule(path)
        if isinstance(module, Identity):
            raise SurgeryError(f"{site}: it is pruned already ({path} is a stand-in)")
        yield _Place(path, part, site, module, part is carrier)


def _stand_in(
    place: _Place, seen: dict[str, Observation], recorded: tuple[type, ...], fitted: FittedSite | None
) -> Identity:
    observation = seen[place.path]
    argument = hidden_argument(place.module, observation.plain)
    owner = f"{place.site} ({type(place.module).__name__} at {place.path})"
    if place.part.skipping == "ignored":
        return stand_in_for(place.module, argument, ReturnForm())
    form = _form(owner, argument, observation.plain)
    attentive = observation.with_attentions
    stand_in = stand_in_for(
        place.module,
        argument,
        form,
        _form(owner, argument, attentive) if attentive is not None else None,
        value="zero" if place.part.skipping == "zero" else "identity",
        norm_path=place.part.norm_path,
        recorders=_recorders(place, seen, recorded),
        fitted=fitted if place.carries else None,
    )
    for name in place.part.read_outside:  # seen there, and no part of the model: its weights are not the stand-in's
        vars(stand_in)[name] = place.module.get_submodule(name)
    return stand_in


def _form(owner: str, argument: Argument, call: Call) -> ReturnForm:
    hidden = argument.pick(call.args, call.kwargs)
    return learn_form(owner, call.output, hidden.shape)


def _recorders(place: _Place, seen: dict[str, Observation], recorded: tuple[type, ...]) -> Sequence[nn.Module]:
    """Make stand-ins for removed attention modules, on whose class transformers hangs its capture hooks.

    They share the hooks of the originals, so that hooks installed while these are out reach them, too.
    """
    recorders = []
    for name, module in _inside(place.module, recorded):
        call = seen[f"{place.path}.{name}"].plain
        argument = hidden_argument(module, call)
        recorders.append(stand_in_for(module, argument, _form(name, argument, call)))
    return recorders


def _inside(module: nn.Module, classes: tuple[type, ...]) -> list[tuple[str, nn.Module]]:
    named: list[tuple[str, nn.Module]] = [item for item in module.named_modules() if item[0]]
    return [(name, inner) for name, inner in named if isinstance(inner, classes)]


def _recorded_attention_classes(model: nn.Module) -> tuple[type, ...]:
    """Give the classes on which transformers 5 hangs the hooks that capture attention weights."""
    classes: list[type] = []
    for module in model.modules():
        spec = (getattr(type(module), "_can_record_outputs", None) or {}).get("attentions", ())
        for entry in spec if isinstance(spec, (list, tuple)) else (spec,):
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                classes.append(target)
    return tuple(dict.fromkeys(classes))
