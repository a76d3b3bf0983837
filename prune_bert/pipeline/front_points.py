"""The plans of the front on data that had no say in their choice, and timed end to end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from prune_bert.evaluation import TaskScore, compare, encode
from prune_bert.pipeline.front import prune_command
from prune_bert.pipeline.measuring import time_plans, timing_step
from prune_bert.pipeline.plan_values import score_plans
from prune_bert.pipeline.search_run import SearchRun
from prune_bert.plan import PruningPlan
from prune_bert.profiling import LatencyPoint
from prune_bert.report.front import FrontPoint
from prune_bert.report.records import Estimate
from prune_bert.search import Candidate, LatencyTable


def front_points(
    run: SearchRun,
    baseline: TaskScore,
    table: LatencyTable,
    front: Sequence[Candidate],
    chosen: Candidate | None,
    total: int,
) -> tuple[FrontPoint, ...]:
    """Evaluate the front on validation and time it end to end; the first point is the unpruned model."""
    plans = [PruningPlan((), run.config.norm), *(candidate.plan for candidate in front)]
    scores, timings = _validated(run, plans), _timed(run, plans)
    by_agreement = run.config.objective == "agreement"
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
                parameters=total if candidate is None else candidate.parameters or 0,
                command=None if candidate is None else prune_command(run.config, plan, number),
                chosen=chosen is not None and candidate is not None and candidate.plan == chosen.plan,
            )
        )
    return tuple(points)


def _validated(run: SearchRun, plans: Sequence[PruningPlan]) -> list[TaskScore]:
    config = run.config

    def compute() -> list[TaskScore]:
        encoded = encode(run.session.loaded.tokenizer, run.session.validation, config.max_seq_length)
        return score_plans(
            config,
            run.model,
            plans,
            encoded,
            run.accelerator,
            n_resamples=config.n_resamples,
            description="front on validation",
        )

    return run.workspace.step(
        f"validation {_digest(plans)}",
        compute,
        lambda scores: [score.to_dict() for score in scores],
        lambda stored: [TaskScore.from_dict(item) for item in stored],
    )


def _timed(run: SearchRun, plans: Sequence[PruningPlan]) -> list[LatencyPoint]:
    config, named = run.config, {str(plan): plan for plan in plans}
    return timing_step(
        run.workspace,
        run.accelerator,
        f"latency {_digest(plans)}",
        lambda: time_plans(config, run.model, named, (config.batch_size,), (config.sequence_length,)),
    )


def _digest(plans: Sequence[PruningPlan]) -> str:
    return hashlib.sha256("\n".join(map(str, plans)).encode()).hexdigest()[:16]
