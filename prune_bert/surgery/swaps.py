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
    stand_in_for,
)
from prune_bert.surgery.declared import captured_attention, declared_attention, declared_weights
from prune_bert.surgery.forms import learn_forms
from prune_bert.surgery.guard import guard_saving
from prune_bert.surgery.probe import Call, Observation, SurgeryError, observe
from prune_bert.surgery.snapshot import all_or_nothing


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
    stand_in: Identity


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
    seen = _Seen(model, {place.path: place.module for place in places})
    found = corrections or {}
    return [Swap(place.path, place.module, _stand_in(place, seen, found.get(place.site))) for place in places]


def install_stand_ins(model: nn.Module, plan: PruningPlan, corrections: Corrections | None = None) -> list[Swap]:
    """Put the stand-ins of a plan in place, with no way back but the swaps returned.

    If anything fails, the model is as it was.

    Raises:
        SurgeryError: If a site is not there, is pruned already, or cannot be imitated.
    """
    swaps = swaps_for(model, plan, corrections)
    with all_or_nothing(model):
        for swap in swaps:
            put(model, swap.path, swap.stand_in)
    return swaps


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Set the module at a path that exists; a misspelt path is an error, never a new attribute."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if name not in parent._modules:
        raise SurgeryError(f"there is no module at {path!r}")
    if isinstance(module, Identity):
        guard_saving()
    parent._modules[name] = module


def hidden_argument(module: nn.Module, call: Call) -> Argument:
    """Return which argument of a module is the one that an identity returns.

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


class _Seen:
    """What a probe saw of some modules, and of the attention modules inside them.

    Attributes:
        calls: The calls of each, by path.
        weights: The attention weights that declared modules returned.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        declared, self._captured = declared_attention(model), captured_attention(model)
        inner = {f"{path}.{name}": one for path, m in modules.items() for name, one in _inside(m, tuple(declared))}
        watched = {**inner, **modules}
        # A cross-attention has nothing to attend to in a probe, and so does not run.
        optional = {path for path, one in inner.items() if path not in modules and not isinstance(one, self._captured)}
        self.calls = observe(model, watched, optional)
        self.weights = []
        for calls in (
            {path: seen.plain for path, seen in self.calls.items()},
            {path: seen.with_attentions for path, seen in self.calls.items() if seen.with_attentions is not None},
        ):
            self.weights += declared_weights(watched, calls, declared)

    def captured_inside(self, path: str, module: nn.Module) -> list[tuple[str, nn.Module, Observation]]:
        """Return the modules inside one that transformers captures attention weights from, with their calls."""
        inside = [(f"{path}.{name}", inner) for name, inner in _inside(module, self._captured)]
        return [(name, inner, self.calls[name]) for name, inner in inside]


def _stand_in(place: _Place, seen: _Seen, fitted: FittedSite | None) -> Identity:
    observation = seen.calls[place.path]
    argument = hidden_argument(place.module, observation.plain)
    owner = f"{place.site} ({type(place.module).__name__} at {place.path})"
    if place.part.skipping == "ignored":
        return stand_in_for(place.module, argument, ReturnForm())
    stand_in = stand_in_for(
        place.module,
        argument,
        *learn_forms(owner, place.module, argument, observation, seen.weights),
        value="zero" if place.part.skipping == "zero" else "identity",
        norm_path=place.part.norm_path,
        recorders=_recorders(place, seen),
        fitted=fitted if place.carries else None,
    )
    for name in place.part.read_outside:  # seen there, and no part of the model: its weights are not the stand-in's
        vars(stand_in)[name] = place.module.get_submodule(name)
    return stand_in


def _recorders(place: _Place, seen: _Seen) -> Sequence[nn.Module]:
    """Make stand-ins for removed attention modules, on whose class transformers hangs its capture hooks.

    They share the hooks of the originals, so that hooks installed while these are out reach them, too.
    """
    recorders = []
    for name, module, observation in seen.captured_inside(place.path, place.module):
        argument = hidden_argument(module, observation.plain)
        form, _ = learn_forms(name, module, argument, observation, seen.weights)
        recorders.append(stand_in_for(module, argument, form, counts=False))
    return recorders


def _inside(module: nn.Module, classes: tuple[type, ...]) -> list[tuple[str, nn.Module]]:
    named: list[tuple[str, nn.Module]] = [item for item in module.named_modules() if item[0]]
    return [(name, inner) for name, inner in named if isinstance(inner, classes)]
