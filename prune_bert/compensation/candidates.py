"""Fits of many plans to one slice, as a search needs them: what plans have in common is fitted once.

`PlanFits.whole` is what ``compensate`` gives. `PlanFits.added` is the quick way for plans that each remove one site
more than another: that one is compensated, then every new site is fitted in its place in it, all of them in one pass
over the slice. The fits behind the new site stay as they are, and the ridge is given, not chosen: choosing it is most
of the cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.compensation.fitting import SliceFit, check_slice, runs_of
from prune_bert.compensation.moments import Moments
from prune_bert.compensation.passes import PassOver, Slice, Tokens, go_over_all
from prune_bert.compensation.ports import Port, port_of
from prune_bert.compensation.reading import behind_attention, reads_first_token_alone
from prune_bert.compensation.result import Compensation, SiteFit
from prune_bert.compensation.settings import CompensationSettings
from prune_bert.compensation.site_fit import Ranks, ranks_of
from prune_bert.compensation.solving import Choice
from prune_bert.corrections import FittedSite
from prune_bert.plan import NormRule, PruningPlan, Site
from prune_bert.surgery import Bypass, bypass
from prune_bert.surgery.swaps import Corrections

QUICK_RIDGE = 0.3
QUICK_RANK = 32
_REMEMBERED_FITS = 512
_KEPT_BYTES = 2**30
_MANY_TOKENS = 2**40  # more than any rank needs

_Run = tuple[Site, ...]
# The folds, and the runs up to the one fitted, each with whether it goes by the first token alone.
_Key = tuple[int, NormRule, tuple[tuple[_Run, bool], ...]]


class PlanFits:
    """Fits of plans to one slice, the later ones from what is known of the earlier.

    Args:
        model: The unpruned model; it is as it was after every call.
        examples: The slice, with as many folds as the settings have.
        settings: How to fit.
        dtype: The type in which the model will be stored; the fits are rounded to it.

    Raises:
        CompensationError: The slice is too small.
    """

    def __init__(self, model: nn.Module, examples: Slice, settings: CompensationSettings, dtype: torch.dtype) -> None:
        check_slice(examples.encoded, settings)
        self._model, self._examples, self._settings, self._dtype = model, examples, settings, dtype
        self._reads_first = reads_first_token_alone(model)
        self._in_one_part = dataclasses.replace(examples, folds=1)
        self._known: dict[_Key, tuple[FittedSite, SiteFit, tuple[str, ...]]] = {}

    def check(self, sites: Sequence[Site], norm: NormRule) -> None:
        """Refuse what cannot be fitted at some sites, whatever is in the slice.

        Raises:
            CompensationError: The rank is over the width, or no rank is cheap enough.
            ArchitectureError: The model's family has no such sublayers.
        """
        for site in sites:
            ranks_of(self._settings, port_of(self._model, (site,), norm), _MANY_TOKENS)

    def whole(self, plan: PruningPlan) -> Compensation:
        """Compensate a plan as ``compensate`` does; the sites up to the first new one are fitted already.

        Raises:
            CompensationError: There are too few tokens, or a fit cannot be stored.
        """
        return self._fitted(plan, SliceFit(self._model, self._examples, self._settings, self._dtype, self._reads_first))

    def quick(self, plan: PruningPlan) -> Compensation:
        """Compensate a plan, which may be empty, likewise, but without cross-validation.

        Raises:
            CompensationError: There are too few tokens, or a fit cannot be stored.
        """
        return self._fitted(plan, self._quick())

    def _fitted(self, plan: PruningPlan, work: SliceFit) -> Compensation:
        nn.Module.to(self._model, self._examples.accelerator.device)
        runs = runs_of(plan)
        for number, run in enumerate(runs, start=1):
            key = (work.examples.folds, plan.norm, tuple((one, self._alone(plan, one)) for one in runs[:number]))
            if key not in self._known:
                said = len(work.notes)
                work.fit(plan, run, f"compensate {run[-1]}, {number} of {len(runs)}")
                self._remember(key, (work.corrections[run[-1]], work.fits[run[-1]], tuple(work.notes[said:])))
                continue
            work.corrections[run[-1]], work.fits[run[-1]], notes = self._known[key]
            work.notes += notes
        depth = len(find_encoder(self._model).layers)
        return Compensation(plan, work.corrections, work.fits, tuple(work.notes), num_hidden_layers=depth)

    def added(self, base: PruningPlan, plans: Sequence[PruningPlan]) -> list[Corrections]:
        """Return corrections for plans that each remove one site more than a base does.

        The numbers for a plan do not depend on the others. A layer may take the place of its own sublayers.

        Raises:
            CompensationError: There are too few tokens, or a fit cannot be stored.
        """
        fitted, runs = self.quick(base), [new_run(base, plan) for plan in plans]
        ports = [self._port(run, plan) for run, plan in zip(runs, plans, strict=True)]
        found: list[Corrections] = []
        under = bypass(self._model, base, fitted)
        for number, pass_over in enumerate(self._passes(ports, under)):
            work = self._quick()
            work.fit_at(ports[number], pass_over)
            others = {site: one for site, one in fitted.items() if site in plans[number] and site not in runs[number]}
            found.append(others | work.corrections)
        return found

    def _quick(self) -> SliceFit:
        """Make a fit without cross-validation."""
        model, settings, dtype = self._model, self._settings, self._dtype
        return SliceFit(model, self._in_one_part, settings, dtype, self._reads_first, choose=without_a_look)

    def _passes(self, ports: Sequence[Port], under: Bypass) -> Iterator[PassOver]:
        """Make the passes over the tokens at each site, as many sites at once as the memory holds."""
        tokens = int(self._examples.encoded.lengths.sum()) / self._examples.accelerator.num_processes
        of_a_site = tokens * (12 * ports[0].width + 16)
        at_once = max(1, int(_KEPT_BYTES / of_a_site))
        for start in range(0, len(ports), at_once):
            part = ports[start : start + at_once]
            if of_a_site > _KEPT_BYTES:
                yield self._running(part[0], under)
            else:
                yield from self._remembering(part, under, f"fit {len(ports)} candidates")

    def _remembering(self, ports: Sequence[Port], under: Bypass, description: str) -> list[PassOver]:
        """Go over the slice once, and remember the tokens at each site."""
        kept: list[list[Tokens]] = [[] for _ in ports]

        def keep(tokens: Sequence[Tokens]) -> None:
            for mine, here in zip(kept, tokens, strict=True):
                mine.append(here)

        self._go_over(ports, under, keep, description)
        return [_replay(mine, self._examples.accelerator) for mine in kept]

    def _running(self, port: Port, under: Bypass) -> PassOver:
        """Go over the slice for every pass."""

        def run(collect: Callable[[Tokens], None], words: str) -> None:
            self._go_over([port], under, lambda tokens: collect(tokens[0]), f"fit {port.site}{words}")

        return run

    def _go_over(
        self, ports: Sequence[Port], under: Bypass, collect: Callable[[Sequence[Tokens]], None], description: str
    ) -> None:
        paths = {module: path for path, module in self._model.named_modules()}
        entries = {port: paths[port.entry] for port in ports}
        go_over_all(self._model, self._in_one_part, entries, under, collect, description)

    def _port(self, run: _Run, plan: PruningPlan) -> Port:
        return port_of(self._model, run, plan.norm, first_alone=self._alone(plan, run))

    def _alone(self, plan: PruningPlan, run: _Run) -> bool:
        return self._reads_first and behind_attention(find_encoder(self._model), plan, run)

    def _remember(self, key: _Key, fit: tuple[FittedSite, SiteFit, tuple[str, ...]]) -> None:
        while len(self._known) >= _REMEMBERED_FITS:
            del self._known[next(iter(self._known))]
        self._known[key] = fit


def without_a_look(
    folds: Sequence[Moments], settings: CompensationSettings, ranks: Ranks, metric: torch.Tensor
) -> Choice:
    """Take the settings' ridge, or 0.3, and the largest rank up to 32. The error is nan: it is not known."""
    within = [rank for rank in ranks.allowed if rank <= QUICK_RANK]
    ridge = QUICK_RIDGE if settings.ridge is None else settings.ridge
    return Choice(max(within, default=min(ranks.allowed)), ridge, math.nan)


def new_run(base: PruningPlan, plan: PruningPlan) -> tuple[Site, ...]:
    """Find the site, or the run of layers, that a plan has and its base has not.

    Raises:
        ValueError: There is none, or more than one.
    """
    new = [run for run in runs_of(plan) if run not in runs_of(base)]
    if len(new) != 1:
        raise ValueError(f"{plan} removes not one site more than {base}")
    return new[0]


def _replay(kept: Sequence[Tokens], accelerator: Accelerator) -> PassOver:
    def run(collect: Callable[[Tokens], None], words: str) -> None:
        with torch.inference_mode(), accelerator.autocast():
            for tokens in kept:
                collect(tokens)

    return run
