"""Plans as values: text and JSON round trips, set algebra, and an error for each kind of slip."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_bert.plan import COMPONENTS, NORM_RULES, PlanError, PlanWarning, PruningPlan, Site

sublayer_sites = st.builds(Site, st.integers(0, 30), st.sampled_from(["attention", "ffn"]))
layer_sites = st.builds(Site, st.integers(31, 60), st.just("layer"))
plans = st.builds(
    PruningPlan, st.lists(sublayer_sites | layer_sites, max_size=12).map(tuple), st.sampled_from(NORM_RULES)
)


@given(plans)
def test_text_round_trip(plan):
    assert PruningPlan.parse(str(plan)) == plan


@given(plans)
def test_json_round_trip(plan):
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(plans, plans)
def test_set_algebra(a, b):
    b = dataclasses.replace(b, norm=a.norm)
    assert set(a | b) == set(a) | set(b)
    assert set(a & b) == set(a) & set(b)
    assert set(a - b) == set(a) - set(b)
    assert (a - b) | (a & b) == dataclasses.replace(a, norm=((a - b) | (a & b)).norm)


def test_text_form():
    plan = PruningPlan.parse("ffn:0,2 layer:9-11 attention:4 norm=skip")
    assert str(plan) == "layer:9-11 attention:4 ffn:0,2 norm=skip"
    assert plan.layers() == (9, 10, 11)
    assert plan.sublayers() == (Site(0, "ffn"), Site(2, "ffn"), Site(4, "attention"))
    assert Site(4, "attention") in plan
    assert len(plan) == 6


def test_sites_are_kept_in_forward_order_without_duplicates():
    plan = PruningPlan((Site(3, "ffn"), Site(3, "attention"), Site(1), Site(3, "ffn")))
    assert list(plan) == [Site(1), Site(3, "attention"), Site(3, "ffn")]


def test_empty_text_is_the_empty_plan():
    assert PruningPlan.parse("  ") == PruningPlan()
    assert not PruningPlan()


def test_a_layer_swallows_its_sublayers_with_a_warning():
    with pytest.warns(PlanWarning, match=r"attention:4, ffn:4: already removed"):
        plan = PruningPlan.parse("layer:4 attention:4 ffn:4,5")
    assert str(plan) == "layer:4 ffn:5"


def test_a_plan_is_immutable_and_hashable():
    plan = PruningPlan.parse("layer:1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.norm = "skip"
    assert {plan: 1}[PruningPlan.parse("layer:1")] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layer", r"'layer' has no ':'"),
        ("layr:3", r"unknown component 'layr'.*did you mean 'layer'"),
        ("fnn:3", r"did you mean 'ffn'"),
        ("layer:", r"'layer:': a layer number is missing"),
        ("layer:1,,2", r"a layer number is missing"),
        ("layer:a", r"'a' is neither a layer number nor a range"),
        ("layer:-1", r"layers count from 0"),
        ("layer:1.5", r"'1.5' is neither"),
        ("layer:1-2-3", r"'1-2-3' is neither"),
        ("layer:5-3", r"runs backwards; write 3-5"),
        ("layer: 3", r"a layer number is missing"),
        ("norm=kep", r"unknown norm rule 'kep'.*did you mean 'keep'"),
        ("nrm=keep", r"unknown option 'nrm'.*did you mean 'norm'"),
        ("norm=keep norm=skip", r"given twice"),
    ],
)
def test_each_syntax_fault_is_named(text, says):
    with pytest.raises(PlanError, match=says) as caught:
        PruningPlan.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], {}, {"sites": [{"layer": 1}]}, {"sites": [3]}, {"sites": "layer:1"}])
def test_json_that_is_no_plan_is_refused(data):
    with pytest.raises(PlanError, match="a plan in JSON looks like"):
        PruningPlan.from_json(data)


@pytest.mark.parametrize("layer", [-1, 1.0, "1", True])
def test_a_site_wants_a_whole_number(layer):
    with pytest.raises(PlanError, match="whole number"):
        Site(layer)


def test_different_norm_rules_do_not_combine():
    with pytest.raises(PlanError, match="do not combine"):
        PruningPlan.parse("ffn:1") | PruningPlan.parse("ffn:2 norm=skip")
    assert str(PruningPlan.parse("layer:1") | PruningPlan.parse("ffn:2 norm=skip")) == "layer:1 ffn:2 norm=skip"


def test_components_are_the_three():
    assert COMPONENTS == ("layer", "attention", "ffn")
