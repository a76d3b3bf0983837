"""What a profile is made of: one timing, one size. Plain data that needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from prune_bert.errors import UserError


class ProfilingError(UserError, ValueError):
    """A profile that cannot be taken as asked."""


@dataclass(frozen=True)
class LatencyPoint:
    """How long one forward of one variant takes at one batch size and sequence length.

    ``samples_ms`` holds one figure for each round, in the order in which they were taken. Where a forward
    is very short, a sample is the mean over ``forwards_per_sample`` forwards in a row, and ``p95_ms`` is then
    the 95th percentile of such means.
    """

    variant: str
    batch_size: int
    sequence_length: int
    p50_ms: float
    p95_ms: float
    throughput: float
    """Sequences per second at ``p50_ms``."""
    samples_ms: tuple[float, ...]
    speedup: float
    """Median of the baseline over the median of this variant; above 1 is faster."""
    speedup_ci95: tuple[float, float]
    forwards_per_sample: int = 1

    @property
    def measurable(self) -> bool:
        """Whether the interval of the speed-up excludes 1."""
        low, high = self.speedup_ci95
        return low > 1 or high < 1


@dataclass(frozen=True)
class ModelSize:
    """What a model weighs.

    ``flops`` is for one sequence of ``sequence_length`` tokens (a multiply and an add are two); the peak
    memory is for ``batch_size`` of them.
    """

    parameters: int
    flops: int
    checkpoint_bytes: int | None = None
    peak_memory_bytes: int | None = None
    sequence_length: int | None = None
    batch_size: int | None = None
