"""``recover``: prune, or take a pruned model, then train to get back what that cost."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shlex
import sys
from collections.abc import Sequence

from torch import nn

from prune_bert.config import RecoverConfig
from prune_bert.evaluation import encode
from prune_bert.pipeline.comparing import compare_states, score_state
from prune_bert.pipeline.keeping import round_to_stored, save_and_weigh
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.pipeline.recover_begin import begin_recovery
from prune_bert.pipeline.reporting import finish_run
from prune_bert.pipeline.workspace import STATE
from prune_bert.recovery import RecoverResult, RecoverSettings, recover
from prune_bert.report import PruningReport, RecoveryInfo
from prune_bert.surgery import drop
from prune_bert.tasks import TaskData


def run_recover(config: RecoverConfig, argv: Sequence[str]) -> int:
    """Run the ``recover`` verb of the command line."""
    report = prune_and_recover(config, command=shlex.join(argv), show=True)
    return 0 if report.rows else 1


@own_accelerate_state()
def prune_and_recover(config: RecoverConfig, *, command: str | None = None, show: bool = False) -> PruningReport:
    """Do as `prune` does, then train the pruned model, and report every state on the way.

    A run that was killed resumes, within the training, too, when it is started again with the same settings.

    Args:
        config: Every setting of the run.
        command: The command line to record; by default this process's.
        show: Print the table and the report's path, on the main process.

    Raises:
        UserError: A subclass, for whatever the user can mend.
    """
    run, train = begin_recovery(config, command or shlex.join(sys.argv))
    with run.workspace:
        compare_states(run, weigh_last=True)
        result = _train(run, train)
        _note_training(run, train, result)
        round_to_stored(run)
        _score(run)
        save_and_weigh(run, "recovered")
        return finish_run(run, show=show)


def _train(run: PruneRun, train: TaskData) -> RecoverResult:
    """Drop the plan, or have it dropped site by site, and train what is left."""
    settings, model, teacher = RecoverSettings.from_options(run.config), run.model, None
    gradual = settings.schedule == "gradual"
    if settings.method == "distillation" and not gradual:  # of a gradual one the model itself is copied there
        teacher = copy.deepcopy(model) if run.original is None else run.original.model
    if run.original is None and not gradual:
        drop(model, run.plan, run.fitted)
    return recover(
        model,
        train,
        run.loaded.tokenizer,
        settings,
        teacher=teacher,
        plan=run.plan if gradual else None,
        accelerator=run.accelerator,
        state_dir=run.workspace.root / STATE,
    )


def _note_training(run: PruneRun, train: TaskData, result: RecoverResult) -> None:
    """Keep what is to be said of the training."""
    run.workspace.seconds["recover"] = run.made_in_seconds["recovered"] = result.seconds
    run.recovery = _info(run, result)
    aside = f", {result.selection_samples:,} more chose its weights" if result.selection_samples else ""
    run.notes.append(f"recovery trained on {result.train_samples:,} rows{aside}: {train.source}")
    if result.stopped_early:
        run.notes.append(f"recovery stopped early, after {result.steps:,} steps without a lower loss on those rows")
    if result.best_step == 0:
        run.notes.append("no step of the training did better on those rows than the model that it began with")


def _info(run: PruneRun, result: RecoverResult) -> RecoveryInfo:
    """Gather the figures of the training, with the steps of all phases counted through."""
    losses, before = [], 0
    for phase in result.phases:
        losses += [(before + point.step, point.loss) for point in phase.training.history]
        before += phase.training.steps
    earlier = before - result.phases[-1].training.steps
    config = run.config
    return RecoveryInfo(
        method=str(getattr(config, "method", "")),
        schedule=str(getattr(config, "schedule", "")),
        lora_rank=int(getattr(config, "lora_rank", 0)),
        steps=result.steps,
        train_samples=result.train_samples,
        selection_samples=result.selection_samples,
        seconds=result.seconds,
        stopped_early=result.stopped_early,
        best_step=None if result.best_step is None else earlier + result.best_step,
        losses=tuple(losses),
        selection_losses=tuple((earlier + step, loss) for step, loss in result.selection_losses),
    )


def _score(run: PruneRun) -> None:
    """Score the trained model; its modules are those of the state before, and so are its timings."""
    encoded = encode(run.loaded.tokenizer, run.data, run.config.max_seq_length)
    model = nn.Module.to(run.model, run.accelerator.device)
    before = list(run.scores)[-1]
    run.scores["recovered"] = score_state(run, "recovered", contextlib.nullcontext(model), encoded)
    timed = run.latency.get(before, ())
    if timed:
        run.latency["recovered"] = tuple(dataclasses.replace(point, variant="recovered") for point in timed)
        run.notes.append(f"the recovered model has the modules of the {before} one: its latency is what that one took")
