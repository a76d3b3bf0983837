"""The scorer that asks the question itself: how much the loss rises without the site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from prune_bert.evaluation import TaskScore, evaluate_each
from prune_bert.importance.calibration import Calibration
from prune_bert.importance.scores import Score, mean_scores
from prune_bert.plan import PruningPlan, Site


def loss_increase(calibration: Calibration) -> dict[Site, Score]:
    """Score by the rise of the mean loss when the site alone is removed: leave one out.

    The exact form of what `taylor` approximates, and the measure by which SLEB removes blocks of decoders (Song et al.,
    "SLEB", ICML 2024), without its re-scoring, which is the strategy `greedy`. The plans are evaluated together, so
    that each shares what comes before its site. The interval is that of the paired difference over the examples.
    """
    calibration.labels()  # what is missing is said before the work
    plans = [PruningPlan(), *(PruningPlan((site,), calibration.norm) for site in calibration.sites)]
    losses = np.stack([example_losses(score) for score in _evaluated(calibration, plans)], axis=1)  # (n, plans)
    scores = mean_scores(losses[:, 1:] - losses[:, :1], np.ones(len(losses)))
    return dict(zip(calibration.sites, scores, strict=True))


def _evaluated(calibration: Calibration, plans: Sequence[PruningPlan]) -> list[TaskScore]:
    return evaluate_each(
        calibration.model,
        plans,
        calibration.encoded,
        accelerator=calibration.accelerator,
        batch_size=calibration.batch_size,
        n_resamples=0,
        description=calibration.name,
    )


def example_losses(score: TaskScore) -> NDArray[np.float64]:
    """Return each example's loss, ``(n,)``."""
    logits, targets = torch.from_numpy(score.logits).double(), torch.from_numpy(score.references)
    if not score.num_labels:
        losses = F.mse_loss(logits[:, 0], targets.double(), reduction="none")
    else:
        losses = F.cross_entropy(logits, targets, reduction="none")
    numbers: NDArray[np.float64] = losses.numpy()
    return numbers
