"""From a finished run to its report, and everything that it leaves on disk."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

from prune_bert.evaluation import Comparison, TaskScore, compare
from prune_bert.pipeline.outputs import config_dict, write_config, write_plan, write_predictions
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.plan import Site
from prune_bert.profiling import environment
from prune_bert.report import (
    Estimate,
    Flips,
    ModelInfo,
    PlanInfo,
    PruningReport,
    Row,
    SiteCost,
    TaskInfo,
    model_card,
    print_table,
    tracker_values,
    write_report,
)
from prune_bert.storage import write_text

_BUSY_RATIO = 1.5  # a quiet machine shows 1.05 to 1.2


def finish_run(run: PruneRun, *, show: bool) -> PruningReport:
    """Write every file of the run, tell the trackers, and rename the working directory into place.

    Args:
        run: The run, with all that was found.
        show: Print the table and where things are, on the main process.
    """
    report = make_report(run)
    _write(run, report)
    target = run.workspace.finish()
    if show and run.accelerator.is_main_process:
        _show(run, report, target)
    return report


def make_report(run: PruneRun) -> PruningReport:
    """Put together what the run found."""
    baseline, data, config = run.baseline, run.data, run.config
    return PruningReport(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=run.command,
        environment={
            **environment(run.accelerator.device, run.accelerator.mixed_precision),
            "processes": run.accelerator.num_processes,
        },
        model=ModelInfo(
            name_or_path=baseline.name,
            model_type=baseline.model.config.model_type,
            num_hidden_layers=run.depth,
            hidden_size=baseline.model.config.hidden_size,
            architecture=type(baseline.model).__name__,
            revision=baseline.commit,
            attn_implementation=getattr(baseline.model.config, "_attn_implementation", None),
        ),
        task=TaskInfo(
            name=data.spec.name,
            split=data.split,
            n=len(data.dataset),
            metrics=data.spec.metrics,
            source=data.source,
            regression=data.spec.regression,
        ),
        plan=PlanInfo.of(run.plan),
        rows=tuple(_row(run, name) for name in run.scores),
        site_costs=tuple(_site_cost(run, site) for site in run.site_scores),
        compensated_sites=run.compensated_sites,
        recovery=run.recovery,
        checkpoint_format=run.checkpoint_format,
        loaded_with=run.loaded_with,
        notes=(*run.notes, *_busy_notes(run)),
        config=config_dict(config),
        step_seconds=run.workspace.seconds,
    )


def _busy_notes(run: PruneRun) -> list[str]:
    """Warn of timings taken while something else had the machine."""
    points = [point for row in run.latency.values() for point in row]
    worst = max((point.p95_ms / point.p50_ms for point in points), default=1.0)
    if worst < _BUSY_RATIO:
        return []
    return [
        f"the machine was busy while latency was measured (p95 up to {worst:.1f} times the median); measure again when "
        "it is idle for tighter intervals"
    ]


def _row(run: PruneRun, name: str) -> Row:
    score, baseline = run.scores[name], run.scores["baseline"]
    comparison = None if score is baseline else _compare(run, score)
    return Row(
        name=name,
        metrics=Estimate.all_of(score.metrics),
        n=score.n,
        loss=score.loss,
        difference=None if comparison is None else Estimate.all_of(comparison.differences),
        flips=None if comparison is None else Flips(comparison.right_to_wrong, comparison.wrong_to_right),
        agreement=None if comparison is None else comparison.agreement,
        size=run.sizes[name],
        latency=run.latency.get(name, ()),
        seconds=score.seconds,
        made_in_seconds=run.made_in_seconds.get(name),
    )


def _site_cost(run: PruneRun, site: Site) -> SiteCost:
    comparison = _compare(run, run.site_scores[site])
    flips = Flips(comparison.right_to_wrong, comparison.wrong_to_right)
    return SiteCost(site, Estimate.all_of(comparison.differences), flips)


def _compare(run: PruneRun, score: TaskScore) -> Comparison:
    return compare(run.scores["baseline"], score, n_resamples=run.config.n_resamples, seed=run.config.seed)


def _write(run: PruneRun, report: PruningReport) -> None:
    if run.accelerator.is_main_process:
        directory = run.workspace.directory
        write_report(report, directory)
        write_predictions(run.scores, directory)
        write_plan(run.plan, directory)
        write_config(run.config, directory)
        if run.config.save_model:
            write_text(directory / "model" / "README.md", model_card(report))
    if run.config.report_to:
        _tell_trackers(run, report)


def _tell_trackers(run: PruneRun, report: PruningReport) -> None:
    run.accelerator.init_trackers("prune_bert", {key: str(value) for key, value in report.config.items()})
    log: Any = run.accelerator.log
    for step, loss in report.recovery.losses if report.recovery else ():
        log({"recover/loss": loss}, step=step)
    for step, loss in report.recovery.selection_losses if report.recovery else ():
        log({"recover/selection_loss": loss}, step=step)
    log(tracker_values(report))
    run.accelerator.end_training()


def _show(run: PruneRun, report: PruningReport, target: Path) -> None:
    print_table(report)
    sys.stdout.write(f"\nreport: {target / 'report.html'}\n")
    if run.config.save_model:
        how = " (compact: prune_bert.load_pruned loads it)" if run.checkpoint_format == "compact" else ""
        sys.stdout.write(f"model:  {target / 'model'}{how}\n")
