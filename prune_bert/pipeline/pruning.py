"""``prune``: baseline, plan, pruned model, report."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from prune_bert.checkpoint import directory_bytes, save_pruned, tensor_bytes
from prune_bert.config import RunConfig
from prune_bert.evaluation import TaskScore, compare, encode
from prune_bert.pipeline.measuring import profile_plan, score_model, timing_step
from prune_bert.pipeline.outputs import config_dict, run_fingerprint, write_config, write_plan, write_predictions
from prune_bert.pipeline.session import TaskSession, open_accelerator, open_task, read_plan
from prune_bert.pipeline.workspace import Workspace, working_directory
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling import (
    LatencyPoint,
    ModelSize,
    check_length,
    environment,
    longest_sequence,
    measure_size,
)
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
from prune_bert.surgery import bypass, check_droppable, drop

_BUSY_RATIO = 1.5  # a quiet machine shows 1.05 to 1.2


@dataclass
class _Run:
    """One run on its way, from what was asked for to what was found."""

    config: RunConfig
    command: str
    plan: PruningPlan
    accelerator: Accelerator
    workspace: Workspace
    session: TaskSession
    scores: dict[str, TaskScore] = field(default_factory=dict)
    site_scores: dict[Site, TaskScore] = field(default_factory=dict)
    latency: dict[str, tuple[LatencyPoint, ...]] = field(default_factory=dict)
    sizes: dict[str, ModelSize] = field(default_factory=dict)


def run_prune(config: RunConfig, argv: Sequence[str]) -> int:
    """Run the ``prune`` verb of the command line."""
    report = prune(config, command=shlex.join(argv), show=True)
    return 0 if report.rows else 1


def prune(config: RunConfig, *, command: str | None = None, show: bool = False) -> PruningReport:
    """Remove what a plan names, and report accuracy against speed.

    Everything lands in ``config.output_dir`` at once when all is done: the report in several forms, the plots,
    the predictions, the plan, the config and the pruned checkpoint. A run that was killed resumes when it is
    started again with the same settings. Under ``accelerate launch`` every process calls it.

    Args:
        config: Every setting of the run.
        command: The command line to record; by default this process's.
        show: Print the table and the report's path, on the main process.

    Raises:
        UserError: A subclass, for whatever the user can mend.
    """
    run = _begin(config, command or shlex.join(sys.argv))
    _score(run)
    _profile(run)
    _drop_and_save(run)
    report = _report(run)
    _write(run, report)
    target = run.workspace.finish()
    if show and run.accelerator.is_main_process:
        print_table(report)
        sys.stdout.write(f"\nreport: {target / 'report.html'}\n")
        if config.save_model:
            sys.stdout.write(f"model:  {target / 'model'}\n")
    return report


def _begin(config: RunConfig, command: str) -> _Run:
    plan = read_plan(config.plan)
    accelerator, notes = open_accelerator(config, config.report_to, working_directory(config.output_dir))
    workspace = Workspace(config.output_dir, config.overwrite_output_dir, accelerator)
    session = open_task(config)
    session = TaskSession(session.loaded, session.data, notes + session.notes)
    # Every fault of the plan and of the grid shows now, before minutes of work.
    check_droppable(session.loaded.model, plan)
    if config.profile:
        check_length(session.loaded.model, max(config.profile_sequence_lengths))
    workspace.open(run_fingerprint(config, session.loaded.model, session.data))
    return _Run(config, command, plan, accelerator, workspace, session)


def _score(run: _Run) -> None:
    """Score the baseline, the pruned model, and the removal of each site alone."""
    model = run.session.loaded.model
    encoded = encode(run.session.loaded.tokenizer, run.session.data, run.config.max_seq_length)

    def score(name: str, plan: PruningPlan) -> TaskScore:
        def compute() -> TaskScore:
            with bypass(model, plan):
                return score_model(run.config, model, encoded, run.accelerator, name)

        return run.workspace.step(f"score {name}".replace(":", "-"), compute, TaskScore.to_dict, TaskScore.from_dict)

    run.scores["baseline"] = score("baseline", PruningPlan())
    run.scores["pruned"] = score("pruned", run.plan)
    if run.config.measure_site_costs:
        for site in run.plan:
            alone = PruningPlan((site,), run.plan.norm)
            run.site_scores[site] = run.scores["pruned"] if len(run.plan) == 1 else score(str(site), alone)


def _profile(run: _Run) -> None:
    """Time the baseline and the pruned model in turns, on the main process."""
    if not run.config.profile:
        return
    model = nn.Module.to(run.session.loaded.model, run.accelerator.device)
    points = timing_step(run.workspace, run.accelerator, "latency", lambda: profile_plan(run.config, model, run.plan))
    for name in ("baseline", "pruned"):
        run.latency[name] = tuple(point for point in points if point.variant == name)
    run.accelerator.wait_for_everyone()


def _drop_and_save(run: _Run) -> None:
    """Make the removal permanent, weigh what is left and save it."""
    loaded, directory = run.session.loaded, run.workspace.directory / "model"
    run.sizes["baseline"] = _size(run, tensor_bytes(loaded.model, loaded.stored_dtype))
    drop(loaded.model, run.plan)
    if run.config.save_model and run.accelerator.is_main_process:
        nn.Module.to(loaded.model, dtype=loaded.stored_dtype)  # exact: the weights came from it
        save_pruned(loaded.model, directory, loaded.tokenizer, run.config.checkpoint_format, overwrite=True)
        nn.Module.to(loaded.model, dtype=torch.float32)
    run.accelerator.wait_for_everyone()
    size = directory_bytes(directory) if run.config.save_model else tensor_bytes(loaded.model, loaded.stored_dtype)
    run.sizes["pruned"] = _size(run, size)


def _size(run: _Run, checkpoint_bytes: int) -> ModelSize:
    model = nn.Module.to(run.session.loaded.model, run.accelerator.device)
    wanted = max(run.config.profile_sequence_lengths)
    return measure_size(
        model,
        sequence_length=min(wanted, longest_sequence(model) or wanted),
        batch_size=max(run.config.profile_batch_sizes),
        checkpoint_bytes=checkpoint_bytes,
        mixed_precision=run.config.mixed_precision,
    )


def _report(run: _Run) -> PruningReport:
    loaded, data, config = run.session.loaded, run.session.data, run.config
    return PruningReport(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=run.command,
        environment={
            **environment(run.accelerator.device, config.mixed_precision),
            "processes": run.accelerator.num_processes,
        },
        model=ModelInfo(
            name_or_path=loaded.name,
            model_type=loaded.model.config.model_type,
            num_hidden_layers=loaded.model.config.num_hidden_layers + len(run.plan.layers()),
            hidden_size=loaded.model.config.hidden_size,
            architecture=type(loaded.model).__name__,
            attn_implementation=getattr(loaded.model.config, "_attn_implementation", None),
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
        notes=(*run.session.notes, *_busy_notes(run)),
        config=config_dict(config),
        step_seconds=run.workspace.seconds,
    )


def _busy_notes(run: _Run) -> list[str]:
    """Warn of timings taken while something else had the machine."""
    points = [point for row in run.latency.values() for point in row]
    worst = max((point.p95_ms / point.p50_ms for point in points), default=1.0)
    if worst < _BUSY_RATIO:
        return []
    return [
        f"the machine was busy while latency was measured (p95 up to {worst:.1f} times the median); measure again when "
        "it is idle for tighter intervals"
    ]


def _row(run: _Run, name: str) -> Row:
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
    )


def _site_cost(run: _Run, site: Site) -> SiteCost:
    comparison = _compare(run, run.site_scores[site])
    flips = Flips(comparison.right_to_wrong, comparison.wrong_to_right)
    return SiteCost(site, Estimate.all_of(comparison.differences), flips)


def _compare(run: _Run, score: TaskScore) -> Any:
    return compare(run.scores["baseline"], score, n_resamples=run.config.n_resamples, seed=run.config.seed)


def _write(run: _Run, report: PruningReport) -> None:
    """Write every file of the run into its workspace, and tell the trackers."""
    if run.accelerator.is_main_process:
        directory = run.workspace.directory
        write_report(report, directory)
        write_predictions(run.scores, directory)
        write_plan(run.plan, directory)
        write_config(run.config, directory)
        if run.config.save_model:
            (directory / "model" / "README.md").write_text(model_card(report), encoding="utf-8")
    if run.config.report_to:
        run.accelerator.init_trackers("prune_bert", {key: str(value) for key, value in report.config.items()})
        run.accelerator.log(tracker_values(report))
        run.accelerator.end_training()
