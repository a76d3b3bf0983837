"""The parts of a report, as plain data: estimates, the model, the task, the plan, rows, what sites cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling import LatencyPoint, ModelSize


class ReportError(UserError, ValueError):
    """A report that cannot be read or written."""


class HasInterval(Protocol):
    """A figure with its interval, such as evaluation's ``MetricValue``."""

    @property
    def value(self) -> float:
        """The figure."""

    @property
    def ci95(self) -> tuple[float, float]:
        """Its 95 % interval, low and high."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None where it is undefined, as a correlation of constants is."""

    value: float | None
    ci95: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", finite(self.value))
        bounds = tuple(finite(bound) for bound in self.ci95 or ())
        object.__setattr__(self, "ci95", None if not bounds or None in bounds else bounds)

    @classmethod
    def all_of(cls, figures: Mapping[str, HasInterval]) -> dict[str, Estimate]:
        """Take over the figures of a score or of a comparison, by metric name."""
        return {name: cls(figure.value, figure.ci95) for name, figure in figures.items()}

    @property
    def measurable(self) -> bool:
        """For a difference: whether its interval excludes 0."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


@dataclass(frozen=True)
class ModelInfo:
    """The model that was pruned, as it was before."""

    name_or_path: str
    model_type: str
    num_hidden_layers: int
    hidden_size: int | None = None
    architecture: str | None = None
    revision: str | None = None
    attn_implementation: str | None = None


@dataclass(frozen=True)
class TaskInfo:
    """What the model was scored on; the first metric is the headline."""

    name: str
    split: str
    n: int
    metrics: tuple[str, ...]
    source: str
    regression: bool = False


@dataclass(frozen=True)
class PlanInfo:
    """What was removed: the plan's text, its sites and its norm rule."""

    text: str
    sites: tuple[Site, ...]
    norm: str

    @classmethod
    def of(cls, plan: PruningPlan) -> PlanInfo:
        """Take over a plan."""
        return cls(text=str(plan), sites=plan.sites, norm=plan.norm)


@dataclass(frozen=True)
class Flips:
    """Predictions that changed sides against the baseline."""

    right_to_wrong: int
    wrong_to_right: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One state of the model: ``baseline``, ``pruned``, ``compensated`` or ``recovered``.

    The first row of a report is the baseline and has no difference, flips or agreement.
    """

    name: str
    metrics: Mapping[str, Estimate]
    n: int
    loss: float | None = None
    difference: Mapping[str, Estimate] | None = None
    flips: Flips | None = None
    agreement: float | None = None
    size: ModelSize | None = None
    latency: tuple[LatencyPoint, ...] = ()
    seconds: float | None = None
    """How long the evaluation took."""
    made_in_seconds: float | None = None
    """How long the fit of a compensation, or the training of a recovery, took."""

    def __post_init__(self) -> None:
        for name in ("loss", "agreement", "seconds", "made_in_seconds"):
            object.__setattr__(self, name, finite(getattr(self, name)))


@dataclass(frozen=True)
class LoadedForm:
    """What the saved model is when it is loaded in one way.

    Attributes:
        name: ``load_pruned`` or ``from_pretrained``.
        same_modules: Whether it has the modules of the report's last row, whose figures are then its own.
        latency: Where it has others: its timings, from the same rounds as the rows'; empty where none were taken.
        size: Where it has others: what it weighs, its zeros included.
    """

    name: str
    same_modules: bool = True
    latency: tuple[LatencyPoint, ...] = ()
    size: ModelSize | None = None


@dataclass(frozen=True)
class SiteCost:
    """What one site of the plan costs when it alone is removed."""

    site: Site
    difference: Mapping[str, Estimate]
    flips: Flips | None = None


@dataclass(frozen=True, kw_only=True)
class CompensatedSite:
    """What stands in the place of one site, how it was fitted, and what it costs against what it replaces.

    Attributes:
        site: Where it stands; of a run of adjacent layers the last.
        form: ``bias``, ``low_rank``, ``neurons`` or ``affine``.
        rank: Of the map; None for a full one.
        neurons: How many of the FFN's own neurons were kept.
        ridge: The strength of the ridge.
        error: The cross-validated squared error, as a share of that of the mean alone.
        tokens: How many tokens it was fitted to.
        parameters: Of the stand-in, with what else stays there; likewise the FLOPs and the median latency.
        replaced_parameters: Of what it replaces; likewise.
    """

    site: Site
    form: str
    rank: int | None = None
    neurons: int = 0
    ridge: float | None = None
    error: float | None = None
    tokens: int | None = None
    parameters: int | None = None
    replaced_parameters: int | None = None
    flops: int | None = None
    replaced_flops: int | None = None
    latency_ms: float | None = None
    replaced_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("ridge", "error", "latency_ms", "replaced_latency_ms"):
            object.__setattr__(self, name, finite(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class RecoveryInfo:
    """How a recovery was trained.

    Attributes:
        method: ``fine_tuning`` or ``distillation``.
        schedule: ``at_once`` or ``gradual``.
        lora_rank: Of the adapter that was merged; 0 where all weights were trained.
        steps: Optimiser steps taken.
        train_samples: Rows trained on.
        selection_samples: Rows set aside to choose the weights by.
        seconds: The whole training took.
        stopped_early: Whether it ended before its last step.
        best_step: The step whose weights were kept, 0 for those it began with; None where none were chosen.
        losses: Step, and the mean training loss since the one before.
        selection_losses: Step, and the loss on the rows set aside.
    """

    method: str
    schedule: str
    steps: int
    train_samples: int
    seconds: float
    lora_rank: int = 0
    selection_samples: int = 0
    stopped_early: bool = False
    best_step: int | None = None
    losses: tuple[tuple[int, float], ...] = ()
    selection_losses: tuple[tuple[int, float], ...] = ()


def finite(value: float | None) -> float | None:
    """Return a plain float, or None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
