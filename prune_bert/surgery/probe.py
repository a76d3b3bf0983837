"""One small forward that shows how each module is called and what it returns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_bert.errors import UserError
from prune_bert.profiling import eval_mode
from prune_bert.stand_ins import ATTENTIONS_FLAG, forward_parameters
from prune_bert.surgery.probe_inputs import probe_inputs


class SurgeryError(UserError, ValueError):
    """A replacement that cannot be made, or would not run."""


@dataclass(frozen=True)
class Call:
    """One call of a module, as the probe saw it.

    Attributes:
        args: The positional arguments.
        kwargs: The keyword arguments.
        output: What it returned.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@dataclass(frozen=True)
class Observation:
    """What the probe saw of one module.

    Attributes:
        plain: Its call in an ordinary forward.
        with_attentions: Its call where attention weights were asked for with a flag, or None if it takes none.
    """

    plain: Call
    with_attentions: Call | None = None


Inputs = Mapping[str, Any] | Sequence[Any]

# What the code of a family raises where it cannot make sense of its inputs.
_FAULTS = (AssertionError, AttributeError, ImportError, LookupError, NameError, RuntimeError, TypeError, ValueError)


def base_model_inputs(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Give the base model of a transformers model (all layers live in it) and small inputs for it.

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


def observe(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Observation]:
    """Run a transformers model's encoder on dummy inputs and watch some of its modules.

    The model is left as it was.

    Args:
        model: A model of transformers.
        modules: The modules to watch, by path.

    Raises:
        SurgeryError: If a module never runs.
    """
    base, inputs = base_model_inputs(model)
    plain = _watch(base, modules, inputs)
    flagged = {path: module for path, module in modules.items() if ATTENTIONS_FLAG in forward_parameters(module)}
    settings = dict(vars(base.config))
    attentive = _watch(base, flagged, {**inputs, ATTENTIONS_FLAG: True}) if flagged else {}
    vars(base.config).update(settings)  # ModernBERT 4.57 switches itself to eager when it is asked for weights
    return {path: Observation(plain[path], attentive.get(path)) for path in modules}


def observe_calls(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, Call]:
    """Run any network on the given inputs and watch some of its modules.

    Raises:
        SurgeryError: If a module never runs.
    """
    return _watch(model, modules, inputs)


def _watch(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, Call]:
    calls: dict[str, Call] = {}

    def remember(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.setdefault(path, Call(args, kwargs, output))

        return hook

    handles = [m.register_forward_hook(remember(path), with_kwargs=True) for path, m in modules.items()]
    try:
        with evaluation_mode(model), quiet_transformers(), own_faults_told(model):
            _call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    missing = [path for path in modules if path not in calls]
    if missing:
        raise SurgeryError(f"{missing[0]!r} did not run in the probing forward, so its return form is not known")
    return calls


def _call(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


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
