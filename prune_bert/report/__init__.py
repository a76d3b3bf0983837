"""The report of a run: data, and its renderings for people, the terminal, the hub and trackers."""

from __future__ import annotations

from prune_bert.report.model import SCHEMA_PATH, SCHEMA_VERSION, PruningReport, read_report
from prune_bert.report.records import (
    CompensatedSite,
    Estimate,
    Flips,
    LoadedForm,
    ModelInfo,
    PlanInfo,
    RecoveryInfo,
    ReportError,
    Row,
    SiteCost,
    TaskInfo,
)
from prune_bert.report.render import model_card, to_html, to_markdown
from prune_bert.report.terminal import print_table
from prune_bert.report.trackers import tracker_values
from prune_bert.report.writer import write_report

__all__ = [
    "SCHEMA_PATH",
    "SCHEMA_VERSION",
    "CompensatedSite",
    "Estimate",
    "Flips",
    "LoadedForm",
    "ModelInfo",
    "PlanInfo",
    "PruningReport",
    "RecoveryInfo",
    "ReportError",
    "Row",
    "SiteCost",
    "TaskInfo",
    "model_card",
    "print_table",
    "read_report",
    "to_html",
    "to_markdown",
    "tracker_values",
    "write_report",
]
