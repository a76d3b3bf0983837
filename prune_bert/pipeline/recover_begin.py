"""What ``recover`` starts with, and every mistake that can be told before minutes of work."""

from __future__ import annotations

import copy

from accelerate import Accelerator
from transformers import PreTrainedModel

from prune_bert.checkpoint import LoadedModel, load_model
from prune_bert.compensation import CompensationSettings
from prune_bert.config import RecoverConfig
from prune_bert.pipeline.calibration import CalibrationSession, calibration_slice, open_with_train
from prune_bert.pipeline.compensating import dropped_copy
from prune_bert.pipeline.fingerprints import Fingerprints, data_fingerprint, model_fingerprint
from prune_bert.pipeline.keeping import check_savable, settled_format
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.pipeline.session import model_settings, open_accelerator, read_plan
from prune_bert.pipeline.workspace import STATE, Workspace, working_directory
from prune_bert.plan import PruningPlan
from prune_bert.profiling import check_length
from prune_bert.recovery import RecoverSettings, RecoveryError
from prune_bert.recovery.adapters import lora_merged
from prune_bert.recovery.distillation import check_teacher, shared_layers
from prune_bert.recovery.jobs import make_job
from prune_bert.surgery import check_droppable, pruning_record
from prune_bert.tasks import TaskData
from prune_bert.training.run import random_state_kept


def begin_recovery(config: RecoverConfig, command: str) -> tuple[PruneRun, TaskData]:
    """Load everything, refuse what cannot work, and open the working directory.

    Returns:
        The run, and the rows to train on.

    Raises:
        UserError: A subclass, for whatever the user can mend.
    """
    settings = RecoverSettings.from_options(config)
    check_choices(config)
    plan = None if config.plan is None else read_plan(config.plan)
    config, accelerator, notes = open_accelerator(config, config.report_to, working_directory(config.output_dir))
    workspace = Workspace(config, accelerator)
    original = None if config.teacher_name_or_path is None else _load_original(config, config.teacher_name_or_path)
    session = _open(config, accelerator, settings, original)
    loaded = session.loaded
    _check_pruned(config, loaded.model, original)
    gone = pruning_record(loaded.model.config).plan if plan is None else plan
    check_savable(config, loaded.model, plan)
    dropped = loaded.model if plan is None else _tried(config, loaded.model, plan)
    baseline = loaded if original is None else original
    _check_training(session, settings, gone, (dropped, baseline.model), accelerator)
    if config.profile:
        check_length(baseline.model, max(config.profile_sequence_lengths))
    checkpoint_format = settled_format(config, dropped)
    calibration, said = (None, ()) if config.compensation == "none" else calibration_slice(config, session)
    run = PruneRun(
        config,
        command,
        gone,
        accelerator,
        workspace,
        loaded,
        session.validation,
        checkpoint_format,
        depth=int(baseline.model.config.num_hidden_layers),
        original=original,
        calibration=calibration,
        notes=[*notes, *session.notes, *said],
    )
    _open_workspace(run, plan, session.calibration)
    return run, session.calibration


def check_choices(config: RecoverConfig) -> None:
    """Refuse choices that exclude each other.

    Raises:
        RecoveryError: There are such.
    """
    if config.compensation != "none":
        CompensationSettings.from_options(config)
        if config.schedule == "gradual":
            raise RecoveryError(
                "schedule gradual removes sites one by one, and a compensation is fitted to all that is gone at once: "
                "give --compensation none, or --schedule at_once"
            )
    if config.teacher_name_or_path is None:
        return
    if config.plan is not None:
        raise RecoveryError(
            "with --plan the model itself, as it is before, is the baseline and the teacher: leave out "
            "--teacher_name_or_path, or, for a model that is pruned already, --plan"
        )
    if config.schedule == "gradual":
        raise RecoveryError(
            "schedule gradual removes the sites of a plan one by one, and --teacher_name_or_path goes with a model "
            "that is pruned already: give the unpruned model and --plan, or --schedule at_once"
        )
    if config.compensation != "none":
        raise RecoveryError(
            "a compensation is fitted to what the unpruned model computes before its sites go, and "
            "--teacher_name_or_path goes with a model that is pruned already: give the unpruned model and --plan"
        )


def _load_original(config: RecoverConfig, name: str) -> LoadedModel:
    """Load the unpruned model; its tokenizer is the pruned one's."""
    settings = model_settings(config) | {"revision": "main"}
    return load_model(name, **settings | {"tokenizer_name": config.tokenizer_name or config.model_name_or_path})


def _open(
    config: RecoverConfig, accelerator: Accelerator, settings: RecoverSettings, original: LoadedModel | None
) -> CalibrationSession:
    return open_with_train(
        config,
        accelerator,
        "training",
        config.max_train_samples,
        needs_labels=settings.needs_labels,
        labeller=original,
    )


def _check_pruned(config: RecoverConfig, model: PreTrainedModel, original: LoadedModel | None) -> None:
    """Refuse a model that is pruned without its origin, one that is not without a plan, and a teacher of another kind.

    Raises:
        RecoveryError: It is one of these.
    """
    record, name = pruning_record(model.config), config.model_name_or_path
    if original is None:
        if config.plan is None and not record.plan:
            raise RecoveryError(f"{name!r} is not pruned, and no plan says what to remove: give --plan")
        if config.plan is None:
            raise RecoveryError(
                f"{name!r} is pruned already ({record.plan}): give the model as it was before with "
                "--teacher_name_or_path, to compare with and to learn from"
            )
        return
    if not record.plan:
        raise RecoveryError(
            f"--teacher_name_or_path goes with a model that is pruned already, and {name!r} is not: give --plan instead"
        )
    taught = pruning_record(original.model.config)
    if taught.plan or taught.original_num_hidden_layers != record.original_num_hidden_layers:
        found = (
            f"is pruned itself ({taught.plan})" if taught.plan else f"has {taught.original_num_hidden_layers} layers"
        )
        raise RecoveryError(
            f"{original.name!r} {found}, so it is not {name!r} as it was before pruning, with its "
            f"{record.original_num_hidden_layers} layers: give that model as --teacher_name_or_path"
        )
    check_teacher(model, original.model, config.hidden_weight)


def _tried(config: RecoverConfig, model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    check_droppable(model, plan)
    return dropped_copy(model, plan, config)


def _check_training(
    session: CalibrationSession,
    settings: RecoverSettings,
    plan: PruningPlan,
    models: tuple[PreTrainedModel, PreTrainedModel],
    accelerator: Accelerator,
) -> None:
    """Refuse too few rows, too few steps, a label too many, hidden states without a match, an adapter without a place.

    Args:
        session: The rows.
        settings: How to train.
        plan: What goes.
        models: The dropped one, and the unpruned one.
        accelerator: Device, precision and processes.

    Raises:
        UserError: A subclass, for each.
    """
    dropped, unpruned = models
    sites = tuple(plan) if settings.schedule == "gradual" else ()
    make_job(dropped, session.calibration, session.loaded.tokenizer, settings, None, sites, accelerator)
    if settings.hidden_weight > 0:
        shared_layers(dropped, unpruned)
    if settings.lora_rank:
        with random_state_kept(settings.training.seed), lora_merged(copy.deepcopy(dropped), settings):
            pass


def _open_workspace(run: PruneRun, plan: PruningPlan | None, train: TaskData) -> None:
    """Open the working directory; what is only reported on has no say in whether the training goes on."""
    models = {"model": model_fingerprint(run.model, run.loaded.tokenizer)}
    if run.original is not None:
        models["teacher"] = model_fingerprint(run.original.model, run.original.tokenizer)
    fingerprints = Fingerprints(run.config, run.accelerator, models, plan)
    learnt_from = {"train": train} | ({} if run.calibration is None else {"calibration": run.calibration})
    digests = {use: data_fingerprint(rows) for use, rows in learnt_from.items()}
    run.workspace.open(
        fingerprints.of_steps(digests | {"validation": data_fingerprint(run.data)}),
        resume=bool(getattr(run.config, "resume", True)),
        precious=STATE,
        training=fingerprints.of_training(digests),
    )
