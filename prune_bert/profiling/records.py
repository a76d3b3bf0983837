"""What a profile is made of: one timing, one size. Plain data that needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from prune_bert.display import Displayed, Shown, number
from prune_bert.errors import UserError


class ProfilingError(UserError, ValueError):
    """A profile that cannot be taken as asked."""


@dataclass(frozen=True, repr=False)
class LatencyPoint(Displayed):
    """How long one forward of one variant takes at one batch size and sequence length.

    ``samples_ms`` holds one figure for each round, in the order in which they were taken. Where a forward
    is very short, a sample is the mean over ``forwards_per_sample`` forwards in a row, and ``p95_ms`` is then
    the 95th percentile of such means.

    Examples:
        >>> baseline, pruned = profile_model(
        ...     {"baseline": model, "pruned": bypass(model, "layer:1-3")},
        ...     batch_sizes=[1], sequence_lengths=[16], rounds=2,
        ... )
        >>> pruned.variant, pruned.p50_ms > 0, pruned.measurable in (True, False)
        ('pruned', True, True)
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

    def _shown(self) -> Shown:
        low, high = map(number, self.speedup_ci95)
        facts = [
            ("batch size", str(self.batch_size)),
            ("tokens", str(self.sequence_length)),
            ("p50", f"{number(self.p50_ms)} ms"),
            ("p95", f"{number(self.p95_ms)} ms"),
            ("throughput", f"{number(self.throughput)} sequences/s"),
            ("speed-up", f"{number(self.speedup)} ({low} to {high})"),
            ("samples", str(len(self.samples_ms))),
        ]
        return Shown(self.variant, facts)

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
