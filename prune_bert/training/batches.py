"""The order in which a training run sees its examples: shuffled, yet batches hold examples of like length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BUCKET_BATCHES = 64


@dataclass(frozen=True)
class BatchOrder:
    """A deterministic order of micro-batches for every epoch, the same on every process.

    An epoch is shuffled by its own seed, sorted by length within buckets of 64 micro-batches (so that padding
    to a batch's longest costs little), cut into micro-batches, and these are shuffled again. One optimiser
    step takes ``batches_per_step`` of them (processes times accumulation), so that two processes see what one
    process with twice the accumulation sees. Every example comes once in an epoch: the last micro-batch may
    be short, and the last step may hold fewer micro-batches.
    """

    lengths: np.ndarray  # (examples,)
    batch_size: int
    batches_per_step: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """How many micro-batches one epoch has."""
        return math.ceil(len(self.lengths) / self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """How many optimiser steps one epoch has."""
        return math.ceil(self.batches_per_epoch / self.batches_per_step)

    def epoch(self, number: int) -> list[list[np.ndarray]]:
        """Return the steps of an epoch, each a list of micro-batches of example indices."""
        random = np.random.default_rng((self.seed, number))
        shuffled = random.permutation(len(self.lengths))
        bucket_size = BUCKET_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(shuffled), bucket_size):
            bucket = shuffled[start : start + bucket_size]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            batches += [bucket[cut : cut + self.batch_size] for cut in range(0, len(bucket), self.batch_size)]
        batches = [batches[index] for index in random.permutation(len(batches))]
        return [
            batches[start : start + self.batches_per_step] for start in range(0, len(batches), self.batches_per_step)
        ]


def share(step: list[np.ndarray], process: int, processes: int, count: int) -> list[tuple[np.ndarray, float]]:
    """Return the ``count`` micro-batches of a step that fall to one process, each with its weight.

    The weight is for the *sum* of a micro-batch's losses: with it, gradients averaged over processes and
    summed over accumulation are those of the mean over all examples of the step, however uneven the shares.
    A process with nothing left repeats one example at weight 0, because every process must take part in
    every exchange of gradients.
    """
    weight = processes / sum(len(batch) for batch in step)
    mine = [(batch, weight) for batch in step[process::processes]]
    return mine + [(step[0][:1], 0.0)] * (count - len(mine))


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the linear warm-up and decay at a step counted from 0, as in transformers' linear schedule.

    A function of the step alone, so that a resumed run has nothing to restore.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
