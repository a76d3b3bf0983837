"""`recover`: gradient training of a pruned model, at once or site by site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from prune_bert.plan import PruningPlan, Site
from prune_bert.recovery.adapters import lora_merged
from prune_bert.recovery.distillation import chosen_teacher, teaching
from prune_bert.recovery.jobs import Job, make_job
from prune_bert.recovery.phases import PhaseStore, put_weights
from prune_bert.recovery.removal import removal_order, remove_site
from prune_bert.recovery.results import RecoverPhase, RecoverResult
from prune_bert.recovery.settings import RecoverSettings
from prune_bert.tasks import Rows, TaskData, task_data_for
from prune_bert.training import train
from prune_bert.training.run import random_state_kept


def recover(
    model: nn.Module,
    train_data: TaskData | Rows,
    tokenizer: Any,
    settings: RecoverSettings | None = None,
    *,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    teacher: nn.Module | None = None,
    plan: PruningPlan | str | None = None,
    order: Sequence[Site] | None = None,
    accelerator: Accelerator | None = None,
    state_dir: Path | None = None,
) -> RecoverResult:
    """Train a pruned model in place, leave it in evaluation mode, and say how it went.

    See `RecoverSettings`. With a ``state_dir`` an interrupted run, given the same model again, goes on from there, and
    on a CPU ends at the same weights, bit for bit. Dropout is as the model has it; stand-ins are trained, too.

    Args:
        model: Pruned already for ``at_once``; as it is before the plan for ``gradual``.
        train_data: A task whose labels are the model's class ids; or a `datasets.Dataset` or a list of dicts, whose
            labels are mapped to those. Distillation with ``label_weight`` 0 reads none.
        tokenizer: The model's own.
        settings: The knobs; the defaults where not given.
        text_columns: As for `evaluate`.
        label_column: As for `evaluate`.
        teacher: The unpruned model, for distillation. For ``gradual`` a copy of ``model`` as it comes, where not given.
        plan: What goes, or its text, for ``gradual``, in the numbering of the model as it comes.
        order: The order in which it goes; from the top layer down where not given.
        accelerator: Device, precision and processes; a plain one where not given.
        state_dir: Where the run keeps its state; nowhere where not given.

    Raises:
        RecoveryError: Settings, teacher, plan and model do not fit together; nothing was changed.
        SurgeryError: The plan cannot be dropped; nothing was changed.
        TrainingError: Data and model do not fit, or the loss stopped being a number.
        ResumeError: ``state_dir`` holds the state of another run, or cannot be written.
        LoraError: peft is not installed, or the adapter does not fit the model.

    Examples:
        >>> result = recover(drop(copy.deepcopy(model), "ffn:3"), rows, tokenizer, teacher=model)
    """
    settings, accelerator = settings or RecoverSettings(), accelerator or Accelerator()
    removed = None if plan is None else PruningPlan.of(plan)
    sites = removal_order(model, removed, order, settings)
    teacher = chosen_teacher(model, teacher, settings)
    data = task_data_for(model, train_data, text_columns, label_column, labelled=settings.needs_labels)
    job = make_job(model, data, tokenizer, settings, teacher, sites, accelerator)
    return _recovered(job, model, removed or PruningPlan(), state_dir)


def _recovered(job: Job, model: nn.Module, plan: PruningPlan, state_dir: Path | None) -> RecoverResult:
    """Take every phase with the teacher on its device."""
    with teaching(job.teacher, job.accelerator.device):
        phases = _run(job, model, plan, state_dir)
    return RecoverResult(tuple(phases), len(job.examples), 0 if job.selection is None else len(job.selection))


def _run(job: Job, model: nn.Module, plan: PruningPlan, state_dir: Path | None) -> list[RecoverPhase]:
    """Take every phase that is not on disk already, after the removals that come before it."""
    store = PhaseStore(state_dir, job.fingerprint(model, plan), job.accelerator)
    phases, weights = store.load(job.settings.training.resume)
    finished = len(phases)
    for number in range(len(job.steps)):
        if job.sites:
            remove_site(model, job.sites[number], job.sites[:number], plan)
        if number == finished - 1:
            put_weights(model, weights)
        if number >= finished:
            phases.append(_phase(job, model, number, store.directory(number)))
            store.save(model, phases)
    model.eval()
    return phases


def _phase(job: Job, model: nn.Module, number: int, state_dir: Path | None) -> RecoverPhase:
    """Train for one phase, with its adapter merged at the end."""
    knobs = job.knobs(number)
    loss = job.loss(model)
    validation = job.score(loss) if number == len(job.steps) - 1 else None
    with random_state_kept(knobs.seed), lora_merged(model, job.settings) as trained:
        result = train(
            trained,
            job.examples,
            job.tokenizer,
            knobs,
            accelerator=job.accelerator,
            state_dir=state_dir,
            validation=validation,
            loss_function=loss,
        )
    return RecoverPhase(str(job.sites[number]) if job.sites else None, result)
