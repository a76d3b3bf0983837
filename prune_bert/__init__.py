"""Layer pruning for Hugging Face encoders: identity stand-ins that fit, honest accuracy against honest speed.

Names are imported on first use, so that ``import prune_bert`` costs nothing and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Comparison": "evaluation",
    "Compensation": "compensation",
    "CompensationSettings": "compensation",
    "Identity": "stand_ins",
    "LatencyPoint": "profiling",
    "PruningPlan": "plan",
    "PruningReport": "report",
    "RecoverSettings": "recovery",
    "RunConfig": "config",
    "Site": "plan",
    "TaskScore": "evaluation",
    "UserError": "errors",
    "bypass": "surgery",
    "compare": "evaluation",
    "compensate": "compensation",
    "drop": "surgery",
    "evaluate": "evaluation",
    "evaluate_plans": "evaluation",
    "load_model": "checkpoint",
    "load_pruned": "checkpoint",
    "load_task": "tasks",
    "profile_model": "profiling",
    "prune": "pipeline",
    "recover": "recovery",
    "replace_with_identity": "surgery",
    "save_pruned": "checkpoint",
    "score_sites": "importance",
    "search_plans": "search",
}

__all__ = [*sorted(_HOME), "__version__"]

if TYPE_CHECKING:
    from prune_bert.checkpoint import load_model, load_pruned, save_pruned
    from prune_bert.compensation import Compensation, CompensationSettings, compensate
    from prune_bert.config import RunConfig
    from prune_bert.errors import UserError
    from prune_bert.evaluation import Comparison, TaskScore, compare, evaluate, evaluate_plans
    from prune_bert.importance import score_sites
    from prune_bert.pipeline import prune
    from prune_bert.plan import PruningPlan, Site
    from prune_bert.profiling import LatencyPoint, profile_model
    from prune_bert.recovery import RecoverSettings, recover
    from prune_bert.report import PruningReport
    from prune_bert.search import search_plans
    from prune_bert.stand_ins import Identity
    from prune_bert.surgery import bypass, drop, replace_with_identity
    from prune_bert.tasks import load_task


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return sorted(__all__)
