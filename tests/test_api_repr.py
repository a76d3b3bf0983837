"""Every result shows itself: on a few lines and in a small HTML table, whatever it holds."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import make_tiny_bert
from hypothesis import given
from hypothesis import strategies as st

import prune_bert
from prune_bert import (
    Comparison,
    Compensation,
    Identity,
    LatencyPoint,
    PruningPlan,
    PruningReport,
    Site,
    TaskScore,
    bypass,
    replace_with_identity,
)
from prune_bert.checkpoint import LoadedModel
from prune_bert.compensation import SiteFit
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.display import HTML_ROWS, Displayed, Shown
from prune_bert.evaluation import MetricValue
from prune_bert.importance import Score, SiteScores
from prune_bert.plan import COMPONENTS
from prune_bert.profiling import ModelSize
from prune_bert.recovery import RecoverPhase, RecoverResult
from prune_bert.report import Estimate, ModelInfo, PlanInfo, Row, TaskInfo
from prune_bert.search import SearchResult
from prune_bert.search.objective import Evaluated
from prune_bert.surgery import Bypass
from prune_bert.tasks import TaskData, as_task_data
from prune_bert.training import TrainResult

NASTY = "<script>alert(\"x\")</script> | 'c' & \n\n " + "long " * 100
NUMBERS = [0.893, 0.0, -1e-12, 1e300, math.nan, math.inf, -math.inf]

sites = st.builds(Site, st.integers(0, 99), st.sampled_from(COMPONENTS))
sublayers = st.builds(Site, st.integers(0, 99), st.sampled_from(["attention", "ffn"]))


def metric(value):
    return MetricValue(value, (value, value))


def task_score(value=0.893, name="sst2", count=1):
    metrics = {f"{name} {i}" if count > 1 else "accuracy": metric(value) for i in range(count)}
    ids = np.zeros(872, np.int64)
    return TaskScore(name, "validation", 872, metrics, value, ids, ids, np.zeros((872, 2), np.float32), 4.1)


def comparison(value=-0.012, name="accuracy", count=1):
    differences = {f"{name}{i or ''}": metric(value) for i in range(count)}
    return Comparison(differences, 21, 7, 0.967)


def latency(value=12.34, name="pruned", count=20):
    return LatencyPoint(name, 32, 128, value, value, value, (value,) * count, 1.37, (value, value))


def site_scores(value=0.25, name="block_influence", count=6):
    return SiteScores(name, {Site(i): Score(value, value) for i in range(count)}, 512, value)


def search_result(value=0.25, name="greedy", count=3):
    path = tuple(Evaluated(PruningPlan.parse(f"layer:0-{i % 20}"), value) for i in range(count))
    return SearchResult(name, path, path, (), value)


def compensation(value=0.41, name="", count=2):
    found = {Site(i, "ffn"): FittedSite(Correction(8, CorrectionSpec(2))) for i in range(count)}
    fits = {site: SiteFit(2, 0, value, value, 9812) for site in found}
    return Compensation(PruningPlan(tuple(found)), found, fits, (name,), num_hidden_layers=max(count, 1))


def report(value=0.893, name="minilm", count=2):
    rows = [
        Row(
            name="baseline" if i == 0 else f"state {i}",
            metrics={"accuracy": Estimate(value, (value, value))},
            n=872,
            size=ModelSize(22_713_986, 10) if i else None,
            latency=(latency(1.0),) if i else (),
        )
        for i in range(max(count, 1))
    ]
    return PruningReport(
        created="",
        command="",
        environment={},
        model=ModelInfo(name, "bert", 6),
        task=TaskInfo("sst2", "validation", 872, ("accuracy",), ""),
        plan=PlanInfo.of(PruningPlan.parse("ffn:3")),
        rows=tuple(rows),
    )


def loaded_model(value=0, name="embedded", count=1):
    return LoadedModel(make_tiny_bert(), None, name, (name,) * count)


def recover_result(value=31.2, name="ffn:3", count=1):
    training = TrainResult(200, 1.0, value, value, (), value, None, ((100, -1.0), (180, -0.5)), stopped_early=True)
    return RecoverResult((RecoverPhase(name, training),) * count, 4096, 128)


def task_data(value=0, name="text", count=3):
    rows = [{"some text": name, "label": "no" if i % 2 else name} for i in range(max(count, 1))]
    return as_task_data(rows, text_columns="some text", split=name)


def pruning_plan(value=0, name="", count=3):
    return PruningPlan(tuple(Site(2 * i, "ffn") for i in range(count)))


def a_bypass(value=0, name="", count=2):
    return bypass(make_tiny_bert(), PruningPlan(tuple(Site(i, "ffn") for i in range(min(count, 4)))))


RESULTS = [
    (task_score, "sst2 validation, 872 examples, loss 0.893, seconds 4.1 accuracy 89.3 89.3 to 89.3"),
    (comparison, "right to wrong 21, wrong to right 7, agreement 0.967 accuracy -1.2 -1.2 to -1.2"),
    (latency, "pruned, batch size 32, tokens 128, p50 12.34 ms, throughput speed-up 1.37 samples 20"),
    (compensation, "plan 'ffn:0-1', 2 corrections, hidden size 8 ffn:0 ffn:1 0.41 9,812"),
    (site_scores, "block_influence, 6 sites, 512 examples layer:0 layer:5 0.25"),
    (search_result, "greedy, evaluated 3, best 'layer:0-2' 0.25 layer:0-1"),
    (report, "minilm on sst2 validation, 872 examples 'ffn:3' baseline state 1 89.3 x1.37 22,713,986"),
    (loaded_model, "embedded BertForSequenceClassification layers 4 hidden size 32 float32 negative, positive"),
    (recover_result, "200 steps on 4,096 rows, stopped early set aside 128 best step 180 31.2"),
    (task_data, "data text, 3 examples no, text from the list of rows"),
    (pruning_plan, "ffn:0,2,4"),
    (a_bypass, "BertForSequenceClassification 'ffn:0-1' not in place"),
]
MAKERS = [make for make, _ in RESULTS]


class Checker(HTMLParser):
    """Collects the tags and the text of a well-nested piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], set(), []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(value):
    """Check the laws, and give both texts."""
    text, html = repr(value), value._repr_html_()
    assert text.startswith(type(value).__name__)
    assert "object at 0x" not in text + html  # what stands there where showing failed
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) < 1500
    page = Checker(html)
    assert page.tags <= {"table", "caption", "tbody", "tr", "th", "td", "code"}
    return text, " ".join(page.text)


@pytest.mark.parametrize(("make", "words"), RESULTS, ids=lambda make: getattr(make, "__name__", ""))
def test_what_a_person_wants_to_know_is_shown(make, words):
    text, page = check(make())
    for word in words.replace(",", "").split():
        assert word in text.replace(",", "")
    if make is not pruning_plan:
        facts = [word for word in words.replace(",", "").split() if any(letter.isdigit() for letter in word)]
        assert [word for word in facts if word not in page.replace(",", "")] == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("value", NUMBERS)
def test_any_number_is_shown(make, value):
    check(make(value))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("count", [0, 1, 17, 250])
def test_any_number_of_rows_is_shown(make, count):
    text, page = check(make(count=count))
    if make in (site_scores, search_result, compensation, report) and count == 250:
        assert "... and 234 more" in text
        assert f"... and {250 - HTML_ROWS} more" in page


@pytest.mark.parametrize("make", MAKERS)
def test_any_text_is_escaped_and_kept_on_its_line(make):
    value = make(name=NASTY)
    text, page = check(value)
    assert "<script" not in value._repr_html_()
    if "alert" in text:
        assert "<script>alert" in page


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_half_built_is_shown_too(make):
    half = object.__new__(type(make()))
    assert type(half).__name__ in repr(half)
    Checker(half._repr_html_())


@given(st.lists(sublayers, max_size=40).map(tuple), st.sampled_from(["keep", "skip"]))
def test_a_plan_and_its_sites_can_be_read_back(given_sites, norm):
    plan = PruningPlan(given_sites, norm)
    assert eval(repr(plan)) == plan
    assert all(eval(repr(site)) == site for site in plan)
    check(plan)


@given(sites)
def test_a_site_is_shown(site):
    check(site)


def test_a_bypass_says_whether_it_is_in_place():
    made = a_bypass()
    assert "not in place" in repr(made)
    with made:
        assert "not in place" not in repr(made)
        assert "in place" in repr(made)


def test_identities_show_what_they_return():
    model = make_tiny_bert()
    plain, page = check(Identity())
    assert "hidden_states" in plain
    assert "hidden_states" in page
    with bypass(model, "ffn:3 layer:1"):
        shown = [check(module) for module in model.modules() if isinstance(module, Identity)]
    assert any("LayerNorm" in text and "BertOutput" in page for text, page in shown)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4))
    replace_with_identity(network, "0", example_inputs=torch.ones(1, 4))
    check(network[0])


def test_every_public_class_of_results_is_here():
    """A new one must be added to the laws."""
    settings = {"CompensationSettings", "RecoverSettings", "RunConfig"}
    names = [name for name in prune_bert.__all__ if isinstance(getattr(prune_bert, name), type)]
    classes = {name for name in names if not issubclass(getattr(prune_bert, name), Exception)} - settings
    shown = {type(make()).__name__ for make in MAKERS} | {"Site", "Identity"}
    assert classes <= shown
    assert {Bypass, LoadedModel, SiteScores, SearchResult, TaskData, RecoverResult} <= {type(m()) for m in MAKERS}


def test_a_table_is_as_long_as_it_may_be():
    class Result(Displayed):
        def _shown(self):
            return Shown(NASTY, [(f"fact {i}", NASTY) for i in range(3)], ("a", "b"), [(NASTY, "1")] * 1000)

    text, _ = check(Result())
    assert len(text.splitlines()) == 19
