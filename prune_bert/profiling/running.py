"""How a forward is run while it is measured: eval mode, no gradients, the precision, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn

from prune_bert.profiling.records import ProfilingError

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Clock: TypeAlias = Callable[[Callable[[], None], int], float]
"""``clock(run, times)`` calls ``run`` so many times and returns what all of them took, in milliseconds."""


# What a config may set that changes the form of a model's outputs, and nothing that it computes.
OUTPUT_FLAGS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model and all its parts into eval mode, and each part back into its own mode on leaving.

    Flags in the model's config that only ask for further outputs are off meanwhile (see `plain_outputs`).
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with plain_outputs(getattr(model, "config", None)):
            yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def plain_outputs(config: Any, **further: Any) -> Iterator[None]:
    """Turn off the flags of a config that ask for further outputs, or for a tuple, and restore them on leaving.

    With ``"output_attentions": true`` transformers refuses to save a model that runs ``sdpa``, and with
    ``"return_dict": false`` some of its heads fail.

    Args:
        config: A model's config, or None.
        **further: Other flags to set meanwhile, where the config has them, such as ``use_cache=False``.
    """
    wanted = {**OUTPUT_FLAGS, **further}
    changed = {name: value for name, value in wanted.items() if getattr(config, name, value) != value}
    before = dict(vars(config)) if changed else {}
    for name, value in changed.items():
        setattr(config, name, value)
    touched = {name for name, value in vars(config).items() if before.get(name) is not value} if changed else set()
    try:
        yield
    finally:
        for name in touched:  # not by setattr: transformers would validate, and refuse what the user has set
            if name in before:
                vars(config)[name] = before[name]
            else:
                vars(config).pop(name, None)


def autocast(device: torch.device, mixed_precision: str) -> AbstractContextManager[Any]:
    """Return a fresh autocast context, or one that does nothing for ``"no"``.

    Raises:
        ProfilingError: The precision is none of ``no``, ``bf16``, ``fp16``.
    """
    check_precision(mixed_precision)
    if mixed_precision == "no":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[mixed_precision])


def check_precision(mixed_precision: str) -> None:
    """Refuse a precision that is none of ``no``, ``bf16``, ``fp16``."""
    if mixed_precision != "no" and mixed_precision not in AUTOCAST_DTYPES:
        raise ProfilingError(f"unknown mixed_precision {mixed_precision!r}: expected no, bf16 or fp16")


def forward(model: nn.Module, inputs: Mapping[str, Any], device: torch.device, mixed_precision: str) -> None:
    """Run one forward and throw its output away.

    Autocast is entered for each forward, as accelerate does, so that the casts of the weights are paid for.
    """
    with torch.inference_mode(), autocast(device, mixed_precision):
        model(**inputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device: CUDA events on a GPU, a counter on the CPU."""
    return _cuda_clock if device.type == "cuda" else _host_clock


def _host_clock(run: Callable[[], None], times: int) -> float:
    """Time ``times`` calls on the host, in milliseconds."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) * 1e3


def _cuda_clock(run: Callable[[], None], times: int) -> float:
    """Time ``times`` calls on the GPU, in milliseconds, gaps between kernels included."""
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no types here
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
