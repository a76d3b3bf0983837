"""Races on the calibration slice, whose rows are scored once: what a race has seen of its survivors is their value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prune_bert.evaluation import EncodedTask, TaskScore, encode
from prune_bert.evaluation.evaluating import references_of, score_logits
from prune_bert.evaluation.plans import plain_metrics
from prune_bert.importance.leaving_out import example_losses
from prune_bert.pipeline.plan_values import PlanScorer, divergences
from prune_bert.plan import PruningPlan
from prune_bert.search import Journal, Racing, calibration_batches, journaled_losses

RACE_BATCHES = 8


def racing_with(scorer: PlanScorer, journal: Journal) -> Racing:
    """Make the race of an objective that is a mean over examples: the loss, the agreement or the divergence.

    The values of a plan that has seen every batch go to the journal under the plan, as if it had been evaluated alone.
    """
    n = len(scorer.encoded)
    batches = calibration_batches(n, min(RACE_BATCHES, n), scorer.config.seed)
    raced = _RacedPlans(scorer, journal, batches)
    losses = journaled_losses(raced.losses, journal, scorer.objective)
    return Racing(losses, len(batches), scorer.config.racing_confidence)


class _RacedPlans:
    """The rows that the plans of the race in hand have seen.

    Args:
        scorer: Evaluates plans.
        journal: Gets the values of plans that have seen every row.
        batches: The rows of each batch.
    """

    def __init__(self, scorer: PlanScorer, journal: Journal, batches: Sequence[Sequence[int]]) -> None:
        self._scorer, self._journal = scorer, journal
        self._batches = [np.asarray(rows) for rows in batches]
        self._parts = [_part(scorer.encoded, rows) for rows in batches]
        self._references = references_of(scorer.encoded.data)
        self._seen: dict[PruningPlan, dict[int, NDArray[np.float32]]] = {}

    def losses(self, plans: Sequence[PruningPlan], batch: int) -> Sequence[Sequence[float]]:
        """Return for each plan the loss of every example of a batch."""
        scores = self._scorer.scores(plans, self._parts[batch])
        # the plans of an earlier race, and those that were cut, are let go of
        self._seen = {plan: self._seen.get(plan, {}) for plan in plans}
        for plan, score in zip(plans, scores, strict=True):
            self._seen[plan][batch] = score.logits
        whole = [plan for plan in plans if len(self._seen[plan]) == len(self._batches)]
        if whole:
            self._journal.record({str(plan): self._scorer.values_of(self._score(plan)) for plan in whole})
        return [self._example_losses(score, batch) for score in scores]

    def _score(self, plan: PruningPlan) -> TaskScore:
        """Put the logits of all batches in the order of the slice, and score them."""
        seen, data = self._seen[plan], self._scorer.encoded.data
        logits = np.empty((len(self._scorer.encoded), seen[0].shape[1]), np.float32)
        for batch, part in seen.items():
            logits[self._batches[batch]] = part
        seed = self._scorer.config.seed
        return score_logits(logits, data, 0.0, 0, seed, references=self._references, compute=plain_metrics)

    def _example_losses(self, score: TaskScore, batch: int) -> list[float]:
        baseline, rows = self._scorer.baseline, self._batches[batch]
        if self._scorer.objective == "loss":
            losses = example_losses(score)
        elif self._scorer.objective == "divergence":
            losses = divergences(baseline.logits[rows], score)
        else:
            losses = np.not_equal(score.predictions, baseline.predictions[rows]).astype(float)
        return [float(loss) for loss in losses]


def _part(encoded: EncodedTask, rows: Sequence[int]) -> EncodedTask:
    """Take rows of encoded data."""
    data = dataclasses.replace(encoded.data, dataset=encoded.data.dataset.select(rows))
    return encode(encoded.tokenizer, data, encoded.max_seq_length)
