"""Latency of several variants of a model, measured in turns so that drift hits all of them alike."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import stats
from torch import Tensor, nn

from prune_bert.knobs import (
    N_RESAMPLES,
    PROFILE_BATCH_SIZES,
    PROFILE_ROUNDS,
    PROFILE_SEQUENCE_LENGTHS,
    PROFILE_WARMUP,
    SEED,
    short,
)
from prune_bert.profiling.inputs import random_inputs
from prune_bert.profiling.records import LatencyPoint, ProfilingError
from prune_bert.profiling.running import Clock, check_precision, clock_for, device_of, eval_mode, forward

Variant: TypeAlias = Callable[[], AbstractContextManager[nn.Module]]
"""A context that can be entered again and again and yields the model to run, such as a bypass."""
MakeInputs: TypeAlias = Callable[[nn.Module, int, int], Mapping[str, Tensor]]
"""``make_inputs(model, batch_size, sequence_length)``: the keyword arguments of one forward."""

SHORTEST_SAMPLE_MS = 5.0
"""A sample lasts at least this long, so that the clock's own noise is well below a hundredth of it."""
SETTLED_BELOW_MS = 50.0
"""A forward shorter than this is preceded by an untimed one, since another variant emptied the caches."""
_NUMBERS_AT_ONCE = 2_000_000  # that a bootstrap holds


def profile_model(
    variants: Mapping[str, Variant | AbstractContextManager[nn.Module] | nn.Module],
    *,
    batch_sizes: Sequence[int] = PROFILE_BATCH_SIZES.default,
    sequence_lengths: Sequence[int] = PROFILE_SEQUENCE_LENGTHS.default,
    rounds: int = PROFILE_ROUNDS.default,
    warmup: int = PROFILE_WARMUP.default,
    device: torch.device | str | None = None,
    mixed_precision: str = "no",
    seed: int = SEED.default,
    n_resamples: int = N_RESAMPLES.default,
    make_inputs: MakeInputs | None = None,
    progress: bool = False,
    clock: Clock | None = None,
) -> list[LatencyPoint]:
    """Time every variant at every batch size and sequence length; the first variant is the baseline.

    There is a point for each setting and variant, settings outermost. Each round times each variant once, in an order
    that changes, so that drift hits all of them. The speed-up is the ratio of the medians with a 95 % percentile-
    bootstrap interval over rounds, the samples of a round resampled together (Efron and Tibshirani 1993, section 13.3).

    Args:
        variants: Name to module, to a bypass or another context that yields one, or to a maker of contexts.
        batch_sizes: Sequences in a forward.
        sequence_lengths: Tokens in a sequence, no padding among them.
        rounds: Samples of each variant at each setting; two or more.
        warmup: Untimed forwards of each variant at each setting; at least one is run.
        device: Where the inputs go; None means where the model is.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``, by autocast.
        seed: Draws the token ids and the bootstrap.
        n_resamples: Bootstrap resamples.
        make_inputs: Makes the inputs in place of random token ids.
        progress: Show progress on stderr.
        clock: Runs and times the forwards of a sample; None means the clock of the device.

    Raises:
        ProfilingError: No variants, an empty grid, too few rounds, or a length the model cannot take.

    Examples:
        >>> points = profile_model({"baseline": model, "pruned": bypass(model, "layer:1-3")}, rounds=2)
    """
    _check(variants, batch_sizes, sequence_lengths, rounds, warmup, mixed_precision)
    make, grid = make_inputs or _seeded_inputs(device, seed), list(product(batch_sizes, sequence_lengths))
    contexts, points = {name: _as_context(one) for name, one in variants.items()}, list[LatencyPoint]()
    with _progress(progress, total=len(grid) * rounds) as tick:
        for batch_size, length in grid:
            bench = _Bench(contexts, batch_size, length, make, device, mixed_precision, clock)
            samples = bench.sample(rounds, forwards := bench.warm_up(warmup), tick)
            points += _summarise(samples, batch_size, length, forwards, seed, n_resamples)
    return points


def round_order(names: Sequence[str], round_index: int) -> list[str]:
    """Return the order in which a round times the variants.

    The start moves on by one each round and the direction turns after each full cycle: for two variants
    AB BA BA AB, in which a steady drift cancels.
    """
    start = round_index % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if round_index // len(names) % 2 else order


def speedup_interval(
    baseline_ms: Sequence[float],
    variant_ms: Sequence[float],
    *,
    n_resamples: int = N_RESAMPLES.default,
    seed: int = SEED.default,
) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of medians, the two samples of a round resampled together."""
    result = stats.bootstrap(
        (np.asarray(baseline_ms), np.asarray(variant_ms)),
        lambda a, b, axis=-1: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _NUMBERS_AT_ONCE // len(baseline_ms)),
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Collect garbage once, then not again until the block is left."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Bench:
    """All variants at one setting of the grid, ready to be timed in any order."""

    def __init__(
        self,
        contexts: Mapping[str, Variant],
        batch_size: int,
        sequence_length: int,
        make_inputs: MakeInputs,
        device: torch.device | str | None,
        mixed_precision: str,
        clock: Clock | None,
    ) -> None:
        self.contexts = contexts
        self.mixed_precision = mixed_precision
        with next(iter(contexts.values()))() as baseline:
            self.device = torch.device(device) if device is not None else device_of(baseline)
            self.inputs: Mapping[str, Any] = make_inputs(baseline, batch_size, sequence_length)
        self.clock = clock or clock_for(self.device)
        self.untimed = 0

    def warm_up(self, warmup: int) -> int:
        """Run each variant ``warmup`` times; return how many forwards make a sample long enough to time."""
        fastest_ms = min(self.time(name, 1) for name in self.contexts for _ in range(max(warmup, 1)))
        self.untimed = int(fastest_ms < SETTLED_BELOW_MS)
        return max(1, math.ceil(SHORTEST_SAMPLE_MS / max(fastest_ms, 1e-3)))

    def sample(self, rounds: int, forwards: int, tick: Callable[[], None]) -> dict[str, list[float]]:
        """Time every variant once a round; milliseconds for one forward, by variant, in round order."""
        samples: dict[str, list[float]] = {name: [] for name in self.contexts}
        with gc_paused():
            for round_index in range(rounds):
                for name in round_order(list(self.contexts), round_index):
                    samples[name].append(self.time(name, forwards) / forwards)
                tick()
        return samples

    def time(self, name: str, forwards: int) -> float:
        """Enter one variant and return how long ``forwards`` of it take, in milliseconds."""
        with self.contexts[name]() as model, eval_mode(model):

            def run() -> None:
                forward(model, self.inputs, self.device, self.mixed_precision)

            for _ in range(self.untimed):
                run()
            return self.clock(run, forwards)


def _summarise(
    samples: Mapping[str, Sequence[float]],
    batch_size: int,
    sequence_length: int,
    forwards_per_sample: int,
    seed: int,
    n_resamples: int,
) -> Iterator[LatencyPoint]:
    """Turn the samples of one setting into points."""
    baseline = next(iter(samples))
    baseline_p50_ms = float(np.median(samples[baseline]))
    for name, taken_ms in samples.items():
        p50_ms = float(np.median(taken_ms))
        interval = (1.0, 1.0)
        if name != baseline:
            interval = speedup_interval(samples[baseline], taken_ms, n_resamples=n_resamples, seed=seed)
        yield LatencyPoint(
            variant=name,
            batch_size=batch_size,
            sequence_length=sequence_length,
            p50_ms=p50_ms,
            p95_ms=float(np.percentile(taken_ms, 95)),
            throughput=batch_size / p50_ms * 1e3,
            samples_ms=tuple(float(sample) for sample in taken_ms),
            speedup=baseline_p50_ms / p50_ms,
            speedup_ci95=interval,
            forwards_per_sample=forwards_per_sample,
        )


def _seeded_inputs(device: torch.device | str | None, seed: int) -> MakeInputs:
    """Return a maker of random token ids on the device asked for, or on the model's own."""

    def make(model: nn.Module, batch_size: int, sequence_length: int) -> Mapping[str, Tensor]:
        place = torch.device(device) if device is not None else device_of(model)
        return random_inputs(model, batch_size, sequence_length, device=place, seed=seed)

    return make


def _as_context(variant: Variant | AbstractContextManager[nn.Module] | nn.Module) -> Variant:
    """Wrap a bare module so that it can be entered like a bypass."""
    if isinstance(variant, nn.Module):  # a module is itself callable, so it is asked for first
        return lambda: nullcontext(variant)
    if isinstance(variant, AbstractContextManager):
        return lambda: variant
    return variant


def _check(
    variants: Mapping[str, object],
    batch_sizes: Sequence[int],
    sequence_lengths: Sequence[int],
    rounds: int,
    warmup: int,
    mixed_precision: str,
) -> None:
    """Refuse a grid that cannot be timed."""
    check_precision(mixed_precision)
    if PROFILE_ROUNDS.fault(rounds):
        raise ProfilingError(f"rounds is {short(rounds)}: {PROFILE_ROUNDS.fault(rounds)}")
    if PROFILE_WARMUP.fault(warmup):
        raise ProfilingError(f"warmup is {short(warmup)}: {PROFILE_WARMUP.fault(warmup)}")
    grid = (
        ("batch sizes", PROFILE_BATCH_SIZES, batch_sizes),
        ("sequence lengths", PROFILE_SEQUENCE_LENGTHS, sequence_lengths),
    )
    for what, knob, values in grid:
        faults = [knob.fault(value) for value in values if knob.fault(value)] if values else ["none is given"]
        if faults:
            raise ProfilingError(f"{what}: {faults[0]}; one or more whole numbers are needed")
    if not variants:
        raise ProfilingError("nothing to profile: give at least one variant, the baseline first")


@contextmanager
def _progress(shown: bool, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function that moves a bar on stderr by one, or does nothing.

    The bar is drawn only between rounds: a thread that redraws it by the clock would run inside a sample.
    """
    if not shown:
        yield lambda: None
        return
    columns = (TextColumn("profile"), MofNCompleteColumn(), TextColumn("rounds"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("profile", total=total)

        def tick() -> None:
            bar.advance(task)
            bar.refresh()

        yield tick
