"""From what a search evaluated to the plans on the front: predicted, chosen, and measured end to end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from prune_bert.architectures import ArchitectureError
from prune_bert.config import ModelOptions, RuntimeOptions, SearchConfig, TaskOptions
from prune_bert.pipeline.measuring import time_plans
from prune_bert.plan import NormRule, PruningPlan, Site
from prune_bert.search import Candidate, LatencyTable, layers_left, pareto_front, sites_of
from prune_bert.surgery import bypass

MOST_POINTS = 12
"""Points on the front that are measured end to end: more than a reader compares."""


def measure_parts(config: SearchConfig, model: nn.Module, depth: int, *, whole_layers: bool) -> LatencyTable:
    """Measure what a layer and its sublayers take: the model whole, and without all sites of each kind, in turns.

    Raises:
        SearchError: Layers take no measurable time.
        ArchitectureError: Sublayers are searched, and the family's are not known.
    """
    plans = {"unpruned": PruningPlan(), "layer": PruningPlan(sites_of(depth))}
    for component in ("attention", "ffn"):
        plan = PruningPlan(sites_of(depth, (component,)), config.norm)
        try:
            bypass(model, plan)
        except ArchitectureError:
            if not whole_layers:
                raise
        else:
            plans[component] = plan
    points = time_plans(config, model, plans, (config.batch_size,), (config.sequence_length,))
    taken = {point.variant: point.p50_ms for point in points}
    return LatencyTable.from_timings(
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        depth=depth,
        unpruned_ms=taken["unpruned"],
        without_layers_ms=taken["layer"],
        without_attention_ms=taken.get("attention"),
        without_ffn_ms=taken.get("ffn"),
    )


def count_parameters(model: nn.Module, sites: Sequence[Site], norm: NormRule) -> tuple[int, dict[Site, int]]:
    """Count the model's parameters, and those that go with each site."""
    total = _count(model)
    saved = {}
    for site in sites:
        with bypass(model, PruningPlan((site,), norm)):
            saved[site] = total - _count(model)
    return total, saved


def candidates(
    known: Mapping[PruningPlan, Mapping[str, float]],
    table: LatencyTable,
    parameters: tuple[int, Mapping[Site, int]],
    objective: str,
) -> list[Candidate]:
    """Describe the plans that were evaluated, but for the empty one and those that leave no layer."""
    total, saved = parameters
    found = []
    for plan, values in known.items():
        left = layers_left(plan, table.depth)
        if not plan or not left:
            continue
        by_agreement = objective == "agreement"
        found.append(
            Candidate(
                plan,
                accuracy=values["agreement"] if by_agreement else values["metric"],
                latency_ms=table.predict_ms(plan),
                accuracy_drop=100 * (1 - values["agreement"]) if by_agreement else values["drop"],
                accuracy_drop_worst=values["drop_worst"],
                speedup=table.speedup(plan),
                parameters=total - sum(saved[site] for site in plan),
                layers=left,
            )
        )
    return found


def shown_front(found: Sequence[Candidate], chosen: Candidate | None) -> tuple[list[Candidate], int]:
    """Give the front, thinned out evenly where it is long, with the chosen plan; and how many it has in all."""
    front = list(pareto_front(found))
    whole = len(front)
    if whole > MOST_POINTS:
        steps = [round(index * (whole - 1) / (MOST_POINTS - 1)) for index in range(MOST_POINTS)]
        front = [front[step] for step in steps]
    if chosen is not None and chosen.plan not in [candidate.plan for candidate in front]:
        front = sorted([*front, chosen], key=lambda candidate: candidate.latency_ms)
    return front, whole


def prune_command(config: SearchConfig, plan: PruningPlan, number: int) -> str:
    """Write the command that prunes by a plan what was searched, in the same setting."""
    given: dict[str, Any] = {}
    for group in (ModelOptions, TaskOptions, RuntimeOptions):
        for knob in fields(group):
            value = getattr(config, knob.name)
            if value != knob.default:
                given[knob.name] = value
    given |= {
        "plan": str(plan),
        "profile_batch_sizes": config.batch_size,
        "profile_sequence_lengths": config.sequence_length,
        "output_dir": f"{config.output_dir.rstrip('/')}_pruned_{number}",
    }
    words = ["prune-bert", "prune"]
    for name, value in given.items():
        words += [f"--{name}", *map(_word, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
