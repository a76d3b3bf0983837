"""A search with the fit inside its loop: what each plan is worth once it is compensated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prune_bert.compensation import CompensationSettings
from prune_bert.compensation.candidates import QUICK_RANK, PlanFits
from prune_bert.compensation.passes import Slice
from prune_bert.evaluation import TaskScore, encode
from prune_bert.pipeline.front import Blank, no_correction
from prune_bert.pipeline.plan_values import PlanScorer, Values
from prune_bert.pipeline.search_forward import score_compensated, score_group
from prune_bert.pipeline.search_groups import PlanGroup, groups_of
from prune_bert.pipeline.search_run import SearchRun
from prune_bert.plan import PruningPlan
from prune_bert.search import Journal
from prune_bert.surgery.swaps import Corrections

SECONDS_A_PLAN = 2.5
"""What a plan takes, fit and all, for each second that the unpruned model takes for the slice; measured, roughly."""


def open_fits(run: SearchRun) -> PlanFits | None:
    """Make ready to fit; None where nothing is fitted.

    Raises:
        CompensationError: The slice is too small, the rank is over the width, or no rank is cheap enough.
        ArchitectureError: The family has no such sublayers.
    """
    settings, config = run.choices.compensation, run.config
    if settings is None or run.slices.fitted is None:
        return None
    encoded = encode(run.session.loaded.tokenizer, run.slices.fitted, config.max_seq_length)
    size = config.per_device_eval_batch_size
    examples = Slice(encoded, run.accelerator, size, settings.folds)
    fits = PlanFits(run.model, examples, settings, run.session.loaded.stored_dtype)
    fits.check(run.sites, config.norm)
    return fits


def blank_of(model: nn.Module, settings: CompensationSettings | None) -> Blank:
    """Make what makes corrections of the shapes that fits will have, with random values; of an open rank, 32."""
    if settings is None:
        return no_correction
    shapes: Any = model.config
    open_rank = min(QUICK_RANK, int(shapes.hidden_size))
    return lambda site: settings.blank_at(site, shapes, open_rank)


@dataclass
class CompensatedValues:
    """What plans are worth on the slice that is chosen on, each compensated on the other slice.

    The step of a greedy search is fitted and evaluated together (`groups_of`); the value of a plan then depends on
    its base, too, and the journal keeps it under both. Within one search a plan keeps the first value that it got,
    until `settle` puts that of its fit in full in its place.

    Attributes:
        run: The search.
        scorer: Turns scores into values, and knows how far the search is.
        fits: The fits.
        journal: What is known from before.
        found: The values by plan.
    """

    run: SearchRun
    scorer: PlanScorer
    fits: PlanFits
    journal: Journal
    found: dict[PruningPlan, Values] = field(default_factory=dict)
    _in_full: set[PruningPlan] = field(default_factory=set)

    def __call__(self, plans: Sequence[PruningPlan]) -> list[Values]:
        """Return the values of plans that the search meets together."""
        new = [plan for plan in plans if plan not in self.found]
        for plan in new:
            if not plan:
                self.found[plan] = self.scorer.values_of(self.scorer.baseline)
        for group in groups_of([plan for plan in new if plan]):
            self._evaluate(group)
        return [self.found[plan] for plan in plans]

    def settle(self, plans: Sequence[PruningPlan]) -> bool:
        """Put the values of the fits in full in the place of the quick ones; tell whether there was one to replace."""
        new = [plan for plan in plans if plan and plan not in self._in_full]
        for plan in new:
            self._fully(plan)
        return bool(new)

    def _evaluate(self, group: PlanGroup) -> None:
        if group.base is None:
            for plan in group.plans:
                self._fully(plan)
            return
        keys = {plan: f"{plan} beyond {group.base or 'nothing'}" for plan in group.plans}
        unknown = [plan for plan, key in keys.items() if key not in self.journal.known]
        if unknown:
            scores = self._scores(group.base, unknown)
            values = [self.scorer.values_of(score) for score in scores]
            self.journal.record({keys[plan]: value for plan, value in zip(unknown, values, strict=True)})
        self.found |= {plan: self.journal.known[key] for plan, key in keys.items()}

    def _scores(self, base: PruningPlan, plans: Sequence[PruningPlan]) -> list[TaskScore]:
        run = self.run
        fitted: list[Corrections] = self.fits.added(base, plans)
        return score_group(
            run.config,
            run.model,
            (base, self.fits.quick(base)),
            dict(zip(plans, fitted, strict=True)),
            run.encoded,
            run.accelerator,
            description=self.scorer.told,
            tell=self.scorer.note,
        )

    def _fully(self, plan: PruningPlan) -> None:
        key, run = f"{plan} in full", self.run
        if key not in self.journal.known:
            fitted = {plan: self.fits.whole(plan)}
            told = self.scorer.told
            score = score_compensated(run.config, run.model, fitted, run.encoded, run.accelerator, description=told)[0]
            self.journal.record({key: self.scorer.values_of(score)})
        self.found[plan] = self.journal.known[key]
        self._in_full.add(plan)
