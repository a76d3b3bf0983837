"""The fit of a compensation as a step of a run, and what can be said of it before: that it will fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from prune_bert.compensation import (
    Compensation,
    CompensationSettings,
    SiteFit,
    SiteMeasure,
    compensate,
    measure_sites,
)
from prune_bert.compensation.fitting import runs_of
from prune_bert.compensation.result import WEIGHTS_FILE
from prune_bert.config import CompensationOptions
from prune_bert.evaluation import encode
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling import longest_sequence
from prune_bert.report import CompensatedSite
from prune_bert.surgery import drop
from prune_bert.tasks import TaskData


def dropped_copy(model: PreTrainedModel, plan: PruningPlan, config: CompensationOptions) -> PreTrainedModel:
    """Return a copy of a model that is dropped as the run will drop it, with corrections of random values.

    What cannot work, for the family, the width or the form, is refused here, before minutes of work.

    Raises:
        CorrectionError: The rank is over the width.
        SurgeryError: The plan cannot be dropped.
        ArchitectureError: The family lacks a component.
    """
    blank = {}
    if config.compensation != "none":
        settings = CompensationSettings.from_options(config)
        blank = {run[-1]: settings.blank_at(run[-1], model.config, open_rank=1) for run in runs_of(plan)}
    return cast(PreTrainedModel, drop(copy.deepcopy(model), plan, blank))


def fit_compensation(run: PruneRun) -> None:
    """Fit what the plan removes, or take up the fit that a killed run has left."""
    config, path = run.config, run.workspace.directory / WEIGHTS_FILE

    def compute() -> list[str]:
        fitted = compensate(
            run.model,
            run.plan,
            encode(run.loaded.tokenizer, _slice(run), config.max_seq_length),
            settings=CompensationSettings.from_options(config),
            accelerator=run.accelerator,
            batch_size=config.per_device_eval_batch_size,
            dtype=run.loaded.stored_dtype,
        )
        if run.accelerator.is_main_process:
            fitted.save(path)
        run.accelerator.wait_for_everyone()
        return list(fitted.notes)

    notes = run.workspace.step("compensate", compute, _as_it_is, _as_it_is)
    run.fitted = Compensation.load(path)  # on every process the same, and the same after a resume
    run.notes += [f"the compensation was fitted to {len(_slice(run).dataset):,} rows of {_slice(run).source}", *notes]
    run.made_in_seconds["compensated"] = run.workspace.seconds["compensate"]


def _as_it_is(value: Any) -> Any:
    return value


def _slice(run: PruneRun) -> TaskData:
    if run.calibration is None:
        raise RuntimeError("a run with a compensation has a calibration slice")
    return run.calibration


def measure_compensated_sites(run: PruneRun) -> None:
    """Weigh and time each stand-in with its map against the sublayer that it replaces, on the main process."""
    fitted = run.fitted
    if fitted is None:
        return

    def compute() -> list[dict[str, Any]]:
        measures = _measures(run, fitted) if run.accelerator.is_main_process else {}
        found = [_compensated_site(run, site, fit, measures.get(site)) for site, fit in fitted.fits.items()]
        return [asdict(one) for one in found]

    stored = run.workspace.step("measure compensated sites", compute, _as_it_is, _as_it_is)
    run.compensated_sites = tuple(CompensatedSite(**{**one, "site": Site(**one["site"])}) for one in stored)


def _measures(run: PruneRun, fitted: Compensation) -> Mapping[Site, SiteMeasure]:
    config, model = run.config, nn.Module.to(run.model, run.accelerator.device)
    wanted = max(config.profile_sequence_lengths)
    return measure_sites(
        model,
        run.plan,
        fitted,
        batch_size=max(config.profile_batch_sizes),
        sequence_length=min(wanted, longest_sequence(model) or wanted),
        rounds=config.profile_rounds if config.profile else 1,
        seed=config.seed,
        mixed_precision=run.accelerator.mixed_precision,
    )


def _compensated_site(run: PruneRun, site: Site, fit: SiteFit, measure: SiteMeasure | None) -> CompensatedSite:
    form = "neurons" if fit.neurons else "affine" if fit.rank is None else "low_rank"
    costs: dict[str, Any] = {} if measure is None else asdict(measure)
    if not run.config.profile:
        costs = {name: value for name, value in costs.items() if not name.endswith("latency_ms")}
    return CompensatedSite(
        site=site,
        form=form,
        rank=fit.rank,
        neurons=fit.neurons,
        ridge=fit.ridge,
        error=fit.error,
        tokens=fit.tokens,
        **costs,
    )
