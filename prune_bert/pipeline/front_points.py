"""The plans of the front on data that had no say in their choice, and timed end to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from prune_bert.compensation.candidates import PlanFits
from prune_bert.evaluation import TaskScore, compare, encode
from prune_bert.pipeline.front import parameters_of, prune_command
from prune_bert.pipeline.measuring import time_variants, timing_step
from prune_bert.pipeline.plan_values import score_plans
from prune_bert.pipeline.search_forward import Compensated, score_compensated
from prune_bert.pipeline.search_run import SearchRun
from prune_bert.plan import PruningPlan
from prune_bert.profiling import LatencyPoint
from prune_bert.report.front import FrontPoint
from prune_bert.report.records import Estimate
from prune_bert.search import Candidate, LatencyTable
from prune_bert.surgery import bypass
from prune_bert.surgery.swaps import Corrections


def front_points(
    run: SearchRun,
    baseline: TaskScore,
    table: LatencyTable,
    front: Sequence[Candidate],
    chosen: Candidate | None,
    fits: PlanFits | None = None,
) -> tuple[FrontPoint, ...]:
    """Evaluate the front on validation and time it end to end, compensated in full where there are fits.

    The first point is the unpruned model.
    """
    unpruned = PruningPlan((), run.config.norm)
    fitted: dict[PruningPlan, Corrections] = {unpruned: {}}
    fitted |= {one.plan: {} if fits is None else fits.whole(one.plan) for one in front}
    plans = list(fitted)
    scores, timings = _validated(run, fitted), _timed(run, fitted)
    by_agreement = run.choices.by_agreement
    first = next(iter(baseline.metrics.values())).value
    points = []
    for number, (plan, score, timing) in enumerate(zip(plans, scores, timings, strict=True)):
        found = compare(scores[0], score, n_resamples=run.config.n_resamples, seed=run.config.seed)
        name, metric = next(iter(score.metrics.items()))
        difference = found.differences[name]
        candidate = front[number - 1] if number else None
        reference = 1.0 if by_agreement else first
        points.append(
            FrontPoint(
                plan="" if candidate is None else str(plan),
                calibration=Estimate(reference if candidate is None else candidate.accuracy),
                validation=Estimate(found.agreement) if by_agreement else Estimate(metric.value, metric.ci95),
                difference=Estimate(found.agreement - 1)
                if by_agreement
                else Estimate(difference.value, difference.ci95),
                predicted_ms=table.predict_ms(plan),
                measured_ms=timing.p50_ms,
                speedup=Estimate(timing.speedup, timing.speedup_ci95),
                parameters=parameters_of(run.model, plan, fitted[plan]),
                command=None if candidate is None else prune_command(run.config, plan, number, run.slices.samples),
                chosen=chosen is not None and candidate is not None and candidate.plan == chosen.plan,
            )
        )
    return tuple(points)


def _validated(run: SearchRun, plans: Compensated) -> list[TaskScore]:
    config = run.config
    settings: dict[str, Any] = {"n_resamples": config.n_resamples, "description": "front on validation"}

    def compute() -> list[TaskScore]:
        encoded = encode(run.session.loaded.tokenizer, run.session.validation, config.max_seq_length)
        if run.choices.compensation is None:
            return score_plans(config, run.model, list(plans), encoded, run.accelerator, **settings)
        return score_compensated(config, run.model, plans, encoded, run.accelerator, **settings)

    return run.workspace.step(
        f"validation {_digest(plans)}",
        compute,
        lambda scores: [score.to_dict() for score in scores],
        lambda stored: [TaskScore.from_dict(item) for item in stored],
    )


def _timed(run: SearchRun, plans: Compensated) -> list[LatencyPoint]:
    config = run.config
    nn.Module.to(run.model, run.accelerator.device)
    made = {str(plan): bypass(run.model, plan, corrections) for plan, corrections in plans.items()}
    return timing_step(
        run.workspace,
        run.accelerator,
        f"latency {_digest(plans)}",
        lambda: time_variants(config, made, (config.batch_size,), (config.sequence_length,)),
    )


def _digest(plans: Iterable[PruningPlan]) -> str:
    return hashlib.sha256("\n".join(map(str, plans)).encode()).hexdigest()[:16]
