"""The return forms of modules, learnt from probing calls: what each item of an output is.

An item's role is known by where it comes from, never by its shape alone. The hidden states come first, behind nothing
but attention weights that were asked for (DistilBERT of transformers 4). Attention weights are the very tensor that a
module returns where its code declares them, or appear only when they are asked for. An item that the module was given
is passed on. Anything else is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prune_bert.stand_ins import Argument, ReturnForm, Role, flag_argument, forward_parameters
from prune_bert.surgery.probe import Call, Observation, SurgeryError


def learn_forms(
    owner: str,
    module: nn.Module,
    argument: Argument,
    observation: Observation,
    weights: Sequence[torch.Tensor] = (),
) -> tuple[ReturnForm, ReturnForm | None]:
    """Learn what a module returns in an ordinary call, and in one that asks for attention weights with a flag.

    Args:
        owner: The module's name in errors.
        module: The module.
        argument: Which argument the hidden states are.
        observation: Its calls.
        weights: Attention weights that declared modules returned in the same forwards.

    Returns:
        The two forms; the second is None where the module takes no flag.

    Raises:
        SurgeryError: If an item is nothing that an identity can return, or it is not known what it is.
    """
    plain = _form(owner, module, argument, observation.plain, weights, usual=None)
    if observation.with_attentions is None or flag_argument(module) is None:
        return plain, None
    return plain, _form(owner, module, argument, observation.with_attentions, weights, usual=plain.roles)


def _form(
    owner: str,
    module: nn.Module,
    argument: Argument,
    call: Call,
    weights: Sequence[torch.Tensor],
    usual: tuple[Role, ...] | None,
) -> ReturnForm:
    hidden: torch.Tensor = argument.pick(call.args, call.kwargs)
    output = call.output
    items: list[Any]
    keys: tuple[str, ...] = ()
    container: type | None = None
    if isinstance(output, torch.Tensor):
        items = [output]
    elif isinstance(output, Mapping):
        items, keys, container = list(output.values()), tuple(output), type(output)
    elif isinstance(output, (tuple, list)) and output:
        items, container = list(output), tuple if isinstance(output, tuple) else list
    else:
        raise SurgeryError(
            f"{owner} returns {type(output).__name__}; an identity can return a tensor, a tuple or a mapping"
        )
    first = _place_of_hidden(owner, items, hidden.shape, asked=usual is not None)
    given = _given(module, call)
    roles: list[Role] = []
    for place, item in enumerate(items):
        asked_for = usual is not None and (place < first or place >= len(usual) or usual[place] == "none")
        role = "hidden" if place == first else _role(item, given, weights, hidden.shape if asked_for else None)
        if role is None:
            raise SurgeryError(
                f"{owner} returns {_described(item)} as item {place} of its output, and it is not known what that is: "
                "it was not given to the module, and is not declared as attention weights; so an identity cannot "
                "stand in, and this site is not supported in this family"
            )
        roles.append(role)
    heads = next((item.shape[1] for item, role in zip(items, roles, strict=True) if role == "attention"), 1)
    return ReturnForm(container, tuple(roles), keys, heads)


def _place_of_hidden(owner: str, items: Sequence[Any], shape: torch.Size, *, asked: bool) -> int:
    """Return the place of the hidden states: the first, unless attention weights were asked for and precede them."""
    fitting = [place for place, item in enumerate(items) if isinstance(item, torch.Tensor) and item.shape == shape]
    if fitting and (fitting[0] == 0 or (asked and len(fitting) == 1)):
        return fitting[0]
    raise SurgeryError(
        f"{owner} returns {_described(items[0])}, where an identity can return only the shape {tuple(shape)} of its "
        "input: it cannot stand in"
    )


def _role(
    item: Any, given: Sequence[tuple[Argument, Any]], weights: Sequence[torch.Tensor], asked_for: torch.Size | None
) -> Role | None:
    """Return what an item is; None if that is not known.

    Args:
        item: The item.
        given: The arguments of the call.
        weights: Declared attention weights of the same forward.
        asked_for: The shape of the hidden states, if the item is there only since attention weights were asked for.
    """
    if item is None:
        return "none"
    passed_on = next((argument for argument, value in given if value is item), None)
    if passed_on is not None:
        return passed_on
    if not isinstance(item, torch.Tensor) or item.dim() != 4:
        return None
    if any(item is known for known in weights):
        return "attention"
    if asked_for is not None and len(asked_for) == 3 and item.shape[2:] == (asked_for[1], asked_for[1]):
        return "attention"
    return None


def _given(module: nn.Module, call: Call) -> list[tuple[Argument, Any]]:
    """List the tensors and objects that a module was given; a flag or a number says nothing by its identity."""
    names = forward_parameters(module)
    named = [*zip(names, call.args, strict=False), *call.kwargs.items()]
    places = {name: names.index(name) if name in names else sys.maxsize for name, _ in named}
    simple = (bool, int, float, str, type(None))
    return [(Argument(places[name], name), value) for name, value in named if not isinstance(value, simple)]


def _described(item: Any) -> str:
    return f"a tensor of shape {tuple(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__
