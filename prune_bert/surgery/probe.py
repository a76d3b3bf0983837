"""One small forward that shows how each module is called and what it returns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_bert.errors import UserError
from prune_bert.profiling import eval_mode
from prune_bert.stand_ins import ATTENTIONS_FLAG, cached_tokens, forward_parameters, index_of, is_cache
from prune_bert.surgery.probe_inputs import probe_inputs
from prune_bert.surgery.snapshot import left_unchanged, random_state_kept


class SurgeryError(UserError, ValueError):
    """A replacement that cannot be made, or would not run."""


@dataclass(frozen=True)
class Call:
    """One call of a module, as the probe saw it.

    Attributes:
        args: The positional arguments.
        kwargs: The keyword arguments.
        output: What it returned.
        counts: Whether a cache that it was given counted its tokens; None if it was given none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    counts: bool | None = None


@dataclass(frozen=True)
class Observation:
    """What the probe saw of one module.

    Attributes:
        plain: Its call in an ordinary forward.
        with_attentions: Its call where attention weights were asked for with a flag, or None if no module takes one.
    """

    plain: Call
    with_attentions: Call | None = None


Inputs = Mapping[str, Any] | Sequence[Any]

# What the code of a family raises where it cannot make sense of its inputs.
_FAULTS = (AssertionError, AttributeError, ImportError, LookupError, NameError, RuntimeError, TypeError, ValueError)


def base_model_inputs(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Return the base model of a transformers model (all layers live in it) and small inputs for it.

    Raises:
        SurgeryError: If the model offers no dummy inputs, and its config does not say what shape its inputs have.
    """
    inputs = probe_inputs(model)
    if inputs is None:
        raise SurgeryError(
            f"{type(model).__name__} offers no dummy inputs to learn its layers' return forms from, and the shape of "
            "its inputs is not known"
        )
    return getattr(model, "base_model", model), dict(inputs)


def observe(
    model: nn.Module, modules: Mapping[str, nn.Module], optional: Collection[str] = ()
) -> dict[str, Observation]:
    """Run a transformers model's encoder on dummy inputs and watch some of its modules.

    The model is left bit-equal.

    Args:
        model: A model of transformers.
        modules: The modules to watch, by path.
        optional: The paths of those that need not run; such a one is left out of the result.

    Raises:
        SurgeryError: If another module never runs.
    """
    base, inputs = base_model_inputs(model)
    # A config can ask for attention weights always; an ordinary call is one that does not.
    usual = {ATTENTIONS_FLAG: False} if getattr(base.config, ATTENTIONS_FLAG, False) else {}
    plain = _watch(base, modules, {**inputs, **usual}, optional)
    flagged = any(ATTENTIONS_FLAG in forward_parameters(module) for module in modules.values())
    attentive = _watch(base, modules, {**inputs, ATTENTIONS_FLAG: True}, optional) if flagged else {}
    return {path: Observation(call, attentive.get(path)) for path, call in plain.items()}


def observe_calls(
    model: nn.Module, modules: Mapping[str, nn.Module], inputs: Inputs, optional: Collection[str] = ()
) -> dict[str, Call]:
    """Run any network on the given inputs and watch some of its modules; the network is left bit-equal.

    Raises:
        SurgeryError: If a module that is not optional never runs.
    """
    return _watch(model, modules, inputs, optional)


def _watch(
    model: nn.Module, modules: Mapping[str, nn.Module], inputs: Inputs, optional: Collection[str]
) -> dict[str, Call]:
    before: dict[str, list[int | None]] = {}
    calls: dict[str, Call] = {}

    def enter(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            before.setdefault(path, _cached(module, args, kwargs))

        return hook

    def leave(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            counts = _cached(module, args, kwargs) != before[path] if before[path] else None
            calls.setdefault(path, Call(args, kwargs, output, counts))

        return hook

    with probing(model):
        for path, module in modules.items():
            module.register_forward_pre_hook(enter(path), with_kwargs=True)
            module.register_forward_hook(leave(path), with_kwargs=True)
        with own_faults_told(model):
            if isinstance(inputs, Mapping):
                model(**inputs)
            else:
                model(*inputs)
    missing = [path for path in modules if path not in calls and path not in optional]
    if missing:
        raise SurgeryError(f"{missing[0]!r} did not run in the probing forward, so its return form is not known")
    return calls


def _cached(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int | None]:
    """Count the tokens in a module's entry of each cache that it is given."""
    index = next((found for inner in module.modules() if (found := index_of(inner)) is not None), None)
    return [cached_tokens(cache, index) for cache in (*args, *kwargs.values()) if is_cache(cache)]


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Run a block in which a model may be run and hooked: in evaluation mode, without gradients, quietly.

    On leaving, the model is bit-equal, hooks and config included, and so is the state of the random number generators.
    """
    with random_state_kept(model), left_unchanged(model), evaluation_mode(model), quiet_transformers():
        yield


@contextmanager
def own_faults_told(model: nn.Module) -> Iterator[None]:
    """Turn what a model's own forward raises on inputs that do not suit it into a SurgeryError.

    Out of memory stays as it is, and so does whatever else says nothing of the inputs.

    Raises:
        SurgeryError: It names the family and the cause.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except _FAULTS as error:
        family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        cause = " ".join(str(error).split())[:160]
        raise SurgeryError(
            f"{family!r} fails in its own forward on probing inputs ({type(error).__name__}: {cause}), so its layers "
            "cannot be replaced here"
        ) from error


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode without gradients, and each back into its own mode afterwards."""
    with eval_mode(model), torch.no_grad():
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep back what transformers says of flags that only a probe sets, and of fresh weights that were asked for."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
