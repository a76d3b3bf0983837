"""The ways in which what a run saves can be loaded: which of them has other modules than the model in memory."""

from __future__ import annotations

import copy

from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint.portable import check_portable
from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.profiling import measure_size
from prune_bert.profiling.inputs import longest_sequence
from prune_bert.report import LoadedForm
from prune_bert.surgery import drop, pruning_record
from prune_bert.surgery.plain_form import plain_model

PLAIN = "from_pretrained"
WITH_STAND_INS = "load_pruned"


def plain_form(run: PruneRun) -> PreTrainedModel | None:
    """Build the model that plain ``from_pretrained`` will make of what is saved, before anything is dropped.

    Returns:
        The model on the run's device; None where it has the modules of the model in memory, and so its speed, and
        where plain transformers cannot load what is saved.
    """
    if run.checkpoint_format != "portable":
        return None
    if run.original is not None:
        return _plain(run, run.model)
    if all(site.component == "layer" for site in run.plan) and not pruning_record(run.model.config).plan.sublayers():
        return None
    pruned = copy.deepcopy(run.model)
    drop(pruned, run.plan, run.fitted)
    return _plain(run, pruned)


def forms_of_saved(run: PruneRun, checkpoint_bytes: int) -> tuple[LoadedForm, ...]:
    """Say for each way of loading what was saved what it has, once it is saved; sizes are measured here."""
    forms = (LoadedForm(WITH_STAND_INS),)
    if run.checkpoint_format != "portable":
        return forms
    plain = _plain(run, run.model)
    if plain is None:
        return (LoadedForm(PLAIN), *forms)
    wanted = max(run.config.profile_sequence_lengths)
    size = measure_size(
        plain,
        sequence_length=min(wanted, longest_sequence(plain) or wanted),
        batch_size=max(run.config.profile_batch_sizes),
        checkpoint_bytes=checkpoint_bytes,
        mixed_precision=run.accelerator.mixed_precision,
    )
    return (*forms, LoadedForm(PLAIN, same_modules=False, latency=run.latency.get(PLAIN, ()), size=size))


def _plain(run: PruneRun, pruned: PreTrainedModel) -> PreTrainedModel | None:
    """Build the plain form of a dropped model, or None where it has none or is that form already."""
    if not pruning_record(pruned.config).current_stand_ins():
        return None
    try:
        check_portable(pruned)
    except CheckpointError:
        return None
    plain = plain_model(pruned)
    nn.Module.to(plain, run.accelerator.device)
    plain.train(False)
    return plain
