"""The configuration of each verb, composed of the groups in ``options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from prune_bert.config.checking import Config
from prune_bert.config.compensating import CompensationOptions
from prune_bert.config.options import (
    ABOUT_PLAN,
    About,
    BudgetOptions,
    CalibrationOptions,
    ModelOptions,
    NormOptions,
    OutputOptions,
    ProfileOptions,
    PruneOptions,
    RuntimeOptions,
    ScoreOptions,
    SearchOptions,
    TaskOptions,
    TrackingOptions,
    TrainOptions,
)
from prune_bert.config.recovering import RecoverOptions


@dataclass(frozen=True, kw_only=True)
class RunConfig(
    ModelOptions,
    TaskOptions,
    PruneOptions,
    CompensationOptions,
    CalibrationOptions,
    RuntimeOptions,
    ProfileOptions,
    OutputOptions,
    TrackingOptions,
    Config,
):
    """Remove what a plan names, and report accuracy against speed.

    Examples:
        >>> config = RunConfig(model_name_or_path="embedded", task_name="sst2", plan="ffn:3", output_dir="out")
        >>> config.compensation
        'none'
    """


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ModelOptions, TaskOptions, RuntimeOptions, OutputOptions, Config):
    """Score a model on a task, whole or with a plan's sites bypassed."""

    plan: str | None = field(default=None, metadata=ABOUT_PLAN)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ModelOptions, RuntimeOptions, ProfileOptions, OutputOptions, Config):
    """Measure a model's latency with and without a plan's sites; needs no task."""

    plan: str = field(metadata=ABOUT_PLAN)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelOptions, TaskOptions, TrainOptions, RuntimeOptions, OutputOptions, TrackingOptions, Config):
    """Fine-tune a model on a task, all of it or a LoRA adapter, and score it."""


@dataclass(frozen=True, kw_only=True)
class RecoverConfig(
    ModelOptions,
    TaskOptions,
    PruneOptions,
    CompensationOptions,
    CalibrationOptions,
    RecoverOptions,
    RuntimeOptions,
    ProfileOptions,
    OutputOptions,
    TrackingOptions,
    Config,
):
    """Remove what a plan names, train the rest to get back what that cost, and report accuracy against speed."""

    plan: str | None = field(  # type: ignore[assignment]  # frozen, so wider is no harm
        default=None,
        metadata=About(
            help="the sites to remove, such as 'attention:4 ffn:0,2'; none: the model is pruned already",
            metavar="SITES",
            may_be_empty=True,
        ),
    )
    teacher_name_or_path: str | None = field(
        default=None,
        metadata=About(
            help="the unpruned model, for distillation and as the baseline, where the model is pruned already",
            metavar="DIR_OR_ID",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(
    ModelOptions,
    TaskOptions,
    ScoreOptions,
    NormOptions,
    CalibrationOptions,
    RuntimeOptions,
    OutputOptions,
    Config,
):
    """Score what each layer and sublayer is worth on a task, by one or more published scorers."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(
    ModelOptions,
    TaskOptions,
    BudgetOptions,
    SearchOptions,
    NormOptions,
    CompensationOptions,
    CalibrationOptions,
    RuntimeOptions,
    OutputOptions,
    Config,
):
    """Find the plans on the front of accuracy against latency, and the best within a budget."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(OutputOptions, Config):
    """Render a finished run's report.json again."""

    report: str = field(metadata=About(help="path to a report.json", metavar="FILE"))


VERBS: Mapping[str, type[Config]] = MappingProxyType(
    {
        "prune": RunConfig,
        "evaluate": EvaluateConfig,
        "benchmark": BenchmarkConfig,
        "train": TrainConfig,
        "score": ScoreConfig,
        "search": SearchConfig,
        "recover": RecoverConfig,
        "report": ReportConfig,
    }
)
