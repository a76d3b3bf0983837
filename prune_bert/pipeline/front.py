"""From what a search evaluated to the plans on the front: predicted, chosen, and measured end to end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from prune_bert.architectures import ArchitectureError
from prune_bert.config import CompensationOptions, ModelOptions, RuntimeOptions, SearchConfig, TaskOptions
from prune_bert.corrections import FittedSite
from prune_bert.pipeline.measuring import time_variants
from prune_bert.plan import NormRule, PruningPlan, Site
from prune_bert.search import Budget, Candidate, LatencyTable, choose, layers_left, pareto_front, sites_of
from prune_bert.surgery import bypass
from prune_bert.surgery.swaps import Corrections

Blank = Callable[[Site], FittedSite | None]
"""Makes a correction of the right shape for a site; None where sites get none."""

MOST_POINTS = 12
"""Points on the front that are measured end to end: more than a reader compares."""


def no_correction(site: Site) -> None:
    """Return no correction for any site."""


def blank_corrections(plan: PruningPlan, blank: Blank) -> dict[Site, FittedSite]:
    """Return a correction of the right shape for every site of a plan, where there will be one."""
    made = {site: blank(site) for site in plan}
    return {site: one for site, one in made.items() if one is not None}


def measure_parts(
    config: SearchConfig, model: nn.Module, depth: int, *, whole_layers: bool, blank: Blank = no_correction
) -> LatencyTable:
    """Measure what a layer and its sublayers take: the model whole, and without all sites of each kind, in turns.

    With corrections every removed site has its own in place, so that what a site saves is its time less its
    correction's. The time of a model without its layers then has theirs in it, and predictions are right all the same,
    but for adjacent layers, which share one.

    Args:
        config: The setting.
        model: The unpruned model.
        depth: How many layers it has.
        whole_layers: Do without sublayers where the family's are not known.
        blank: Makes a correction of the right shape for a site, where there will be one.

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
    made = {name: bypass(model, plan, blank_corrections(plan, blank)) for name, plan in plans.items()}
    points = time_variants(config, made, (config.batch_size,), (config.sequence_length,))
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


def count_parameters(
    model: nn.Module, sites: Sequence[Site], norm: NormRule, blank: Blank = no_correction
) -> tuple[int, dict[Site, int]]:
    """Count the model's parameters, and those that go with each site, less those of its correction."""
    total = parameters_of(model)
    saved = {}
    for site in sites:
        plan = PruningPlan((site,), norm)
        saved[site] = total - parameters_of(model, plan, blank_corrections(plan, blank))
    return total, saved


def parameters_of(model: nn.Module, plan: PruningPlan | None = None, corrections: Corrections | None = None) -> int:
    """Count a model's parameters, under a plan where one is given."""
    with bypass(model, plan or PruningPlan(), corrections):
        return sum(parameter.numel() for parameter in model.parameters())


def candidates(
    known: Mapping[PruningPlan, Mapping[str, float]],
    table: LatencyTable,
    parameters: tuple[int, Mapping[Site, int]],
    *,
    by_agreement: bool,
) -> list[Candidate]:
    """Describe the plans that were evaluated, but for the empty one and those that leave no layer."""
    total, saved = parameters
    found = []
    for plan, values in known.items():
        left = layers_left(plan, table.depth)
        if not plan or not left:
            continue
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
    """Return the front, thinned out evenly where it is long, with the chosen plan; and how many it has in all."""
    front = list(pareto_front(found))
    whole = len(front)
    if whole > MOST_POINTS:
        steps = [round(index * (whole - 1) / (MOST_POINTS - 1)) for index in range(MOST_POINTS)]
        front = [front[step] for step in steps]
    if chosen is not None and chosen.plan not in [candidate.plan for candidate in front]:
        front = sorted([*front, chosen], key=lambda candidate: candidate.latency_ms)
    return front, whole


def settled_front(
    found: Callable[[], list[Candidate]], budget: Budget, settle: Callable[[Sequence[PruningPlan]], bool] | None = None
) -> tuple[list[Candidate], int, Candidate | None]:
    """Take the front and choose within a budget, once the values of all that is shown are final.

    Args:
        found: Gives the candidates by the values known.
        budget: What was asked for, or nothing.
        settle: Makes the values of plans final, and tells whether any was not; by default all are.

    Returns:
        The front, how many plans it has in all, and the chosen one.

    Raises:
        UnmetBudgetError: No candidate meets the budget.
    """
    while True:
        known = found()
        front, _ = shown_front(known, None)
        if settle is not None and settle([candidate.plan for candidate in front]):
            continue
        chosen = choose(known, budget) if budget else None
        if chosen is None or settle is None or not settle([chosen.plan]):
            return *shown_front(known, chosen), chosen


def prune_command(config: SearchConfig, plan: PruningPlan, number: int, samples: int) -> str:
    """Write the command that prunes by a plan what was searched, in the same setting.

    Args:
        config: The setting.
        plan: The plan.
        number: Its place on the front.
        samples: To how many rows a compensation is fitted.
    """
    given: dict[str, Any] = {}
    compensated = config.compensation != "none"
    for group in (ModelOptions, TaskOptions, RuntimeOptions, *((CompensationOptions,) if compensated else ())):
        for knob in fields(group):
            value = getattr(config, knob.name)
            if value != knob.default and (knob.name, value) != ("mixed_precision", "no"):
                given[knob.name] = value
    if compensated:
        given["max_calibration_samples"] = samples
        given |= {"calibration_rows": config.calibration_rows} if config.calibration_rows != "evenly" else {}
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
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
