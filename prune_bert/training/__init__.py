"""Gradient training on accelerate: fine-tuning, with checkpoints that resume exactly."""

from prune_bert.training.examples import TrainingExamples, task_examples, training_examples
from prune_bert.training.loop import train
from prune_bert.training.losses import LossFunction, classification_loss, regression_loss
from prune_bert.training.settings import HistoryPoint, TrainingError, TrainResult, TrainSettings
from prune_bert.training.state import ResumeError, clear_checkpoints

__all__ = [
    "HistoryPoint",
    "LossFunction",
    "ResumeError",
    "TrainResult",
    "TrainSettings",
    "TrainingError",
    "TrainingExamples",
    "classification_loss",
    "clear_checkpoints",
    "regression_loss",
    "task_examples",
    "train",
    "training_examples",
]
