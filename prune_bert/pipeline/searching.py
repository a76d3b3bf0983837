"""``search``: which plans are worth having, and which of them meets a budget."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.compensation.candidates import PlanFits
from prune_bert.config import SearchConfig
from prune_bert.evaluation import TaskScore, encode
from prune_bert.importance import SCORERS, SiteScores, score_sites
from prune_bert.pipeline.front import Blank, candidates, count_parameters, measure_parts, settled_front
from prune_bert.pipeline.front_points import front_points
from prune_bert.pipeline.measuring import score_model, show_notes
from prune_bert.pipeline.outputs import config_dict, write_config, write_plan
from prune_bert.pipeline.plan_values import Known, PlanScorer, Values, objective_of
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.raced_plans import racing_with
from prune_bert.pipeline.search_allowed import SavablePlans
from prune_bert.pipeline.search_choices import budget_words, compensation_words, settle, task_notes
from prune_bert.pipeline.search_compensated import SECONDS_A_PLAN, CompensatedValues, blank_of, open_fits
from prune_bert.pipeline.search_run import JOURNAL, SearchRun, open_journal, search_fingerprints
from prune_bert.pipeline.search_slices import open_slices
from prune_bert.pipeline.session import open_accelerator
from prune_bert.pipeline.workspace import Workspace
from prune_bert.plan import PruningPlan
from prune_bert.profiling import check_length, environment
from prune_bert.report.front import FrontPoint, SearchReport, print_front, write_search
from prune_bert.report.records import finite
from prune_bert.search import (
    EXHAUSTIVE_LIMIT,
    Budget,
    Candidate,
    Journal,
    LatencyTable,
    SearchResult,
    exhaustive,
    exhaustive_cost,
    journaled,
    search_plans,
    sites_of,
)

# Plans evaluated together share work; a kill loses them. So there are 32 in a call, or more where they are quick.
_SECONDS_A_CALL = 20.0
_STEADY = 1.15  # timings of one model on a quiet machine differ by less


@own_accelerate_state()
def run_search(config: SearchConfig, argv: Sequence[str]) -> int:
    """Run the ``search`` verb: ``search.json``, the front as page, text and plot, and ``chosen_plan.json``."""
    choices = settle(config)
    config, accelerator, notes = open_accelerator(config)
    workspace = Workspace(config, accelerator, companions=(JOURNAL,))
    scorer = SCORERS[choices.scorer]
    needs_labels = choices.needs_labels or (choices.strategy == "one_shot" and scorer.needs_labels)
    slices = open_slices(config, accelerator, needs_labels=needs_labels)
    session = slices.session
    on_numbers = task_notes(choices, regression=session.validation.spec.regression)
    depth = len(find_encoder(session.loaded.model).layers)
    choices.budget.check(depth=depth, whole_layers=choices.whole_layers)
    check_length(session.loaded.model, config.sequence_length)
    encoded = encode(session.loaded.tokenizer, session.calibration, config.max_seq_length)
    sites = sites_of(depth, choices.components)
    savable = SavablePlans(config, session.loaded.model)
    savable.check(sites)
    said, command = [*notes, *session.notes, *on_numbers], shlex.join(argv)
    run = SearchRun(config, choices, command, accelerator, workspace, slices, encoded, sites, savable, said)
    fits = open_fits(run)
    of_values, of_steps = search_fingerprints(config, slices, accelerator)
    with open_journal(config, of_values, accelerator) as journal:
        workspace.open(of_steps)
        with workspace:
            report = _search(run, journal, fits)
            target = workspace.finish()
    if accelerator.is_main_process:
        show_notes(report.notes)
        print_front(report)
        _show_where(report, target)
    return 0


def _search(run: SearchRun, journal: Journal, fits: PlanFits | None) -> SearchReport:
    config, choices = run.config, run.choices
    baseline = run.workspace.step(
        "baseline",
        lambda: score_model(config, run.model, run.encoded, run.accelerator, "unpruned model"),
        TaskScore.to_dict,
        TaskScore.from_dict,
    )
    _announce(run, baseline)
    blank = blank_of(run.model, choices.compensation)
    table = _parts(run, blank)
    scorer = PlanScorer(config, run.model, run.encoded, run.accelerator, baseline, choices.objective, notes=run.notes)
    compensated = None if fits is None else CompensatedValues(run, scorer, fits, journal)
    known: Known = journaled(scorer.values, journal) if compensated is None else compensated
    options = _options(run, table, baseline, scorer, journal)
    result = search_plans(objective_of(choices.objective, known), run.sites, strategy=choices.strategy, **options)
    plans = list(dict.fromkeys(found.plan for found in result.evaluated))
    parameters = count_parameters(run.model, run.sites, config.norm, blank)

    def found() -> list[Candidate]:
        values = dict(zip(plans, known(plans), strict=True))
        return candidates(values, table, parameters, by_agreement=choices.by_agreement)

    settle = None if compensated is None else compensated.settle
    front, whole, chosen = settled_front(found, choices.budget, settle)
    if whole > len(front):
        run.notes.append(f"the front has {whole} plans, of which {len(front)} are shown and measured, evenly spaced")
    if choices.racing:
        run.notes += [f"race {number}: {race}" for number, race in enumerate(result.races, start=1)]
    points = front_points(run, baseline, table, front, chosen, fits)
    run.notes += [*_misses(choices.budget, chosen, points), *_drift(points[0])]
    values = dict(zip(plans, known(plans), strict=True))
    report = _report(run, _facts(run, result, table, values), points, chosen)
    if run.accelerator.is_main_process:
        write_search(report, run.workspace.directory)
        write_config(config, run.workspace.directory)
        if chosen is not None:
            write_plan(chosen.plan, run.workspace.directory, "chosen_plan.json")
    return report


def _announce(run: SearchRun, baseline: TaskScore) -> None:
    """Say what an exhaustive search costs before it starts, or that it costs too much."""
    if run.choices.strategy != "exhaustive":
        return
    if len(run.sites) > EXHAUSTIVE_LIMIT:
        exhaustive(lambda plans: [], run.sites, seconds_unpruned=baseline.seconds)  # refuses, with all figures
    cost = exhaustive_cost(len(run.sites), sizes=_sizes(run), seconds_unpruned=baseline.seconds)
    if run.choices.compensation is not None:
        seconds = SECONDS_A_PLAN * baseline.seconds * cost.plans
        cost = dataclasses.replace(cost, passes=cost.passes_alone, seconds=seconds)
    if run.accelerator.is_main_process:
        sys.stderr.write(f"exhaustive: {cost}\n")
        sys.stderr.flush()


def _most_removed(run: SearchRun) -> int | None:
    """Return how many sites may go: one whole layer always stays, or as many as the budget keeps."""
    if not run.choices.whole_layers:
        return run.config.max_removed
    most = run.depth - (run.config.keep_layers or 1)
    return min(most, run.config.max_removed or most)


def _sizes(run: SearchRun) -> range:
    most = _most_removed(run)
    return range((len(run.sites) if most is None else min(most, len(run.sites))) + 1)


def _options(
    run: SearchRun, table: LatencyTable, baseline: TaskScore, scorer: PlanScorer, journal: Journal
) -> dict[str, Any]:
    """Gather what the strategy takes."""
    choices, strategy = run.choices, run.choices.strategy
    per_call = int(_SECONDS_A_CALL / max(baseline.seconds, 1e-3))
    if choices.compensation is not None:
        per_call = (choices.width or 1) * (len(run.sites) + 1)  # a step at once, so that it is fitted at once
    options: dict[str, Any] = {
        "norm": run.config.norm,
        "allowed": run.savable,
        "progress": scorer.tell,
        "plans_per_call": max(32, per_call if choices.compensation is not None else min(256, per_call)),
    }
    if strategy == "exhaustive":
        options |= {"sizes": _sizes(run), "seconds_unpruned": baseline.seconds}
    else:
        options["max_removed"] = _most_removed(run)
    if strategy == "one_shot":
        options["scores"] = _scores(run).values
    if strategy in ("greedy", "beam", "sublayer"):
        options["costs"] = table.costs(run.sites)
    if choices.width is not None:
        options["width"] = choices.width
    if choices.racing:
        options["racing"] = racing_with(scorer, journal)
    return options


def _scores(run: SearchRun) -> SiteScores:
    config, name = run.config, run.choices.scorer

    def compute() -> SiteScores:
        return score_sites(
            run.model,
            run.encoded,
            scorer=name,
            components=run.choices.components,
            norm=config.norm,
            accelerator=run.accelerator,
            batch_size=config.per_device_eval_batch_size,
        )

    return run.workspace.step(f"score {name}", compute, SiteScores.to_dict, SiteScores.from_dict)


def _parts(run: SearchRun, blank: Blank) -> LatencyTable:
    """Measure the table on the main process; the others get it from there."""

    def compute() -> LatencyTable:
        nn.Module.to(run.model, run.accelerator.device)
        if not run.accelerator.is_main_process:
            return LatencyTable(run.config.batch_size, run.config.sequence_length, run.depth, 1.0, 1.0)
        return measure_parts(run.config, run.model, run.depth, whole_layers=run.choices.whole_layers, blank=blank)

    return run.workspace.step("latency table", compute, LatencyTable.to_dict, LatencyTable.from_dict)


def _misses(budget: Budget, chosen: Candidate | None, points: Sequence[FrontPoint]) -> list[str]:
    """Say where the chosen plan meets the budget by prediction and not when it is measured."""
    for point in points:
        if chosen is not None and point.chosen:
            measured = dataclasses.replace(chosen, latency_ms=point.measured_ms, speedup=point.speedup.value)
            missed = ", ".join(budget.shortfalls(measured))
            if missed:
                return [
                    f"measured end to end, the chosen plan misses {missed}: predicted {point.predicted_ms:.2f} ms, "
                    f"measured {point.measured_ms:.2f} ms; leave some room in the budget"
                ]
    return []


def _drift(unpruned: FrontPoint) -> list[str]:
    """Say where the machine was busier, or less, while the front was timed than while the parts were."""
    if 1 / _STEADY < unpruned.measured_ms / unpruned.predicted_ms < _STEADY:
        return []
    return [
        f"the machine's speed changed on the way: the unpruned model took {unpruned.predicted_ms:.2f} ms when its "
        f"parts were timed and {unpruned.measured_ms:.2f} ms when the front was; compare speed-ups, not times"
    ]


def _facts(
    run: SearchRun, result: SearchResult, table: LatencyTable, values: Mapping[PruningPlan, Values]
) -> dict[str, Any]:
    """Gather what the search did, with every plan that it evaluated."""
    stored = result.to_dict()
    found = {
        "strategy": run.choices.strategy,
        "objective": run.choices.objective,
        "compensation": compensation_words(run.choices.compensation),
        "evaluated": len(result.evaluated),
        "cut": result.num_cut,
        "confidence": run.config.racing_confidence,
        "seconds": result.seconds,
        "order": _order(result),
        "latency_table": table.to_dict(),
        "path": stored["path"],
        "races": stored["races"],
        "plans": [
            {"plan": str(plan), "predicted_ms": table.predict_ms(plan), **{k: finite(v) for k, v in one.items()}}
            for plan, one in values.items()
        ],
    }
    if run.choices.strategy == "one_shot":
        found["scorer"] = run.choices.scorer
    return found


def _report(
    run: SearchRun,
    facts: Mapping[str, Any],
    points: Sequence[FrontPoint],
    chosen: Candidate | None,
) -> SearchReport:
    config, session = run.config, run.session
    return SearchReport(
        model=session.loaded.name,
        task=session.validation.spec.name,
        split=session.validation.split,
        metric="agreement" if run.choices.by_agreement else session.validation.spec.metrics[0],
        baseline=points[0],
        front=tuple(points[1:]),
        chosen=None if chosen is None else str(chosen.plan),
        budget=budget_words(run.choices.budget),
        search=facts,
        setting=(config.batch_size, config.sequence_length),
        n={
            "calibration": len(session.calibration.dataset),
            "validation": len(session.validation.dataset),
            **({} if run.slices.fitted is None else {"fit": len(run.slices.fitted.dataset)}),
        },
        notes=tuple(run.notes),
        record={
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": run.command,
            "environment": {
                **environment(run.accelerator.device, run.accelerator.mixed_precision),
                "processes": run.accelerator.num_processes,
            },
            "config": config_dict(config),
            "calibration": session.calibration.source,
            "step_seconds": run.workspace.seconds,
        },
    )


def _order(result: SearchResult) -> str:
    """Say what each step removed, where one builds on the other; else the best plan of each size."""
    if result.strategy in ("one_shot", "greedy", "sublayer") and not result.races:
        return ", ".join(" ".join(map(str, step)) for step in result.removed) or "nothing"
    return "; ".join(str(found.plan) for found in result.path if found.plan)


def _show_where(report: SearchReport, target: Path) -> None:
    sys.stdout.write(f"\nfront: {target / 'front.html'}\n")
    if report.chosen is not None:
        sys.stdout.write(f"chosen: {report.chosen}\n")
        sys.stdout.write(f"prune by it: {next(point.command for point in report.front if point.chosen)}\n")
