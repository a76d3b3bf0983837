"""``replace_with_identity``: one module of any network, by its dotted path."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prune_bert.stand_ins import Argument, Identity, ReturnForm, stand_in_for
from prune_bert.surgery.declared import declared_attention, declared_weights
from prune_bert.surgery.forms import learn_forms
from prune_bert.surgery.probe import Call, Inputs, Observation, SurgeryError, observe_calls
from prune_bert.surgery.snapshot import all_or_nothing
from prune_bert.surgery.swaps import hidden_argument, put

# Modules of torch that return a tensor of their input's shape, whatever it is.
_SHAPE_KEEPING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Softmax,
)


def replace_with_identity(
    model: nn.Module,
    name: str,
    *,
    example_inputs: torch.Tensor | Inputs | None = None,
    argument: int | None = None,
) -> nn.Module:
    """Put an identity in the place of one module of any network, for good.

    The identity takes whatever the caller passes and returns one argument in the form that the module returned.
    To undo it, ``model.set_submodule(name, original)``.

    Args:
        model: Any network; it is changed in place.
        name: The module's dotted path, as in ``model.named_modules()``.
        example_inputs: A tensor, a tuple of arguments, or a mapping of keywords for one forward, from which the
            module's form is learnt. Models of transformers bring their own, and torch's plain layers need none.
        argument: Which positional argument to return; by default the residual (``input_tensor``) where there is
            one, and otherwise the first.

    Returns:
        The module that was replaced.

    Raises:
        SurgeryError: If there is no such module, its form is not known, or its input and output shapes differ.

    Examples:
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        >>> linear = replace_with_identity(network, "0", example_inputs=torch.ones(1, 4))
    """
    original = _find(model, name)
    if example_inputs is None and not hasattr(model, "dummy_inputs"):
        stand_in = _from_declaration(original, name, argument)
    else:
        stand_in = _from_a_forward(model, original, name, example_inputs, argument)
    with all_or_nothing(model):
        put(model, name, stand_in)
    return original


def _find(model: nn.Module, name: str) -> nn.Module:
    names = [path for path, _ in model.named_modules() if path]
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        guess = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise SurgeryError(f"{type(model).__name__} has no module {name!r}{guess}")
    return model.get_submodule(name)


def _from_a_forward(
    model: nn.Module, original: nn.Module, name: str, example_inputs: Any, argument: int | None
) -> Identity:
    inputs = _dummy_inputs(model) if example_inputs is None else example_inputs
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    declared = declared_attention(model)
    inside = {f"{name}.{path}": inner for path, inner in original.named_modules() if path}
    inside = {path: inner for path, inner in inside.items() if isinstance(inner, tuple(declared))}
    watched = {**inside, name: original}
    calls = observe_calls(model, watched, inputs, optional=set(inside))
    call = calls[name]
    chosen = _chosen(original, Observation(call), argument)
    hidden = chosen.pick(call.args, call.kwargs)
    owner = f"{name!r} ({type(original).__name__})"
    if not isinstance(hidden, torch.Tensor):
        raise SurgeryError(f"{owner}: argument {chosen.position} ({chosen.name}) is no tensor; choose with argument=N")
    weights = declared_weights(watched, calls, declared)
    form, _ = learn_forms(owner, original, chosen, Observation(call), weights)
    return stand_in_for(original, chosen, form, counts=call.counts is not False)


def _chosen(original: nn.Module, observation: Observation, argument: int | None) -> Argument:
    call: Call = observation.plain
    usual = hidden_argument(original, call)
    if argument is None or argument == usual.position:
        return usual
    names = list(call.kwargs)
    position = argument - len(call.args)
    return Argument(argument, names[position] if 0 <= position < len(names) else f"argument {argument}")


def _from_declaration(original: nn.Module, name: str, argument: int | None) -> Identity:
    """Trust what torch's own layers say of their widths."""
    widths = _widths(original)
    if widths is None:
        raise SurgeryError(
            f"what {name!r} ({type(original).__name__}) returns is not known without running it: pass example_inputs"
        )
    width_in, width_out = widths
    if width_in != width_out:
        raise SurgeryError(
            f"{name!r} ({type(original).__name__}) takes a last dimension of {width_in} and returns one of "
            f"{width_out}: an identity cannot stand in, since what follows expects (*, {width_out}) and would get "
            f"(*, {width_in})"
        )
    return stand_in_for(original, Argument(argument or 0, "input"), ReturnForm())


def _widths(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, _SHAPE_KEEPING):
        return 0, 0
    if isinstance(module, nn.Sequential) and len(module):
        inner = [_widths(child) for child in module]
        known = [widths for widths in inner if widths and widths != (0, 0)]
        if None in inner:
            return None
        return (known[0][0], known[-1][1]) if known else (0, 0)
    return None


def _dummy_inputs(model: nn.Module) -> Mapping[str, Any]:
    dummies: Mapping[str, Any] = model.dummy_inputs  # type: ignore[assignment]
    device = next(model.parameters()).device
    return {key: torch.as_tensor(value).to(device) for key, value in dummies.items()}
