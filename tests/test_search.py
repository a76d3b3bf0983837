"""Search: strategies, orders, budgets, the front, racing and the journal, all on dictionaries; no model, no torch."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan, Site
from prune_bert.search import (
    POSITIONAL_ORDERS,
    STRATEGIES,
    Budget,
    Candidate,
    Evaluated,
    Journal,
    LatencyTable,
    RaceResult,
    Racing,
    SearchError,
    SearchProgress,
    SearchResult,
    UnmetBudgetError,
    beam,
    calibration_batches,
    choose,
    exhaustive,
    exhaustive_cost,
    greedy,
    journaled,
    journaled_losses,
    layer_sites,
    layers_left,
    one_shot,
    pareto_front,
    race,
    removal_order,
    search_plans,
    sites_of,
    sublayer,
    sublayer_sites,
)
from prune_bert.search.racing import paired_interval, student_t
from prune_bert.search.sites import forward_order

quick = settings(max_examples=60, deadline=None)


def plan(text):
    return PruningPlan.parse(text)


def subsets(sites):
    return [PruningPlan(chosen) for size in range(len(sites) + 1) for chosen in combinations(sites, size)]


def additive(costs):
    """A loss that is the sum of the sites' own costs."""
    return lambda plans: [math.fsum(costs[site] for site in plan) for plan in plans]


class Counting:
    """An objective from a dictionary, that remembers how it was asked."""

    def __init__(self, table):
        self.table, self.calls = table, []

    def __call__(self, plans):
        self.calls.append(list(plans))
        return [self.table[plan] for plan in plans]

    @property
    def asked(self):
        return [plan for call in self.calls for plan in call]


@st.composite
def tables(draw, max_layers=4, components=("layer",)):
    """Sites and an arbitrary loss for every subset of them."""
    sites = sites_of(draw(st.integers(1, max_layers)), components)
    plans = subsets(sites)
    drawn = draw(st.lists(st.floats(-10, 10), min_size=len(plans), max_size=len(plans)))
    return sites, dict(zip(plans, drawn, strict=True))


# Strategies


@quick
@given(tables(), st.integers(1, 5), st.data())
def test_no_strategy_beats_the_exhaustive_optimum_of_any_size(case, width, data):
    sites, table = case
    objective = Counting(table)
    scores = {site: data.draw(st.floats(0, 1)) for site in sites}
    every = exhaustive(objective, sites)
    optimum = {len(found.plan): found.value for found in every.path}
    assert optimum == {size: min(table[p] for p in table if len(p) == size) for size in range(len(sites) + 1)}
    assert every.best.value == min(table.values())
    for other in (
        greedy(objective, sites),
        beam(objective, sites, width=width),
        one_shot(objective, sites, scores=scores),
    ):
        assert [len(found.plan) for found in other.path] == list(range(len(sites) + 1))
        assert all(found.value == table[found.plan] for found in other.evaluated)
        assert all(found.value >= optimum[len(found.plan)] for found in other.evaluated)
        assert other.best.value >= every.best.value


@quick
@given(tables(max_layers=2, components=("attention", "ffn")), st.data())
def test_greedy_is_nested_whatever_the_costs(case, data):
    sites, table = case
    costs = {site: data.draw(st.floats(0.1, 5)) for site in sites}
    result = greedy(Counting(table), sites, costs=costs)
    assert len(result.path) == len(sites) + 1
    for before, after in zip(result.path, result.path[1:], strict=False):
        assert set(before.plan) < set(after.plan)
    assert [site for step in result.removed for site in step] != []
    assert {site for step in result.removed for site in step} == set(sites)


@quick
@given(tables())
def test_a_beam_of_one_is_greedy_and_a_wide_one_is_exhaustive(case):
    sites, table = case
    assert beam(Counting(table), sites, width=1).path == greedy(Counting(table), sites).path
    wide = beam(Counting(table), sites, width=len(table))
    assert wide.path == exhaustive(Counting(table), sites).path
    assert {found.plan for found in wide.evaluated} == set(table)


@quick
@given(tables(), st.integers(1, 7))
def test_every_strategy_asks_for_each_plan_once_and_in_parts(case, plans_per_call):
    sites, table = case
    for name in ("greedy", "beam", "exhaustive"):
        objective = Counting(table)
        result = search_plans(objective, sites, strategy=name, plans_per_call=plans_per_call)
        assert len(objective.asked) == len(set(objective.asked)) == len(result.evaluated)
        assert max(map(len, objective.calls)) <= plans_per_call


def test_a_known_path_of_greedy():
    costs = dict(zip(layer_sites(4), (4.0, 1.0, 3.0, 2.0), strict=True))
    result = greedy(additive(costs), layer_sites(4), max_removed=3)
    assert [str(found.plan) for found in result.path] == ["", "layer:1", "layer:1,3", "layer:1-3"]
    assert [found.value for found in result.path] == [0, 1, 3, 6]
    assert len(result.evaluated) == 1 + 4 + 3 + 2
    assert [str(step) for step in result.removed] == ["layer:1", "layer:3", "layer:2"]


def test_greedy_weighs_the_loss_against_what_is_saved():
    losses = {Site(0, "attention"): 0.3, Site(0, "ffn"): 0.5}
    sites = sublayer_sites(1)
    assert str(greedy(additive(losses), sites).path[1].plan) == "attention:0"
    costs = {Site(0, "attention"): 1.0, Site(0, "ffn"): 2.0}
    assert str(greedy(additive(losses), sites, costs=costs).path[1].plan) == "ffn:0"  # 0.25 a unit
    # where the loss falls by as much, the site that saves more goes
    falling = dict.fromkeys(sites, -1.0)
    assert str(greedy(additive(falling), sites, costs=costs).path[1].plan) == "ffn:0"
    assert str(beam(additive(falling), sites, costs=costs, width=2).path[1].plan) == "ffn:0"


def test_greedy_ends_when_it_is_told():
    costs = dict.fromkeys(layer_sites(4), 1.0)
    result = greedy(additive(costs), layer_sites(4), until=lambda found: found.value > 1)
    assert [found.value for found in result.path] == [0, 1, 2]


def test_ties_go_to_the_later_site():
    flat = lambda plans: [0.0] * len(plans)  # noqa: E731 -- a name for the objective, nothing else
    sites = layer_sites(3)
    for name in ("greedy", "beam", "exhaustive"):
        path = search_plans(flat, sites, strategy=name).path
        assert [str(found.plan) for found in path] == ["", "layer:2", "layer:1-2", "layer:0-2"]
    result = one_shot(flat, sites, scores=dict.fromkeys(sites, 1.0))
    assert [str(found.plan) for found in result.path] == ["", "layer:2", "layer:1-2", "layer:0-2"]
    assert str(result.best.plan) == "layer:0-2"


def test_one_shot_removes_the_lowest_scores():
    sites = layer_sites(4)
    scores = dict(zip(sites, (3.0, 0.5, 2.0, 1.0), strict=True))
    result = one_shot(additive(scores), sites, scores=scores, max_removed=2, norm="skip")
    assert [str(found.plan) for found in result.path] == ["norm=skip", "layer:1 norm=skip", "layer:1,3 norm=skip"]
    with pytest.raises(SearchError, match="layer:3 has no score; one_shot needs one for each of the 4 sites"):
        one_shot(additive(scores), sites, scores=dict.fromkeys(sites[:3], 1.0))


def test_a_layer_takes_the_place_of_its_sublayers_without_a_warning(recwarn):
    sites = sites_of(2, ("layer", "attention", "ffn"))
    losses = dict.fromkeys(sites, 5.0) | {Site(1, "attention"): 0.0, Site(1): 0.1}
    result = greedy(additive(losses), sites)
    assert [str(found.plan) for found in result.path[:3]] == ["", "attention:1", "layer:1"]
    assert str(result.path[-1].plan) == "layer:0-1"
    assert str(beam(additive(losses), sites).path[-1].plan) == "layer:0-1"
    ordered = one_shot(additive(losses), sites, scores=losses)
    assert [str(found.plan) for found in ordered.path[:3]] == ["", "attention:1", "layer:1"]
    assert not recwarn.list


def test_the_sublayer_strategy_is_greedy_or_a_beam_over_sublayers():
    losses = {site: float(place + 1) for place, site in enumerate(sublayer_sites(2))}
    assert sublayer(additive(losses), sublayer_sites(2)).path == greedy(additive(losses), sublayer_sites(2)).path
    wide = sublayer(additive(losses), sublayer_sites(2), width=3, max_removed=2)
    assert (wide.strategy, [found.value for found in wide.path]) == ("beam", [0, 1, 3])
    with pytest.raises(SearchError, match=r"layer:0 is a whole layer; .* takes sublayer_sites"):
        sublayer(additive({}), layer_sites(2))


def test_plans_come_depth_first_so_that_neighbours_share_prefixes():
    objective = Counting(dict.fromkeys(subsets(layer_sites(4)), 0.0))
    exhaustive(objective, layer_sites(4))
    kept = [tuple(Site(layer) not in p for layer in range(4)) for p in objective.asked]
    assert kept == sorted(kept)
    passes = sum(
        now[: layer + 1] != before[: layer + 1]
        for before, now in zip([(None,) * 4, *kept], kept, strict=False)
        for layer in range(4)
        if now[layer]
    )
    assert passes == exhaustive_cost(4).passes == 15


def test_progress_counts_up_to_at_most_what_was_said():
    said: list[SearchProgress] = []
    table = {p: float(len(p)) for p in subsets(layer_sites(4))}
    beam(Counting(table), layer_sites(4), width=2, plans_per_call=2, progress=said.append)
    assert [step.done for step in said] == sorted({step.done for step in said})
    assert said[-1].done <= said[-1].at_most == 1 + 4 + 2 * 3 + 2 * 2 + 2 * 1
    assert said[0].seconds_left > 0
    assert math.isnan(SearchProgress(0, 5, 1.0).seconds_left)


def test_a_value_that_is_no_number_is_the_worst_and_survives_json():
    table = {plan(""): 0.0, plan("layer:0"): math.nan, plan("layer:1"): math.inf, plan("layer:0-1"): 9.0}
    result = greedy(Counting(table), layer_sites(2))
    assert [found.value for found in result.path] == [0.0, math.inf, 9.0]
    again = SearchResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again == result


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: search_plans(o, layer_sites(2), strategy="greddy"), "unknown strategy 'greddy', did you mean 'gre"),
        (lambda o: greedy(o, []), "no sites to search; give at least one"),
        (lambda o: greedy(o, ["layer:0"]), "Site objects, not 'layer:0'"),
        (lambda o: greedy(o, layer_sites(2), max_removed=0), "max_removed is 0"),
        (lambda o: greedy(o, layer_sites(2), costs={Site(0): 1.0}), "the costs say nothing of layer:1"),
        (lambda o: greedy(o, layer_sites(1), costs={Site(0): 0.0}), "the cost of layer:0 is 0.0"),
        (lambda o: greedy(o, layer_sites(1), plans_per_call=0), "plans_per_call is 0"),
        (lambda o: greedy(lambda plans: [1.0], layer_sites(2)), "gave 1 values for 3 plans"),
        (lambda o: beam(o, layer_sites(2), width=0), "the width of a beam is at least 1, not 0"),
        (lambda o: exhaustive(o, layer_sites(2), sizes=[3]), r"sizes \[3\]: of 2 sites 0 to 2"),
        (lambda o: exhaustive(o, sites_of(2, ("layer", "ffn"))), "over layer:0 and over ffn:0 counts plans twice"),
        (lambda o: sites_of(2, ("ffm",)), "unknown component 'ffm', did you mean 'ffn'"),
        (lambda o: sites_of(0), "a model of 0 layers"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(call, message):
    with pytest.raises(SearchError, match=message) as caught:
        call(lambda plans: [0.0] * len(plans))
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_strategies_are_known_by_name():
    assert set(STRATEGIES) == {"one_shot", "greedy", "beam", "exhaustive", "sublayer"}


# The exhaustive search's cost


def test_exhaustive_counts_before_it_starts():
    cost = exhaustive_cost(6, seconds_unpruned=6.0)
    assert (cost.plans, cost.passes, cost.passes_alone, cost.seconds) == (64, 63, 192, 63.0)
    assert str(cost) == "64 plans over 6 sites, about 63 s"
    assert exhaustive_cost(12).passes_alone / exhaustive_cost(12).passes == pytest.approx(6, abs=0.01)
    assert exhaustive_cost(4, sizes=[0]).passes == 4
    assert exhaustive_cost(4, sizes=[4]).passes == 0
    assert exhaustive_cost(3, sizes=[1]).plans == 3
    assert exhaustive_cost(3, sizes=[1]).passes == 2 + 1 + 2  # layer 2 follows 0 or 1 removed, not both


def test_exhaustive_over_too_many_sites_says_what_it_would_take_and_what_to_do():
    called = []
    with pytest.raises(SearchError) as caught:
        exhaustive(called.append, layer_sites(24), seconds_unpruned=1.0)
    assert str(caught.value) == (
        "exhaustive would evaluate 16,777,216 plans over 24 sites, about 194 h; it takes at most 16 sites (65,536 "
        "plans): use the strategy beam or greedy, or search fewer sites"
    )
    assert not called


def test_exhaustive_of_some_sizes_only():
    table = {p: float(len(p)) for p in subsets(layer_sites(5))}
    result = exhaustive(Counting(table), layer_sites(5), sizes=(2, 4))
    assert {len(found.plan) for found in result.evaluated} == {2, 4}
    assert len(result.evaluated) == 10 + 5
    assert [len(found.plan) for found in result.path] == [2, 4]


# Positional orders


def test_the_orders_of_the_paper_which_counts_from_one():
    def dropped(name, k):
        return sorted(layer + 1 for layer in removal_order(name, 12)[:k])

    assert dropped("top", 4) == [9, 10, 11, 12]
    assert dropped("bottom", 4) == [1, 2, 3, 4]
    assert dropped("alternate_odd", 4) == [5, 7, 9, 11]
    assert dropped("alternate_even", 4) == [6, 8, 10, 12]
    assert dropped("symmetric", 4) == [5, 6, 7, 8]
    assert removal_order("alternate", 12) == removal_order("alternate_odd", 12)


@given(st.sampled_from(sorted(POSITIONAL_ORDERS)), st.integers(1, 30))
def test_an_order_has_every_layer_once(name, depth):
    assert sorted(removal_order(name, depth)) == list(range(depth))


def test_an_unknown_order_names_the_nearest():
    with pytest.raises(
        SearchError, match=r"unknown order 'symetric', did you mean 'symmetric'\? expected one of top, b"
    ):
        removal_order("symetric", 4)
    with pytest.raises(SearchError, match="0 layers has none to drop"):
        removal_order("top", 0)


# Budgets


def candidate(text, accuracy, latency_ms, baseline=0.9, unpruned_ms=10.0, **facts):
    drop = (baseline - accuracy) * 100
    facts = {"accuracy_drop_worst": drop + 1, "parameters": 100, "layers": 6 - len(plan(text))} | facts
    return Candidate(plan(text), accuracy, latency_ms, drop, speedup=unpruned_ms / latency_ms, **facts)


FOUND = [
    candidate("", 0.9, 10.0),
    candidate("layer:5", 0.895, 8.0, parameters=90),
    candidate("layer:4", 0.89, 8.0, parameters=90),
    candidate("layer:4-5", 0.88, 6.0, parameters=80),
    candidate("layer:3-5", 0.85, 4.0, parameters=70),
]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(max_accuracy_drop=1.0), "layer:5"),  # as fast as layer:4 and better
        (Budget(max_accuracy_drop=2.0), "layer:4-5"),
        (Budget(max_accuracy_drop=2.0, respect_interval=True), "layer:5"),
        (Budget(max_accuracy_drop=2.0, max_parameters=85), "layer:4-5"),
        (Budget(min_speedup=1.5), "layer:4-5"),
        (Budget(max_latency_ms=5), "layer:3-5"),
        (Budget(max_parameters=90), "layer:5"),
        (Budget(keep_layers=5), "layer:5"),
        (Budget(keep_layers=4, min_speedup=1.2), "layer:4-5"),
    ],
)
def test_a_budget_gives_the_fastest_within_accuracy_or_the_most_accurate_within_the_rest(budget, expected):
    assert str(choose(FOUND, budget).plan) == expected


def test_a_budget_that_no_plan_meets_brings_the_nearest():
    with pytest.raises(UnmetBudgetError) as caught:
        choose(FOUND, Budget(max_accuracy_drop=1.0, min_speedup=1.5))
    assert caught.value.nearest is FOUND[1]
    assert str(caught.value) == (
        "none of 5 plans meets max_accuracy_drop 1 and min_speedup 1.5; the nearest is 'layer:5' with speed-up 1.25: "
        "loosen the budget, or search more sites"
    )
    with pytest.raises(UnmetBudgetError, match=r"nearest is 'layer:3-5' with latency in ms 4: "):
        choose(FOUND, Budget(max_latency_ms=2))
    with pytest.raises(UnmetBudgetError, match=r"'layer:3-5' with layers left 3: "):
        choose(FOUND, Budget(keep_layers=2))
    with pytest.raises(UnmetBudgetError, match=r"'layer:4' with accuracy drop 1 points"):
        choose(FOUND[2:], Budget(max_accuracy_drop=0.5))
    assert issubclass(UnmetBudgetError, SearchError)


candidates = st.builds(
    Candidate,
    plan=st.lists(st.integers(0, 11), max_size=6).map(lambda layers: PruningPlan(tuple(map(Site, layers)))),
    accuracy=st.floats(0, 1),
    latency_ms=st.floats(0.1, 20),
    accuracy_drop=st.floats(-5, 50),
    accuracy_drop_worst=st.floats(-5, 50),
    speedup=st.floats(0.5, 10),
    parameters=st.integers(1, 1000),
    layers=st.integers(1, 12),
)
budgets = st.builds(
    Budget,
    max_accuracy_drop=st.none() | st.floats(0, 20),
    min_speedup=st.none() | st.floats(1, 5),
    max_latency_ms=st.none() | st.floats(0.5, 15),
    max_parameters=st.none() | st.integers(1, 1000),
    keep_layers=st.none() | st.integers(1, 12),
)


@quick
@given(st.lists(candidates, min_size=1, max_size=12), budgets.filter(bool))
def test_budgets_are_honoured(found, budget):
    meeting = [item for item in found if not budget.shortfalls(item)]
    if not meeting:
        with pytest.raises(UnmetBudgetError) as caught:
            choose(found, budget)
        assert caught.value.nearest in found
        worst = max(budget.shortfalls(caught.value.nearest).values())
        assert all(worst <= max(budget.shortfalls(item).values()) for item in found)
        return
    chosen = choose(found, budget)
    assert chosen in meeting
    if budget.max_accuracy_drop is not None:
        assert chosen.accuracy_drop <= budget.max_accuracy_drop + 1e-6
        assert chosen.latency_ms == min(item.latency_ms for item in meeting)
    else:
        assert chosen.accuracy == max(item.accuracy for item in meeting)


def test_a_drop_of_exactly_one_point_is_within_one_point():
    assert (0.893 - 0.883) * 100 > 1
    assert choose([candidate("layer:1", 0.883, 5.0, baseline=0.893)], Budget(max_accuracy_drop=1.0))


def test_all_conflicts_of_a_budget_are_listed_at_once():
    budget = Budget(max_accuracy_drop=-1, min_speedup=0.5, max_latency_ms=0, max_parameters=-3, keep_layers=0)
    assert len(budget.conflicts()) == 5
    with pytest.raises(
        SearchError, match=r"cannot be met: max_accuracy_drop -1 .*; min_speedup 0\.5 .*; max_latency_ms 0"
    ):
        budget.check()
    assert Budget(respect_interval=True, min_speedup=2).conflicts() == (
        "respect_interval speaks of max_accuracy_drop, which is not given",
    )
    assert not Budget(max_accuracy_drop=1, min_speedup=2, keep_layers=6).conflicts(depth=12, whole_layers=True)


def test_budgets_conflict_with_the_depth_of_the_model():
    (fault,) = Budget(keep_layers=6, min_speedup=3).conflicts(depth=12, whole_layers=True)
    assert fault == "keep_layers 6 of 12 makes the model at most 2.00 times faster, and min_speedup asks for 3"
    assert not Budget(keep_layers=6, min_speedup=3).conflicts(depth=12)
    assert "more than the model's 4 layers" in Budget(keep_layers=5).conflicts(depth=4)[0]
    assert "nothing to remove" in Budget(keep_layers=4).conflicts(depth=4, whole_layers=True)[0]


def test_choosing_without_a_budget_a_candidate_or_a_measurement_is_refused():
    with pytest.raises(SearchError, match="asks for nothing; give one of max_accuracy_drop, min_speedup"):
        choose(FOUND, Budget(batch_size=8))
    with pytest.raises(SearchError, match="no plan was evaluated that could meet min_speedup 2"):
        choose([], Budget(min_speedup=2.0))
    with pytest.raises(
        SearchError, match="max_parameters asks for a candidate's parameters, which layer:1 comes without"
    ):
        choose([Candidate(plan("layer:1"), 0.9, 1.0)], Budget(max_parameters=5))
    assert str(Budget()) == "no budget"
    assert not Budget()


def test_layers_left_are_those_of_the_dropped_model():
    assert layers_left(plan("layer:1,3 attention:0 ffn:0"), 6) == 4
    assert layers_left(plan("layer:1,3 attention:0 ffn:0 norm=skip"), 6) == 3


# The latency table


TABLE = LatencyTable.from_timings(
    batch_size=1,
    sequence_length=64,
    depth=6,
    unpruned_ms=13.0,
    without_layers_ms=1.0,
    without_attention_ms=9.4,
    without_ffn_ms=5.2,
)


def test_a_latency_table_predicts_what_it_was_made_of():
    assert TABLE.layer_ms == pytest.approx(2.0)
    assert TABLE.predict_ms(plan("")) == pytest.approx(TABLE.unpruned_ms) == pytest.approx(13.0)
    assert TABLE.predict_ms(plan("layer:0-5")) == pytest.approx(1.0)
    assert TABLE.predict_ms(plan("attention:0-5")) == pytest.approx(9.4)
    assert TABLE.predict_ms(plan("ffn:0-5")) == pytest.approx(5.2)
    assert TABLE.predict_ms(plan("layer:0 attention:1 ffn:2")) == pytest.approx(13 - 2 - 0.6 - 1.3)
    assert TABLE.speedup(plan("layer:3-5")) == pytest.approx(13 / 7)
    assert LatencyTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


def test_costs_come_from_the_table_and_are_never_nothing():
    assert TABLE.costs([Site(0), Site(1, "ffn")]) == pytest.approx({Site(0): 2.0, Site(1, "ffn"): 1.3})
    slower = LatencyTable.from_timings(
        batch_size=1, sequence_length=8, depth=2, unpruned_ms=4, without_layers_ms=2, without_attention_ms=4.5
    )
    assert slower.attention_ms == 0
    assert slower.costs([Site(0, "attention")]) == {Site(0, "attention"): 0.01}
    with pytest.raises(SearchError, match="no ffn sublayers, only whole layers"):
        slower.saved_ms(Site(0, "ffn"))
    with pytest.raises(SearchError, match="layer:2: the latency table is of a model with 2 layers"):
        slower.predict_ms(plan("layer:2"))
    with pytest.raises(SearchError, match="6 layers took no measurable time"):
        LatencyTable.from_timings(batch_size=1, sequence_length=8, depth=6, unpruned_ms=1, without_layers_ms=1.2)


@given(st.sets(st.sampled_from(sites_of(6, ("attention", "ffn")))), st.sampled_from(sites_of(6, ("attention", "ffn"))))
def test_removing_more_is_never_predicted_slower(sites, site):
    fewer, more = PruningPlan(tuple(sites)), PruningPlan((*sites, site))
    assert TABLE.predict_ms(more) <= TABLE.predict_ms(fewer)
    assert TABLE.predict_ms(more) >= TABLE.predict_ms(plan("layer:0-5"))


# The front


@given(st.lists(candidates, max_size=40))
def test_the_front_is_mutually_non_dominated_and_complete(found):
    front = pareto_front(found)

    def dominates(one, other):
        at_least = one.accuracy >= other.accuracy and one.latency_ms <= other.latency_ms
        return at_least and (one.accuracy, one.latency_ms) != (other.accuracy, other.latency_ms)

    def equal(one, other):
        return (one.accuracy, one.latency_ms) == (other.accuracy, other.latency_ms)

    assert not any(dominates(one, other) for one in front for other in front)
    assert not any(equal(one, other) for one, other in combinations(front, 2))
    for item in found:
        assert any(item is one or dominates(one, item) or equal(one, item) for one in front)
    assert [one.latency_ms for one in front] == sorted(one.latency_ms for one in front)


def test_of_equals_the_first_is_on_the_front_and_nan_never():
    first, second = candidate("layer:1", 0.8, 5.0), candidate("layer:2", 0.8, 5.0)
    assert pareto_front([first, second, candidate("layer:3", math.nan, 1.0)]) == (first,)
    assert pareto_front([]) == ()


# Racing


def make_losses(means, n_batches=8, size=32, noise=0.3, seed=0):
    """Losses of plans whose examples share most of their noise; the means are those of whole batches to come."""
    generator = random.Random(seed)
    shared = [[generator.gauss(0, 1) for _ in range(size)] for _ in range(n_batches)]
    rows = {
        item: [[mean + noise_of + generator.gauss(0, noise) for noise_of in batch] for batch in shared]
        for item, mean in means.items()
    }
    return lambda plans, batch: [rows[item][batch] for item in plans]


PLANS = [PruningPlan((Site(layer),)) for layer in range(10)]


def test_a_race_keeps_the_best_and_says_what_it_cut():
    means = {item: 0.5 * place for place, item in enumerate(PLANS)}
    losses = make_losses(means)
    result = race(PLANS, losses, 8, keep=2, confidence=0.95)
    assert [found.plan for found in result.survivors[:2]] == PLANS[:2]
    assert result.survivors[0].value == pytest.approx(sum(sum(losses(PLANS[:1], b)[0]) for b in range(8)) / 256)
    assert {cut.plan for cut in result.cut} == set(PLANS[2:])
    assert all(low > 0 and cut.difference > low for cut in result.cut for low, _ in [cut.interval])
    assert result.comparisons == 2 * 9 * 3
    assert result.work < 0.5
    assert str(result) == f"8 of 10 plans cut at 95% confidence, with {result.work:.0%} of the work"
    assert RaceResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_equal_plans_all_survive():
    result = race(PLANS, lambda plans, batch: [[0.5] * 40 for _ in plans], 8, keep=1)
    assert len(result.survivors) == 10
    assert result.work == 1
    assert result.survivors[0].plan == PLANS[9]


def test_the_best_is_cut_in_no_more_races_than_the_confidence_allows():
    means = {item: 0.02 * place for place, item in enumerate(PLANS[:5])}  # nearly equal: the hard case
    lost = sum(
        PLANS[0] in {cut.plan for cut in race(list(means), make_losses(means, 4, 40, seed=seed), 4, confidence=0.8).cut}
        for seed in range(60)
    )
    assert lost <= 0.2 * 60


@pytest.mark.parametrize("min_examples", [33, 1000])
def test_nothing_is_cut_before_there_are_enough_examples(min_examples):
    means = {item: 5.0 * place for place, item in enumerate(PLANS)}
    losses, seen = make_losses(means), []

    def watched(plans, batch):
        seen.append(len(plans))
        return losses(plans, batch)

    race(PLANS, watched, 8, min_examples=min_examples)
    assert seen == ([10, 10] + [1] * 6 if min_examples == 33 else [10] * 8)


def test_a_plan_is_only_cut_by_rivals_that_save_as_much():
    means = dict(zip(PLANS[:3], (0.0, 1.0, 2.0), strict=True))
    saved = dict(zip(PLANS[:3], (1.0, 2.0, 1.5), strict=True))
    result = race(list(means), make_losses(means), 8, saved=saved.__getitem__)
    assert {cut.plan for cut in result.cut} == {PLANS[2]}  # beaten by both, and the second saves more


def test_racing_leaves_the_beam_its_path():
    sites = layer_sites(6)
    own = dict(zip(sites, (1.0, 0.2, 0.8, 0.1, 0.5, 2.0), strict=True))
    table = {p: math.fsum(own[site] for site in p) for p in subsets(sites)}
    losses = make_losses(table, noise=0.05)
    plain = beam(additive(own), sites, width=3)
    raced = beam(additive(own), sites, width=3, racing=Racing(losses, 8))
    assert [found.plan for found in raced.path] == [found.plan for found in plain.path]
    assert raced.num_cut > 0
    assert len(raced.evaluated) + raced.num_cut == len(plain.evaluated)
    assert len(raced.races) == 6
    full = exhaustive(additive(own), sites, racing=Racing(losses, 8), keep=2)
    assert [f.plan for f in full.path] == [f.plan for f in exhaustive(additive(own), sites).path]
    assert full.num_cut > 20
    assert SearchResult.from_dict(json.loads(json.dumps(full.to_dict()))) == full


def test_a_race_that_cannot_be_run_is_refused():
    with pytest.raises(SearchError, match=r"lies between 0 and 1, such as 0\.95; 95 does not"):
        race(PLANS, make_losses({}), 2, confidence=95)
    with pytest.raises(SearchError, match="a race of 0 plans over 2 batches for 1 places"):
        race([], make_losses({}), 2)
    with pytest.raises(SearchError, match=r"a batch gave 1 rows of \[2\] losses for 10 plans"):
        race(PLANS, lambda plans, batch: [[1.0, 2.0]], 2)
    with pytest.raises(SearchError, match="the losses of layer:0 are not finite"):
        race(PLANS, lambda plans, batch: [[math.nan]] * 10, 2)


def test_the_paired_interval_is_students():
    mine, other = [1.0, 2.0, 4.0, 4.5] * 4, [0.5, 2.0, 3.0, 3.0] * 4
    differences = [a - b for a, b in zip(mine, other, strict=True)]
    expected = stats.ttest_rel(mine, other).confidence_interval(0.999)
    assert paired_interval(mine, other, 0.999) == pytest.approx(tuple(expected), rel=1e-3)
    assert sum(paired_interval(mine, other, 0.999)) / 2 == pytest.approx(sum(differences) / 16)
    assert paired_interval([1.0], [0.0], 0.95) == (-math.inf, math.inf)
    for degrees in (10, 31, 500):
        for tail in (0.025, 1e-3, 1e-5):
            assert student_t(1 - tail, degrees) == pytest.approx(stats.t.isf(tail, degrees), rel=0.01)


@given(st.integers(1, 200), st.data())
def test_calibration_batches_hold_each_example_once(n, data):
    batches = data.draw(st.integers(1, n))
    parts = calibration_batches(n, batches, seed=3)
    assert sorted(index for part in parts for index in part) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == calibration_batches(n, batches, seed=3)
    with pytest.raises(SearchError, match="cannot be divided"):
        calibration_batches(n, n + 1)


# The journal


@quick
@given(tables(), st.integers(0, 16))
def test_a_journaled_objective_equals_the_plain_one(tmp_path_factory, case, known):
    sites, table = case
    path = tmp_path_factory.mktemp("journal") / "search.jsonl"
    for _ in range(2):  # a first run, part of which is known from one before it, and one that knows everything
        objective = Counting(table)
        with Journal.open(path, "run") as journal:
            if not journal.known:
                journaled(objective, journal)(list(table)[:known])
            result = greedy(journaled(objective, journal), sites)
        assert result.path == greedy(Counting(table), sites).path
        assert result.evaluated == greedy(Counting(table), sites).evaluated
    assert not objective.calls


def test_a_journal_holds_any_value_that_json_has(tmp_path):
    with Journal.open(tmp_path / "j", {"weights": "a"}) as journal:
        measure = journaled(lambda plans: [{"loss": len(p) / 3, "worst": math.inf} for p in plans], journal)
        first = measure(PLANS)
    with Journal.open(tmp_path / "j", {"weights": "a"}) as journal:
        assert journaled(lambda plans: 1 / 0, journal)(PLANS) == first
        assert dict(Journal.replica(journal.known).known) == dict(journal.known)


def test_the_losses_of_a_race_are_journaled_by_batch(tmp_path):
    losses = make_losses({item: 0.1 * place for place, item in enumerate(PLANS)})
    plain = race(PLANS, losses, 8)
    with Journal.open(tmp_path / "j", "run") as journal:
        assert race(PLANS, journaled_losses(losses, journal), 8) == plain
    with Journal.open(tmp_path / "j", "run") as journal:
        assert race(PLANS, journaled_losses(lambda plans, batch: 1 / 0, journal), 8) == plain


def test_another_runs_journal_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "search.jsonl"
    one = {"weights": "a", "settings": {"seed": 1, "scorer": "taylor"}, "data": ["x"]}
    with Journal.open(path, one) as journal:
        journal.record({"layer:0": 1.0})
    before = path.read_bytes()
    other = {"weights": "b", "settings": {"seed": 2, "scorer": "taylor"}, "data": ["x"]}
    with pytest.raises(SearchError, match=r"journal of another run \(different: settings\.seed, weights\)") as caught:
        Journal.open(path, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(SearchError, match=r"\(different: its fingerprint\)"):
        Journal.open(path, "a text")
    assert path.read_bytes() == before
    with Journal.open(path, one) as journal:
        assert dict(journal.known) == {"layer:0": 1.0}


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_end_is_dropped_and_the_rest_kept(tmp_path, cut):
    path = tmp_path / "search.jsonl"
    with Journal.open(path, "run") as journal:
        journal.record({"layer:0": 1.0})
        journal.record({"layer:1": 2.0})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal.open(path, "run") as journal:
        assert dict(journal.known) == ({"layer:0": 1.0} if cut <= 33 else {})
        journal.record({"layer:1": 2.0} if cut <= 33 else {"layer:0": 1.0, "layer:1": 2.0})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 1, 20, 50])
def test_a_torn_first_line_begins_the_journal_anew(tmp_path, length):
    path = tmp_path / "search.jsonl"
    Journal.open(path, "a run of some length").close()
    path.write_bytes(path.read_bytes()[:length])
    with Journal.open(path, "another") as journal:
        assert not journal.known


def test_a_damaged_journal_and_another_file_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "search.jsonl"
    with Journal.open(path, "run") as journal:
        journal.record({"layer:0": 1.0, "layer:1": 2.0})
    damaged = path.read_bytes().replace(b'{"key": "layer:0"', b'{"kez": "layer:0"')
    path.write_bytes(damaged)
    with pytest.raises(SearchError, match=r"line 2 of .* is damaged; delete the journal"):
        Journal.open(path, "run")
    assert path.read_bytes() == damaged
    for text in ("my notes", "my notes\n", '{"a": 1}\n'):
        path.write_text(text)
        with pytest.raises(SearchError, match="is not the journal of a search"):
            Journal.open(path, "run")
        assert path.read_text() == text


def test_two_at_once_are_refused_and_the_lock_ends_with_the_journal(tmp_path):
    with Journal.open(tmp_path / "j", "run"), pytest.raises(SearchError, match="another search is at work on"):
        Journal.open(tmp_path / "j", "run")
    Journal.open(tmp_path / "j", "run").close()


SLOW_SEARCH = """
import sys
from prune_bert.search import Journal, exhaustive, journaled, layer_sites

log, count = open(sys.argv[2], "a"), int(sys.argv[3])

def objective(plans):
    for plan in plans:
        log.write(f"{plan}\\n")
        log.flush()
        if count and len(open(sys.argv[2]).readlines()) >= count:
            sys.stdin.read()  # until it is killed
    return [float(len(str(plan))) for plan in plans]

with Journal.open(sys.argv[1], "run") as journal:
    result = exhaustive(journaled(objective, journal), layer_sites(6), plans_per_call=4)
print(len(result.evaluated), flush=True)
"""


def test_a_search_killed_outright_loses_at_most_the_batch_in_hand(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(SLOW_SEARCH)
    journal, log = tmp_path / "search.jsonl", tmp_path / "log"

    def start(stops_after):
        command = [sys.executable, str(script), str(journal), str(log), str(stops_after)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def evaluated():
        return log.read_text().splitlines() if log.exists() else []

    victim = start(18)
    while len(evaluated()) < 18 and victim.poll() is None:
        time.sleep(0.01)
    rival = start(0)
    assert rival.wait() != 0  # refused while the first one lives
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    before = evaluated()
    assert 18 <= len(before) < 64
    done = start(0)
    output, _ = done.communicate()
    assert (done.returncode, output.strip()) == (0, "64")
    again = [item for item in evaluated()[len(before) :] if item in before]
    assert len(again) <= 4
    assert len(set(evaluated())) == 64


# The house


def test_the_search_imports_plans_errors_and_knobs_only():
    code = (
        "import sys, prune_bert.search\n"
        "print(*sorted(name for name in sys.modules if name.startswith('prune_bert.')), sep=' ')\n"
        "print(*sorted({'torch', 'numpy', 'transformers', 'pydantic', 'scipy'} & set(sys.modules)))"
    )
    ours, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    outside = [name for name in ours.split() if not name.startswith("prune_bert.search")]
    assert {name.split(".")[1] for name in outside} == {"errors", "knobs", "plan", "storage"}
    assert heavy == ""


def test_plans_sort_depth_first():
    ordered = sorted(subsets(layer_sites(3)), key=forward_order)
    names = [str(item).removeprefix("layer:") for item in ordered]
    assert names == ["0-2", "0-1", "0,2", "0", "1-2", "1", "2", ""]
    assert Evaluated(ordered[0], 1.0) == Evaluated(plan("layer:0-2"), 1.0)
