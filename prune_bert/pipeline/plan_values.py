"""What a search minimises, from the evaluation of plans on the calibration slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from prune_bert.config import SearchConfig
from prune_bert.evaluation import EncodedTask, TaskScore, compare, evaluate_each
from prune_bert.plan import PruningPlan
from prune_bert.search import SearchProgress

Values = dict[str, float]
"""Of one plan on the calibration slice: loss, metric, agreement, divergence, drop and drop_worst (in points)."""


Known = Callable[[Sequence[PruningPlan]], Sequence[Values]]
"""Returns the values of plans, found before or now."""


@dataclass
class PlanScorer:
    """Scores plans on the calibration slice, and says on its progress bar how far the search is.

    Attributes:
        config: The settings.
        model: The unpruned model.
        encoded: The calibration slice.
        accelerator: Device, precision and processes.
        baseline: The unpruned model's score on the slice.
        objective: What is minimised.
        told: How far the search is, in words.
        notes: What a reader of the results should know; shared with the search.
    """

    config: SearchConfig
    model: nn.Module
    encoded: EncodedTask
    accelerator: Accelerator
    baseline: TaskScore
    objective: str
    told: str = "search"
    notes: list[str] = field(default_factory=list)

    def values(self, plans: Sequence[PruningPlan]) -> list[Values]:
        """Return what is known of each plan once it has been evaluated; the unpruned model has been already."""
        pruned = [plan for plan in plans if plan]
        scores = dict(zip(pruned, self.scores(pruned, self.encoded), strict=True))
        return [self.values_of(scores.get(plan, self.baseline)) for plan in plans]

    def scores(self, plans: Sequence[PruningPlan], encoded: EncodedTask) -> list[TaskScore]:
        """Evaluate plans."""
        told = self.told
        return score_plans(self.config, self.model, plans, encoded, self.accelerator, description=told, tell=self.note)

    def note(self, words: str) -> None:
        """Keep a note, once."""
        if words not in self.notes:
            self.notes.append(words)

    def tell(self, progress: SearchProgress) -> None:
        """Note how far the search is; the bar of the next evaluation says it."""
        self.told = (
            f"search, {progress.done} of at most {progress.at_most} plans, {progress.seconds:.0f} s, "
            f"at most {progress.seconds_left:.0f} s left"
        )

    def values_of(self, score: TaskScore) -> Values:
        """Return what a score on the calibration slice says of its plan."""
        found = compare(self.baseline, score, n_resamples=self.config.n_resamples, seed=self.config.seed)
        name, metric = next(iter(score.metrics.items()))
        difference = found.differences[name]
        return {
            "loss": score.loss,
            "metric": metric.value,
            "agreement": 0.0 if math.isnan(found.agreement) else found.agreement,  # one number for all agrees with none
            "divergence": float(divergences(self.baseline.logits, score).mean()),
            "drop": -100 * difference.value,
            "drop_worst": -100 * difference.ci95[0],
        }


def divergences(before: NDArray[np.float32], score: TaskScore) -> NDArray[np.float64]:
    """Return what each example's prediction has moved from ``(n, num_outputs)`` logits of the unpruned model, ``(n,)``.

    The Kullback-Leibler divergence from its distribution over the classes; of regression, the squared difference.
    """
    was, now = torch.from_numpy(before).double(), torch.from_numpy(score.logits).double()
    if not score.num_labels:
        moved = (now[:, 0] - was[:, 0]) ** 2
    else:
        was, now = was.log_softmax(-1), now.log_softmax(-1)
        moved = (was.exp() * (was - now)).sum(-1).clamp_min(0)  # rounding can bring it below
    found: NDArray[np.float64] = moved.numpy()
    return found


def objective_of(objective: str, known: Known) -> Callable[[Sequence[PruningPlan]], list[float]]:
    """Make the objective, a loss, from the values of plans."""
    to_loss: dict[str, Callable[[Values], float]] = {
        "loss": lambda values: values["loss"],
        "metric": lambda values: -values["metric"],
        "agreement": lambda values: 1 - values["agreement"],
        "divergence": lambda values: values["divergence"],
    }
    return lambda plans: [to_loss[objective](values) for values in known(plans)]


def score_plans(
    config: Any,
    model: nn.Module,
    plans: Sequence[PruningPlan],
    encoded: EncodedTask,
    accelerator: Accelerator,
    *,
    n_resamples: int = 0,
    description: str = "evaluate plans",
    tell: Callable[[str], None] | None = None,
) -> list[TaskScore]:
    """Evaluate plans with the knobs of a config."""
    return evaluate_each(
        model,
        plans,
        encoded,
        accelerator=accelerator,
        batch_size=config.per_device_eval_batch_size,
        n_resamples=n_resamples,
        seed=config.seed,
        description=description,
        tell=tell,
    )
