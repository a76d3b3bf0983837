"""Evaluation: a model's score on a task with its uncertainty, and the comparison of two."""

from prune_bert.evaluation.encoding import (
    EncodedTask,
    EvaluationError,
    check_sequence_length,
    encode,
    length_sorted_batches,
)
from prune_bert.evaluation.evaluating import compare, evaluate
from prune_bert.evaluation.plan_tree import count_layer_passes
from prune_bert.evaluation.plans import evaluate_each, evaluate_plans
from prune_bert.evaluation.progress import with_progress
from prune_bert.evaluation.scores import Comparison, MetricValue, TaskScore

__all__ = [
    "Comparison",
    "EncodedTask",
    "EvaluationError",
    "MetricValue",
    "TaskScore",
    "check_sequence_length",
    "compare",
    "count_layer_passes",
    "encode",
    "evaluate",
    "evaluate_each",
    "evaluate_plans",
    "length_sorted_batches",
    "with_progress",
]
