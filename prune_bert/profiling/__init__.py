"""Latency, throughput, parameters, operations, memory: measurement as data.

The records can be read without torch; what measures is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prune_bert.profiling.records import LatencyPoint, ModelSize, ProfilingError

if TYPE_CHECKING:
    from prune_bert.profiling.inputs import check_length, longest_sequence
    from prune_bert.profiling.latency import Variant, profile_model
    from prune_bert.profiling.machine import environment
    from prune_bert.profiling.running import OUTPUT_FLAGS, eval_mode, plain_outputs
    from prune_bert.profiling.size import measure_size

__all__ = [
    "OUTPUT_FLAGS",
    "LatencyPoint",
    "ModelSize",
    "ProfilingError",
    "Variant",
    "check_length",
    "environment",
    "eval_mode",
    "longest_sequence",
    "measure_size",
    "plain_outputs",
    "profile_model",
]

_HOMES = {
    "OUTPUT_FLAGS": "running",
    "Variant": "latency",
    "profile_model": "latency",
    "measure_size": "size",
    "environment": "machine",
    "check_length": "inputs",
    "eval_mode": "running",
    "longest_sequence": "inputs",
    "plain_outputs": "running",
}


def __getattr__(name: str) -> Any:
    """Load what measures, and with it torch, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
