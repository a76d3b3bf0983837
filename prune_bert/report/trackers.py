"""The report as flat figures, for accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from prune_bert.report.model import PruningReport
from prune_bert.report.records import Estimate, Row

SIZES = ("parameters", "flops", "checkpoint_bytes", "peak_memory_bytes")


def tracker_values(report: PruningReport) -> dict[str, float]:
    """Return every figure under a name such as ``pruned/accuracy`` or ``pruned/speedup_b32_s128``."""
    values: dict[str, float] = {}
    for row in report.rows:
        values |= {f"{row.name}/{name}": value for name, value in _row(row)}
    for cost in report.site_costs:
        values |= {f"site_cost/{cost.site}/{name}": value for name, value in _estimates(cost.difference)}
    for one in report.compensated_sites:
        if one.error is not None:
            values[f"compensation/{one.site}/error"] = one.error
    return values


def _row(row: Row) -> Iterator[tuple[str, float]]:
    """Yield one row's figures."""
    yield from _estimates(row.metrics)
    yield from (((f"change_{name}", value)) for name, value in _estimates(row.difference or {}))
    if row.loss is not None:
        yield "loss", row.loss
    if row.made_in_seconds is not None:
        yield "made_in_seconds", row.made_in_seconds
    if row.flips is not None:
        yield from ((name, float(count)) for name, count in asdict(row.flips).items())
    for name in SIZES:
        size = getattr(row.size, name, None)
        if size is not None:
            yield name, float(size)
    for point in row.latency:
        setting = f"b{point.batch_size}_s{point.sequence_length}"
        yield f"p50_ms_{setting}", point.p50_ms
        yield f"p95_ms_{setting}", point.p95_ms
        yield f"throughput_{setting}", point.throughput
        yield f"speedup_{setting}", point.speedup
        yield f"speedup_{setting}_low", point.speedup_ci95[0]
        yield f"speedup_{setting}_high", point.speedup_ci95[1]


def _estimates(estimates: Mapping[str, Estimate]) -> Iterator[tuple[str, float]]:
    """Yield each figure and the ends of its interval, those that are defined."""
    for name, estimate in estimates.items():
        if estimate.value is not None:
            yield name, estimate.value
        if estimate.ci95 is not None:
            yield f"{name}_low", estimate.ci95[0]
            yield f"{name}_high", estimate.ci95[1]
