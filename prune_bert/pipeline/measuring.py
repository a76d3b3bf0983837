"""The calls of evaluation and profiling that several verbs make, with the knobs taken from the config."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from accelerate import Accelerator
from torch import nn

from prune_bert.config import ProfileOptions
from prune_bert.evaluation import EncodedTask, TaskScore, evaluate
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


def profile_plan(config: Any, model: nn.Module, plan: PruningPlan) -> list[LatencyPoint]:
    """Time a model with and without a plan's sites, in turns.

    The bypasses are made once: entering one again only moves references.
    """
    grid: ProfileOptions = config
    baseline, pruned = bypass(model, PruningPlan()), bypass(model, plan)
    return profile_model(
        {"baseline": lambda: baseline, "pruned": lambda: pruned},
        batch_sizes=grid.profile_batch_sizes,
        sequence_lengths=grid.profile_sequence_lengths,
        rounds=grid.profile_rounds,
        warmup=grid.profile_warmup,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
        n_resamples=config.n_resamples,
        progress=True,
    )


def show_notes(notes: Iterable[str]) -> None:
    """Print what a reader of the results should know."""
    for note in notes:
        sys.stdout.write(f"note: {note}\n")


def show_score(score: TaskScore) -> None:
    """Print a line for each metric, with its interval."""
    for name, figure in score.metrics.items():
        low, high = figure.ci95
        sys.stdout.write(
            f"{score.task} {score.split} {name}: {100 * figure.value:.2f} ({100 * low:.2f} to {100 * high:.2f}), "
            f"n = {score.n}\n"
        )
