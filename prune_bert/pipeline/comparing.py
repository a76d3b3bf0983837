"""The steps that compare a model's states while it can still be put back: scores, timings, sizes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint import directory_bytes, tensor_bytes
from prune_bert.evaluation import EncodedTask, TaskScore, encode
from prune_bert.pipeline.compensating import fit_compensation, measure_compensated_sites
from prune_bert.pipeline.loading_forms import PLAIN, plain_form
from prune_bert.pipeline.measuring import score_model, time_variants, timing_step
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.plan import PruningPlan
from prune_bert.profiling import LatencyPoint, ModelSize, longest_sequence, measure_size
from prune_bert.surgery import bypass


def compare_states(run: PruneRun, *, weigh_last: bool) -> None:
    """Score, time and weigh every state before anything is dropped; a compensation is fitted on the way.

    Args:
        run: The run, which keeps what was found.
        weigh_last: Weigh the last state, too; off where that is the one that will be saved, and weighed then.
    """
    encoded = encode(run.loaded.tokenizer, run.data, run.config.max_seq_length)
    states = run.states()
    for name in ("baseline", "pruned"):
        run.scores[name] = score_state(run, name, states[name], encoded)
    _score_sites(run, encoded)
    if run.config.compensation != "none":
        fit_compensation(run)
        states = run.states()
        run.scores["compensated"] = score_state(run, "compensated", states["compensated"], encoded)
    _time(run, states)
    if run.fitted is not None:
        measure_compensated_sites(run)
    for name in list(states) if weigh_last else list(states)[:-1]:
        run.sizes[name] = _weighed(run, name, states[name])


def score_state(run: PruneRun, name: str, state: AbstractContextManager[Any], encoded: EncodedTask) -> TaskScore:
    """Score one state, as a step of the run."""

    def compute() -> TaskScore:
        with state as model:
            return score_model(run.config, model, encoded, run.accelerator, name)

    return run.workspace.step(f"score {name}".replace(":", "-"), compute, TaskScore.to_dict, TaskScore.from_dict)


def size_of(run: PruneRun, model: PreTrainedModel, checkpoint_bytes: int) -> ModelSize:
    """Weigh a model as it is now."""
    nn.Module.to(model, run.accelerator.device)
    wanted = max(run.config.profile_sequence_lengths)
    return measure_size(
        model,
        sequence_length=min(wanted, longest_sequence(model) or wanted),
        batch_size=max(run.config.profile_batch_sizes),
        checkpoint_bytes=checkpoint_bytes,
        mixed_precision=run.accelerator.mixed_precision,
    )


def _score_sites(run: PruneRun, encoded: EncodedTask) -> None:
    """Score the removal of each site alone; not of a model that came pruned, whose sites are gone."""
    if not run.config.measure_site_costs:
        return
    if run.original is not None:
        run.notes.append("the model came pruned, so what each removed site costs alone was not measured")
        return
    for site in run.plan:
        alone = bypass(run.model, PruningPlan((site,), run.plan.norm))
        same = len(run.plan) == 1
        run.site_scores[site] = run.scores["pruned"] if same else score_state(run, str(site), alone, encoded)


def _time(run: PruneRun, states: dict[str, AbstractContextManager[Any]]) -> None:
    """Time the states in turns, on the main process, and with them the plain form of what will be saved."""
    config = run.config
    if not config.profile:
        return
    grid = (config.profile_batch_sizes, config.profile_sequence_lengths)

    def compute() -> list[LatencyPoint]:
        plain = plain_form(run)
        saved = {} if plain is None else {PLAIN: nullcontext(plain)}
        return time_variants(config, {**states, **saved}, *grid)

    points = timing_step(run.workspace, run.accelerator, "latency", compute)
    for name in dict.fromkeys(point.variant for point in points):
        run.latency[name] = tuple(point for point in points if point.variant == name)
    run.accelerator.wait_for_everyone()


def _weighed(run: PruneRun, name: str, state: AbstractContextManager[Any]) -> ModelSize:
    size = _checkpoint_bytes(run, name, state)
    with state as model:
        return size_of(run, model, size)


def _checkpoint_bytes(run: PruneRun, name: str, state: AbstractContextManager[Any]) -> int:
    """Return what a state that is not saved would weigh on disk, in the form in which the last one is saved.

    A portable checkpoint of a plan with ``norm=keep`` holds removed sublayers as zeros, so only whole layers count.
    """
    if name == "baseline":
        return tensor_bytes(run.baseline.model, run.baseline.stored_dtype)
    if run.original is not None:
        return directory_bytes(Path(run.loaded.name))
    if run.checkpoint_format == "portable" and run.plan.norm == "keep":
        layers = PruningPlan(tuple(site for site in run.plan if site.component == "layer"))
        state = bypass(run.model, layers)
    with state as model:
        return tensor_bytes(model, run.loaded.stored_dtype)
