"""The calls of evaluation and profiling that several verbs make, with the knobs taken from the config."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from torch import nn

from prune_bert.evaluation import EncodedTask, TaskScore, evaluate
from prune_bert.pipeline.workspace import Workspace
from prune_bert.plain import plain_text
from prune_bert.plan import PruningPlan
from prune_bert.profiling import LatencyPoint, profile_model
from prune_bert.surgery import bypass


def score_model(
    config: Any, model: nn.Module, encoded: EncodedTask, accelerator: Accelerator, description: str
) -> TaskScore:
    """Score a model on encoded data."""
    return evaluate(
        model,
        encoded,
        accelerator=accelerator,
        batch_size=config.per_device_eval_batch_size,
        n_resamples=config.n_resamples,
        seed=config.seed,
        description=description,
    )


def time_variants(
    config: Any,
    variants: Mapping[str, AbstractContextManager[Any]],
    batch_sizes: Sequence[int],
    sequence_lengths: Sequence[int],
) -> list[LatencyPoint]:
    """Time what contexts give in turns, the first being the baseline; each is entered again and again."""
    return profile_model(
        {name: lambda one=one: one for name, one in variants.items()},  # type: ignore[misc]
        batch_sizes=batch_sizes,
        sequence_lengths=sequence_lengths,
        rounds=config.profile_rounds,
        warmup=config.profile_warmup,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
        n_resamples=config.n_resamples,
        progress=True,
    )


def time_plans(
    config: Any,
    model: nn.Module,
    plans: Mapping[str, PruningPlan],
    batch_sizes: Sequence[int],
    sequence_lengths: Sequence[int],
) -> list[LatencyPoint]:
    """Time a model under plans in turns, the first being the baseline.

    The bypasses are made once: entering one again only moves references.
    """
    made = {name: bypass(model, plan) for name, plan in plans.items()}
    return time_variants(config, made, batch_sizes, sequence_lengths)


def profile_plan(config: Any, model: nn.Module, plan: PruningPlan) -> list[LatencyPoint]:
    """Time a model with and without a plan's sites, in turns, on the grid of the config."""
    plans = {"baseline": PruningPlan(), "pruned": plan}
    return time_plans(config, model, plans, config.profile_batch_sizes, config.profile_sequence_lengths)


def timing_step(
    workspace: Workspace, accelerator: Accelerator, name: str, time: Callable[[], list[LatencyPoint]]
) -> list[LatencyPoint]:
    """Make a step of a run of timings, taken on the main process alone."""
    return workspace.step(
        name,
        lambda: time() if accelerator.is_main_process else [],
        lambda points: [asdict(point) for point in points],
        lambda stored: [_point(item) for item in stored],
    )


def _point(stored: dict[str, Any]) -> LatencyPoint:
    samples, (low, high) = tuple(stored["samples_ms"]), stored["speedup_ci95"]
    return LatencyPoint(**{**stored, "samples_ms": samples, "speedup_ci95": (low, high)})


def show_notes(notes: Iterable[str]) -> None:
    """Print what a reader of the results should know."""
    for note in notes:
        sys.stdout.write(f"note: {plain_text(note)}\n")


def show_score(score: TaskScore) -> None:
    """Print a line for each metric, with its interval."""
    for name, figure in score.metrics.items():
        low, high = figure.ci95
        sys.stdout.write(
            f"{score.task} {score.split} {name}: {100 * figure.value:.2f} ({100 * low:.2f} to {100 * high:.2f}), "
            f"n = {score.n}\n"
        )
