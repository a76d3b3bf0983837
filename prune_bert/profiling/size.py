"""What a model weighs: parameters, floating-point operations, and the peak memory of a forward."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, kineto_available, profile
from torch.utils.flop_counter import FlopCounterMode

from prune_bert.profiling.inputs import random_inputs
from prune_bert.profiling.records import ModelSize
from prune_bert.profiling.running import device_of, eval_mode, forward


def measure_size(
    model: nn.Module,
    *,
    sequence_length: int,
    batch_size: int = 1,
    checkpoint_bytes: int | None = None,
    device: torch.device | str | None = None,
    mixed_precision: str = "no",
) -> ModelSize:
    """Count parameters and operations, and measure the peak memory of one forward.

    Operations are counted for one sequence; the peak is taken with ``batch_size`` sequences of
    ``sequence_length`` tokens. The checkpoint's size is the caller's to give.

    Raises:
        ProfilingError: The model has no vocabulary to draw inputs from, or too few positions.
    """
    place = torch.device(device) if device is not None else device_of(model)
    one = random_inputs(model, 1, sequence_length, device=place)
    batch = random_inputs(model, batch_size, sequence_length, device=place)
    with eval_mode(model):
        return ModelSize(
            parameters=count_parameters(model),
            flops=count_flops(model, one),
            checkpoint_bytes=checkpoint_bytes,
            peak_memory_bytes=peak_memory(model, batch, device=place, mixed_precision=mixed_precision),
            sequence_length=sequence_length,
            batch_size=batch_size,
        )


def count_parameters(model: nn.Module) -> int:
    """Count the model's parameters, one that is shared between places once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Count the operations of one forward with torch's counter: matrix products only, a multiply-add as two.

    The counter does not know the fused attention kernel that torch uses on a CPU and would leave those
    products out, so attention takes its plain path while counting. The figure is then the same on a CPU and
    a GPU, and with ``sdpa`` and ``eager`` attention.
    """
    with _countable_attention(model):
        return count_flops_of(lambda: model(**inputs))


def count_flops_of(run: Callable[[], object]) -> int:
    """Count the operations of a call in the same way."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def _countable_attention(model: nn.Module) -> Iterator[None]:
    """Run attention by matrix products meanwhile, where it runs a kernel that the counter cannot look into.

    ``flex_attention`` compiles itself, which fails under the counter.
    """
    config: Any = getattr(model, "config", None)
    chosen = getattr(config, "_attn_implementation", None)
    if chosen in (None, "eager", "sdpa"):
        yield
        return
    config._attn_implementation = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    try:
        yield
    finally:
        config._attn_implementation = chosen


def peak_memory(
    model: nn.Module, inputs: Mapping[str, Any], *, device: torch.device, mixed_precision: str = "no"
) -> int | None:
    """Return the bytes of the model's own weights and buffers plus the most that one forward adds to them.

    On a GPU the forward's share comes from ``torch.cuda.max_memory_allocated``, on a CPU from the profiler's
    record of every allocation and release by torch's allocator, kernels' scratch space included. Both leave
    out whatever else the process holds (another variant, the interpreter), so the figures can be compared.
    None where this build of torch has no profiler.
    """

    def run() -> None:
        forward(model, inputs, device, mixed_precision)

    run()  # the first forward may allocate what later ones reuse
    added = _cuda_peak(run) if device.type == "cuda" else _cpu_peak(run)
    return None if added is None else _weight_bytes(model) + added


def _weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, shared ones once."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _cuda_peak(run: Callable[[], None]) -> int:
    """Return the most bytes that a call holds on the GPU above what was held before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _cpu_peak(run: Callable[[], None]) -> int | None:
    """Return the most bytes that a call holds on the CPU above what was held before it."""
    if not kineto_available():
        return None
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda event: event["ts"])
    held = accumulate(int(event["args"]["Bytes"]) for event in changes)
    return max(held, default=0)


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own start and stop lines off the user's terminal."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
