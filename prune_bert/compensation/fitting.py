"""``compensate``: fit a correction for every site of a plan, in forward order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert.architectures import ffn_activation, find_encoder
from prune_bert.compensation.moments import ChannelMoments, Moments, summed_over_processes
from prune_bert.compensation.neurons import Neurons, chosen_neurons, neurons_of
from prune_bert.compensation.passes import PassOver, SitePasses, Slice, Tokens
from prune_bert.compensation.ports import Port, port_of
from prune_bert.compensation.reading import behind_attention, reads_first_token_alone
from prune_bert.compensation.result import Compensation, SiteFit
from prune_bert.compensation.settings import CompensationError, CompensationSettings
from prune_bert.compensation.site_fit import Choose, by_cross_validation, fit_map, ranks_of, rounded, with_norm
from prune_bert.compensation.targets import after_norm, before_norm, channel_weights, normalised
from prune_bert.corrections import FittedSite
from prune_bert.evaluation import EncodedTask
from prune_bert.evaluation.evaluating import fitting_task
from prune_bert.knobs import EVAL_BATCH_SIZE, MAX_SEQ_LENGTH
from prune_bert.plan import PruningPlan, Site
from prune_bert.surgery import bypass, check_droppable
from prune_bert.surgery.snapshot import left_unchanged
from prune_bert.tasks import Rows, TaskData


def compensate(
    model: nn.Module,
    plan: PruningPlan | str,
    data: TaskData | EncodedTask | Rows,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    text_columns: Sequence[str] | str | None = None,
    settings: CompensationSettings | None = None,
    accelerator: Accelerator | None = None,
    batch_size: int = EVAL_BATCH_SIZE.default,
    max_seq_length: int = MAX_SEQ_LENGTH.default,
    dtype: torch.dtype = torch.float32,
) -> Compensation:
    """Fit, without training, what a plan removes: ``bypass`` and ``drop`` take the result beside the plan.

    Site by site in forward order, a map is fitted by least squares from what reaches the site in the model as it is
    compensated so far to what the unpruned model has there; for a LayerNorm that stays, its scale and bias, too.
    Behind the last attention that stays, where a head that reads the first token alone sees no other, that token
    counts a thousand times the others. Labels are not looked at. Only sums over tokens are kept, in float64. Adjacent
    layers are one map, from the first one's input to the last one's output. The model is as it was on leaving.

    Args:
        model: The unpruned model.
        plan: What goes, or its text.
        data: Examples to fit to, best a slice of the training data: as for `evaluate`, without need of labels.
        tokenizer: The model's tokenizer; not needed for an `EncodedTask`.
        text_columns: As for `evaluate`.
        settings: The form of the maps and how they are fitted.
        accelerator: Device, precision and processes; by default a new one.
        batch_size: Examples in a batch of each process.
        max_seq_length: Where longer texts are cut, in tokens; an `EncodedTask` brings its own.
        dtype: The type in which the model will be stored; the fits are rounded to it.

    Raises:
        CompensationError: The plan is empty, the slice is too small, or the rank is over the width.
        SurgeryError: A site is not there, is pruned already, or the model is bypassed at the moment.
        ArchitectureError: The model's family has no such sublayers.

    Examples:
        >>> fitted = compensate(model, "ffn:2,3", rows, tokenizer)
    """
    settings, removed = settings or CompensationSettings(), _with_sites(plan)
    encoded = fitting_task(model, data, tokenizer, max_seq_length, text_columns, labelled=False)
    return _fit(model, removed, encoded, settings, accelerator or Accelerator(), batch_size, dtype)


def _with_sites(plan: PruningPlan | str) -> PruningPlan:
    """Return a plan that removes something.

    Raises:
        CompensationError: It does not.
    """
    removed = PruningPlan.of(plan)
    if not removed:
        raise CompensationError("the plan is empty, so there is nothing to compensate")
    return removed


def _fit(
    model: nn.Module,
    plan: PruningPlan,
    encoded: EncodedTask,
    settings: CompensationSettings,
    accelerator: Accelerator,
    batch_size: int,
    dtype: torch.dtype,
) -> Compensation:
    """Fit all sites of a plan in forward order; see `compensate`."""
    check_slice(encoded, settings)
    check_droppable(model, plan)
    nn.Module.to(model, accelerator.device)
    examples = Slice(encoded, accelerator, batch_size, settings.folds)
    with left_unchanged(model):
        work = SliceFit(model, examples, settings, dtype, reads_first_token_alone(model))
        runs = runs_of(plan)
        for number, run in enumerate(runs, start=1):
            work.fit(plan, run, f"compensate {run[-1]}, {number} of {len(runs)}")
    depth = len(find_encoder(model).layers)
    return Compensation(plan, work.corrections, work.fits, tuple(work.notes), num_hidden_layers=depth)


def check_slice(encoded: EncodedTask, settings: CompensationSettings) -> None:
    """Refuse a slice that has no example for some part of the cross-validation.

    Raises:
        CompensationError: It has not.
    """
    if len(encoded) < settings.folds:
        raise CompensationError(
            f"the calibration slice has {len(encoded)} examples; at least {settings.folds} are needed to fit to"
        )


def runs_of(plan: PruningPlan) -> list[tuple[Site, ...]]:
    """Divide a plan, in forward order, into what one correction stands for: a site, or a run of adjacent ones.

    Sites that leave no LayerNorm between them are one map: adjacent layers and, with ``norm=skip``, sublayers, too.
    """
    runs: list[tuple[Site, ...]] = []
    for site in plan:
        if runs and _follows(runs[-1][-1], site, plan):
            runs[-1] = (*runs[-1], site)
        else:
            runs.append((site,))
    return runs


def _follows(last: Site, site: Site, plan: PruningPlan) -> bool:
    exact = plan.norm == "skip" or last.component == site.component == "layer"
    return exact and _half(last, end=True) + 1 == _half(site, end=False)


def _half(site: Site, *, end: bool) -> int:
    """Number the half of a layer at which a site begins or ends: attention first, then the FFN."""
    return 2 * site.layer + (site.component == "ffn" or (end and site.component == "layer"))


@dataclass
class SliceFit:
    """The fits to one calibration slice, site after site.

    Attributes:
        model: The unpruned model.
        examples: The slice.
        settings: How to fit.
        dtype: The type to which fits are rounded.
        reads_first: Whether the model's head reads the first token alone.
        corrections: What has been fitted.
        fits: How.
        notes: What a reader of the results should know.
        choose: How rank and ridge are chosen.
    """

    model: nn.Module
    examples: Slice
    settings: CompensationSettings
    dtype: torch.dtype
    reads_first: bool
    corrections: dict[Site, FittedSite] = field(default_factory=dict)
    fits: dict[Site, SiteFit] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    choose: Choose = by_cross_validation

    def fit(self, plan: PruningPlan, run: tuple[Site, ...], description: str) -> None:
        """Fit one site of a plan, or a run of layers, after all sites before it."""
        model: Any = self.model
        alone = self.reads_first and behind_attention(find_encoder(model), plan, run)
        port = port_of(model, run, plan.norm, first_alone=alone)
        earlier = bypass(model, PruningPlan(tuple(s for s in plan if s < run[0]), plan.norm), self.corrections)
        self.fit_at(port, SitePasses(model, self.examples, port, earlier, description))

    def fit_at(self, port: Port, pass_over: PassOver) -> None:
        """Fit one site, or a run of layers, from passes over its tokens."""
        refit, after = self.settings.refit_norm and port.norm is not None, self._after(port)
        norm = self._norm_moments(port, pass_over, None) if refit and after else None
        fitted, fit = self._map(port, pass_over, norm, self._neurons(port, pass_over))
        if refit and not after:
            norm = self._norm_moments(port, pass_over, fitted)
        fitted = fitted if norm is None else with_norm(fitted, norm)
        self.corrections[port.site], self.fits[port.site] = rounded(fitted, self.dtype, port.site), fit

    def _after(self, port: Port) -> bool:
        return self.settings.placement == "after" and port.norm is not None

    def _neurons(self, port: Port, pass_over: PassOver) -> Neurons | None:
        """Choose the neurons that stay, of an FFN."""
        if self.settings.form != "neurons" or port.site.component != "ffn":
            return None
        model: Any = self.model
        every = neurons_of(find_encoder(model), port.site, ffn_activation(model.config))
        metric = channel_weights(port, after=False)
        return chosen_neurons(every, self.settings.neurons, metric, pass_over, self._over_processes)

    def _map(
        self, port: Port, pass_over: PassOver, norm: ChannelMoments | None, neurons: Neurons | None
    ) -> tuple[FittedSite, SiteFit]:
        """Fit the map of a site."""
        after, device = self._after(port), self.examples.accelerator.device
        residual = after_norm(port, norm) if after else before_norm(port, neurons)
        features = port.width + (0 if neurons is None else len(neurons))
        folds = [Moments.zeros(features, port.width, device) for _ in range(self.examples.folds)]

        def collect(tokens: Tokens) -> None:
            inputs = tokens.inputs.float()
            if neurons is not None:
                inputs = torch.cat((inputs, neurons.fire(inputs).float()), dim=1)
            targets, weights = residual(tokens)
            for number in range(len(folds)):
                mine = tokens.folds == number
                folds[number] = folds[number] + Moments.of(inputs[mine], targets[mine], weights[mine])

        pass_over(collect, "")
        folds = summed_over_processes(folds, self.examples.accelerator)
        ranks = ranks_of(self.settings, port, int(sum(float(fold.count) for fold in folds)))
        self.notes += [ranks.note] if ranks.note else []
        metric = channel_weights(port, after=after)
        return fit_map(folds, self.settings, ranks, metric, neurons, self.choose)

    def _norm_moments(self, port: Port, pass_over: PassOver, fitted: FittedSite | None) -> ChannelMoments:
        """Sum what the refit of a LayerNorm needs: its normalised input, and the unpruned model's output."""
        device = self.examples.accelerator.device
        sums = [ChannelMoments.zeros(port.width, device)]
        correction = None if fitted is None else copy.deepcopy(fitted.correction).to(device)

        def collect(tokens: Tokens) -> None:
            inputs = tokens.inputs.float()
            if correction is not None:
                inputs = inputs + correction(inputs).float()
            sums[0] = sums[0] + ChannelMoments.of(normalised(inputs, port), tokens.after, tokens.weights)

        pass_over(collect, ", LayerNorm")
        return self._over_processes(sums)[0]

    def _over_processes(self, sums: list[ChannelMoments]) -> list[ChannelMoments]:
        return summed_over_processes(sums, self.examples.accelerator)
