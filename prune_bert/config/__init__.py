"""Every knob, in frozen dataclasses: strict, complete, all faults listed at once.

``load_config(RunConfig, path, overrides)`` reads one, ``dump(config)`` writes it. Importing this loads
neither torch nor pydantic nor yaml.
"""

from prune_bert.config.checking import Config, ConfigError
from prune_bert.config.fields import Group, groups
from prune_bert.config.loading import dump, load_config
from prune_bert.config.options import (
    About,
    BudgetOptions,
    CalibrationOptions,
    ModelOptions,
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
from prune_bert.config.verbs import (
    VERBS,
    BenchmarkConfig,
    EvaluateConfig,
    ReportConfig,
    RunConfig,
    ScoreConfig,
    SearchConfig,
    TrainConfig,
)

__all__ = [
    "VERBS",
    "About",
    "BenchmarkConfig",
    "BudgetOptions",
    "CalibrationOptions",
    "Config",
    "ConfigError",
    "EvaluateConfig",
    "Group",
    "ModelOptions",
    "OutputOptions",
    "ProfileOptions",
    "PruneOptions",
    "ReportConfig",
    "RunConfig",
    "RuntimeOptions",
    "ScoreConfig",
    "ScoreOptions",
    "SearchConfig",
    "SearchOptions",
    "TaskOptions",
    "TrackingOptions",
    "TrainConfig",
    "TrainOptions",
    "dump",
    "groups",
    "load_config",
]
