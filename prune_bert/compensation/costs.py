"""What each compensated site costs, against what it replaces: parameters, operations and measured time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_bert.knobs import BUDGET_BATCH_SIZE, BUDGET_SEQUENCE_LENGTH, PROFILE_ROUNDS, SEED
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling.inputs import random_inputs
from prune_bert.profiling.running import autocast, clock_for, device_of, eval_mode
from prune_bert.profiling.size import count_flops_of, count_parameters
from prune_bert.surgery.probe import Call, observe_calls
from prune_bert.surgery.swaps import Corrections, Swap, swaps_for

_REPEATS = 4  # calls between two looks at the clock: one of a small module is over before it shows


@dataclass(frozen=True)
class SiteMeasure:
    """One compensated site against what it replaces, LayerNorm included in both.

    Attributes:
        parameters: Of the stand-in.
        replaced_parameters: Of the original.
        flops: Of one forward of the stand-in; matrix products only, a multiply-add as two.
        replaced_flops: Of the original.
        latency_ms: Median time of one forward of the stand-in.
        replaced_latency_ms: Of the original.
    """

    parameters: int
    replaced_parameters: int
    flops: int
    replaced_flops: int
    latency_ms: float
    replaced_latency_ms: float


def measure_sites(
    model: nn.Module,
    plan: PruningPlan | str,
    corrections: Corrections,
    *,
    batch_size: int = BUDGET_BATCH_SIZE.default,
    sequence_length: int = BUDGET_SEQUENCE_LENGTH.default,
    rounds: int = PROFILE_ROUNDS.default,
    mixed_precision: str = "no",
    seed: int = SEED.default,
) -> dict[Site, SiteMeasure]:
    """Measure every compensated site apart, on what reaches it in the unpruned model, in turns with the original.

    Args:
        model: The unpruned model, on its device.
        plan: The plan, or its text.
        corrections: What was fitted for it.
        batch_size: Examples in a forward.
        sequence_length: Tokens of each.
        rounds: Timings of each, of which the median counts.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``.
        seed: Seed of the random tokens.
    """
    norm = PruningPlan.of(plan).norm
    device, found = device_of(model), {}
    inputs = random_inputs(model, batch_size, sequence_length, device=device, seed=seed)
    # autocast around all, as in a forward of the whole model: its cache of cast weights is then alive, too
    with eval_mode(model), torch.inference_mode(), autocast(device, mixed_precision):
        for site in corrections:
            swaps = swaps_for(model, PruningPlan((site,), norm), corrections)
            calls = observe_calls(model, {swap.path: swap.original for swap in swaps}, inputs)
            runs = [_run(swaps, calls, original=original) for original in (False, True)]
            flops = [count_flops_of(run) for run in runs]
            taken = _timed(runs, clock_for(device), rounds)
            new, old = (
                sum(count_parameters(getattr(swap, name)) for swap in swaps) for name in ("stand_in", "original")
            )
            found[site] = SiteMeasure(new, old, *flops, *taken)
    return found


def _run(swaps: Sequence[Swap], calls: Mapping[str, Call], *, original: bool) -> Callable[[], None]:
    """Make a function that runs a site's modules, or their stand-ins, on the arguments that they were seen with."""
    chosen: list[tuple[Any, Call]] = []
    for swap in swaps:
        module = swap.original if original else swap.stand_in.eval().to(device_of(swap.original))
        chosen.append((module, calls[swap.path]))

    def run() -> None:
        for module, call in chosen:
            module(*call.args, **call.kwargs)

    return run


def _timed(
    runs: Sequence[Callable[[], None]], clock: Callable[[Callable[[], None], int], float], rounds: int
) -> list[float]:
    samples: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            samples[place].append(clock(runs[place], _REPEATS) / _REPEATS)
    return [statistics.median(sample) for sample in samples]
