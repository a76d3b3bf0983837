"""``benchmark``: a model's latency with and without a plan's sites; no task needed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict

from prune_bert.checkpoint import load_model
from prune_bert.config import BenchmarkConfig
from prune_bert.pipeline.measuring import profile_plan, show_notes
from prune_bert.pipeline.outputs import config_dict, write_config
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.session import model_settings, open_accelerator, read_plan
from prune_bert.pipeline.workspace import checked_output
from prune_bert.profiling import LatencyPoint, environment, measure_size
from prune_bert.storage import staged_directory, write_text
from prune_bert.surgery import bypass


@own_accelerate_state()
def run_benchmark(config: BenchmarkConfig, argv: Sequence[str]) -> int:
    """Run the ``benchmark`` verb: ``benchmark.json`` with every sample, and a table on the terminal."""
    plan = read_plan(config.plan)
    config, accelerator, notes = open_accelerator(config)
    target = checked_output(config, accelerator)
    loaded = load_model(config.model_name_or_path, require_head=False, **model_settings(config))
    model = loaded.model.to(accelerator.device)
    pruned = bypass(model, plan)
    if not accelerator.is_main_process:
        return 0
    points = profile_plan(config, model, plan)
    sizes = {"baseline": measure_size(model, sequence_length=max(config.profile_sequence_lengths))}
    with pruned:
        sizes["pruned"] = measure_size(model, sequence_length=max(config.profile_sequence_lengths))
    result = {
        "model": loaded.name,
        "plan": str(plan),
        "latency": [asdict(point) for point in points],
        "size": {name: asdict(size) for name, size in sizes.items()},
        "notes": [*notes, *loaded.notes],
        "environment": environment(accelerator.device, accelerator.mixed_precision),
        "command": shlex.join(argv),
        "config": config_dict(config),
    }
    with staged_directory(target) as directory:
        write_text(directory / "benchmark.json", json.dumps(result, indent=2) + "\n")
        write_config(config, directory)
    show_notes((*notes, *loaded.notes))
    for point in points:
        sys.stdout.write(_line(point) + "\n")
    sys.stdout.write(f"written to {target.path}\n")
    return 0


def _line(point: LatencyPoint) -> str:
    low, high = point.speedup_ci95
    gain = "" if point.variant == "baseline" else f", {point.speedup:.2f} times as fast ({low:.2f} to {high:.2f})"
    if gain and not point.measurable:
        gain += ": no measurable gain"
    return (
        f"batch {point.batch_size} x {point.sequence_length} tokens, {point.variant}: "
        f"p50 {point.p50_ms:.2f} ms, p95 {point.p95_ms:.2f} ms{gain}"
    )
