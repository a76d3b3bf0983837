"""The slice of the training rows that decides when to stop and which weights are the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from prune_bert.evaluation import length_sorted_batches
from prune_bert.recovery.settings import RecoverSettings
from prune_bert.tasks import TaskData
from prune_bert.training import LossFunction, TrainingExamples


def set_aside(data: TaskData, settings: RecoverSettings) -> tuple[TaskData, TaskData | None]:
    """Divide training rows into those to train on and the slice, which is evenly spaced over them."""
    rows = len(data.dataset)
    if not settings.selects or rows < 2:
        return data, None
    count = max(1, min(int(settings.selection_fraction * rows), settings.selection_samples or rows))
    # the middle of each of as many equal stretches
    held_out = ((np.arange(count) + 0.5) * rows / count).astype(int)
    trained = np.setdiff1d(np.arange(rows), held_out)
    return tuple(replace(data, dataset=data.dataset.select(part)) for part in (trained, held_out))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class SelectionScore:
    """Scores a model by the loss that recovery minimises, its mean over the slice, with the sign turned.

    The loss, not the task's metric: on a few hundred rows the metric moves in steps of a fifth of a point and ties
    are common, while the loss is smooth, exists without labels, and is what the teacher's outputs are matched by.
    The distance of hidden states is left out: it is a means only.
    """

    examples: TrainingExamples
    loss_function: LossFunction
    batch_size: int
    accelerator: Accelerator

    def __call__(self, model: nn.Module) -> float:
        """Return the score of a model in evaluation mode, the same on every process."""
        batches = length_sorted_batches(self.examples.encoded, self.batch_size)
        total = 0.0
        with torch.no_grad():
            for indices in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
                batch = self.examples.batch(indices)
                batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
                total += float(self.loss_function(model, batch).double().sum())
        return -float(sum(gather_object([total]))) / len(self.examples.labels)

    def fingerprint(self) -> dict[str, Any]:
        """Return which rows decide."""
        return {"selection examples": self.examples.fingerprint()}
