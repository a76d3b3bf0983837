"""Tasks: what they are made of, their metrics, and loaders for GLUE and for data of the user's own."""

from prune_bert.tasks.alignment import align_labels
from prune_bert.tasks.columns import TaskData
from prune_bert.tasks.loading import load_task
from prune_bert.tasks.metrics import (
    CONFUSION_METRICS,
    CORRELATIONS,
    METRICS,
    LocalMetric,
    compute_metrics,
    confusion_matrix,
)
from prune_bert.tasks.rows import LabelWarning, Rows, as_task_data, task_data_for
from prune_bert.tasks.table import GLUE_TASKS, TaskError, TaskSpec, find_task

__all__ = [
    "CONFUSION_METRICS",
    "CORRELATIONS",
    "GLUE_TASKS",
    "METRICS",
    "LabelWarning",
    "LocalMetric",
    "Rows",
    "TaskData",
    "TaskError",
    "TaskSpec",
    "align_labels",
    "as_task_data",
    "compute_metrics",
    "confusion_matrix",
    "find_task",
    "load_task",
    "task_data_for",
]
