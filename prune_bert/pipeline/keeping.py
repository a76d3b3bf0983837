"""The form in which a pruned model is saved, and its saving."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint import CheckpointError, CheckpointFormat, directory_bytes, save_pruned, tensor_bytes
from prune_bert.checkpoint.portable import check_portable
from prune_bert.compensation.fitting import runs_of
from prune_bert.config import CompensationOptions, PruneOptions, RecoverConfig, RunConfig
from prune_bert.pipeline.comparing import size_of
from prune_bert.pipeline.loading_forms import forms_of_saved
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.plan import PruningPlan, Site
from prune_bert.surgery import Rebuilding


def settled_format(config: PruneOptions, dropped: PreTrainedModel) -> CheckpointFormat | None:
    """Settle in which format a model like this one will be saved.

    Args:
        config: Says which one, or leaves it open: then portable wherever there is such a form.
        dropped: A model with the same stand-ins.

    Returns:
        The format, or None where nothing will be saved.

    Raises:
        CheckpointError: The portable one was asked for, and there is none.
    """
    if not config.save_model:
        return None
    if config.checkpoint_format == "compact" or (config.checkpoint_format is None and portable_obstacle(dropped)):
        return "compact"
    check_portable(dropped)
    return "portable"


def check_savable(config: RunConfig | RecoverConfig, model: PreTrainedModel, plan: PruningPlan | None) -> None:
    """Refuse a plan without whose layers the model could not be saved, in any format, before anything is computed.

    Args:
        config: Says whether anything will be saved.
        model: The model.
        plan: What goes; None where the model came pruned, and stays as it is.

    Raises:
        CheckpointError: It says which layer would come to stand where, and what could go instead.
    """
    if not config.save_model:
        return
    obstacle = Rebuilding(model).obstacle(plan, () if plan is None else standing_sites(config, plan))
    if obstacle:
        what = "as it is" if plan is None else f"without {plan}"
        raise CheckpointError(f"the model cannot be saved {what}: {obstacle}; or pass --save_model false")


def standing_sites(config: CompensationOptions, plan: PruningPlan) -> tuple[Site, ...]:
    """List the sites of a plan that leave a stand-in with a correction."""
    return () if config.compensation == "none" else tuple(run[-1] for run in runs_of(plan))


def portable_obstacle(model: PreTrainedModel) -> str:
    """Say why a dropped model has no portable form; nothing where it has one."""
    try:
        check_portable(model)
    except CheckpointError as error:
        return str(error).partition(";")[0]
    return ""


def save_and_weigh(run: PruneRun, name: str) -> None:
    """Save the model as the state that it is in, and weigh it."""
    loaded, directory, size = run.loaded, run.workspace.directory / "model", None
    if run.checkpoint_format is not None:
        run.checkpoint_format = _final_format(run)
        if run.accelerator.is_main_process:
            nn.Module.to(loaded.model, dtype=loaded.stored_dtype)  # exact: see `round_to_stored`
            run.workspace.remove("model")
            save_pruned(loaded.model, directory, loaded.tokenizer, run.checkpoint_format)
            nn.Module.to(loaded.model, dtype=torch.float32)
        run.accelerator.wait_for_everyone()
        size = directory_bytes(directory)
        run.loaded_with = forms_of_saved(run, size)
    run.sizes[name] = size_of(run, loaded.model, size or tensor_bytes(loaded.model, loaded.stored_dtype))


def round_to_stored(run: PruneRun) -> None:
    """Round trained weights to the type of the checkpoint, so that what is scored is what is saved."""
    if run.loaded.stored_dtype == torch.float32:
        return
    for dtype in (run.loaded.stored_dtype, torch.float32):
        nn.Module.to(run.loaded.model, dtype=dtype)
    run.notes.append(f"the trained weights were rounded to {run.loaded.stored_dtype}, in which the model came")


def _final_format(run: PruneRun) -> CheckpointFormat:
    """Look again at the format, now that every rank is known, and say where it is not the usual one."""
    obstacle = portable_obstacle(run.loaded.model)
    if run.config.checkpoint_format is not None or not obstacle:
        return "compact" if run.checkpoint_format == "compact" else "portable"
    run.notes.append(f"{obstacle}: the model is saved in the compact format, which prune_bert.load_pruned loads")
    return "compact"
