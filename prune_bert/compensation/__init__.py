"""Training-free compensation: closed-form fits of what was removed, carried by the stand-ins."""

from prune_bert.compensation.costs import SiteMeasure, measure_sites
from prune_bert.compensation.fitting import compensate
from prune_bert.compensation.result import Compensation, SiteFit
from prune_bert.compensation.settings import CompensationError, CompensationSettings

__all__ = [
    "Compensation",
    "CompensationError",
    "CompensationSettings",
    "SiteFit",
    "SiteMeasure",
    "compensate",
    "measure_sites",
]
