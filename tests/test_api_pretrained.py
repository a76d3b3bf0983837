"""What `save_pretrained` wrote comes back equal, whole or not at all, and is refused where it does not belong."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_tiny_bert
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from prune_bert import (
    Compensation,
    CompensationSettings,
    PruningPlan,
    Site,
    bypass,
    compensate,
    drop,
    save_pruned,
)
from prune_bert.compensation import CompensationError
from prune_bert.compensation.result import FACTS_FILE, WEIGHTS_FILE
from prune_bert.errors import UserError
from prune_bert.pipeline.outputs import write_plan
from prune_bert.pipeline.session import read_plan
from prune_bert.plan import _RECORD, NORM_RULES, PLAN_FILE, PlanError
from prune_bert.surgery import CONFIG_KEY

ROWS = [{"text": " ".join(WORDS[start : start + 12])} for start in range(40)]
PLAN = "layer:1 ffn:2,3"

sublayer_sites = st.builds(Site, st.integers(0, 30), st.sampled_from(["attention", "ffn"]))
layer_sites = st.builds(Site, st.integers(31, 60), st.just("layer"))
plans = st.builds(
    PruningPlan, st.lists(sublayer_sites | layer_sites, max_size=6).map(tuple), st.sampled_from(NORM_RULES)
)


def one_line(caught):
    text = str(caught.value)
    return "\n" not in text and len(text) < 400


# plans


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans)
def test_a_plan_comes_back_equal(tmp_path_factory, plan):
    directory = tmp_path_factory.mktemp("plan") / "new" / "directory"
    file = plan.save_pretrained(directory)
    assert file == directory / PLAN_FILE
    assert PruningPlan.from_pretrained(directory) == PruningPlan.from_pretrained(str(file)) == plan
    assert [path.name for path in directory.iterdir()] == [PLAN_FILE]


def test_the_file_is_the_one_of_a_run(tmp_path):
    plan = PruningPlan.parse("ffn:3 attention:1")
    (tmp_path / "run").mkdir()
    of_run = write_plan(plan, tmp_path / "run")
    file = plan.save_pretrained(tmp_path / "ours")
    assert file.read_bytes() == of_run.read_bytes()
    assert read_plan(str(file)) == PruningPlan.from_pretrained(of_run) == plan
    chosen = of_run.rename(of_run.with_name("chosen_plan.json"))
    assert PruningPlan.from_pretrained(chosen) == plan
    with pytest.raises(PlanError, match=r"holds neither plan.json nor .* but chosen_plan.json; name the file"):
        PruningPlan.from_pretrained(chosen.parent)


@pytest.mark.parametrize("form", ["portable", "compact"])
def test_a_pruned_checkpoint_tells_its_plan(form, tiny_bert, tmp_path):
    drop(drop(tiny_bert, "layer:1"), "ffn:1")  # layer 2 before the first removal
    save_pruned(tiny_bert, tmp_path / "model", format=form)
    for path in (tmp_path / "model", tmp_path / "model" / "config.json"):
        assert PruningPlan.from_pretrained(path) == PruningPlan.parse("layer:1 ffn:2")
    PruningPlan.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "model")
    assert PruningPlan.from_pretrained(tmp_path / "model") == PruningPlan.parse("layer:1 ffn:2")


def test_a_directory_with_two_plans_says_so(tiny_bert, tmp_path):
    save_pruned(drop(tiny_bert, "ffn:3"), tmp_path / "model")
    PruningPlan.parse("ffn:2").save_pretrained(tmp_path / "model")
    with pytest.raises(PlanError, match=r"two plans: plan.json has 'ffn:2' and config.json 'ffn:3'; name the file"):
        PruningPlan.from_pretrained(tmp_path / "model")
    assert PruningPlan.from_pretrained(tmp_path / "model" / PLAN_FILE) == PruningPlan.parse("ffn:2")


def test_a_plan_beside_an_unpruned_model_is_read(tiny_checkpoint, tmp_path):
    with pytest.raises(PlanError, match="of a model that is not pruned"):
        PruningPlan.from_pretrained(tiny_checkpoint)
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    PruningPlan.parse("ffn:2").save_pretrained(tmp_path)
    assert PruningPlan.from_pretrained(tmp_path) == PruningPlan.parse("ffn:2")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("plan.json", None, "there is no such file or directory"),
        ("plan.json", "{", "is not JSON"),
        ("plan.json", "[1]", "a plan in JSON looks like"),
        ("plan.json", '{"sites": [{"layer": 0, "component": "fnn"}]}', "unknown component 'fnn'"),
        ("config.json", '{"prune_bert": {"plan": "fnn:3"}}', "unknown component 'fnn'"),
        ("config.json", '{"prune_bert": {}}', "remembers no plan"),
        ("config.json", "\x00", "is not JSON"),
    ],
)
def test_what_holds_no_plan_is_refused_in_one_line(name, content, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PlanError, match=says) as caught:
        PruningPlan.from_pretrained(tmp_path / name)
    assert one_line(caught)


def test_a_plan_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    old, new = PruningPlan.parse("ffn:1"), PruningPlan.parse("ffn:2")
    old.save_pretrained(tmp_path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(PlanError, match="No space left on device"):
            new.save_pretrained(tmp_path)
    assert PruningPlan.from_pretrained(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_FILE]
    with pytest.raises(PlanError, match="cannot write"):
        new.save_pretrained(tmp_path / PLAN_FILE)


def test_the_key_of_the_record_is_the_one_that_surgery_writes():
    assert _RECORD == CONFIG_KEY


# compensations


@pytest.fixture(scope="module")
def model():
    return make_tiny_bert()


@pytest.fixture(scope="module")
def fitted(model, tiny_tokenizer):
    return compensate(model, PLAN, ROWS, tiny_tokenizer, max_seq_length=32)


def same(ours, theirs):
    if ours is None or theirs is None:
        return ours is theirs
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def assert_equal(ours, theirs):
    assert (ours.plan, ours.notes, ours.num_hidden_layers) == (theirs.plan, theirs.notes, theirs.num_hidden_layers)
    assert str(ours.fits) == str(theirs.fits)  # an error may be nan
    assert list(ours) == list(theirs)
    for site, one in ours.items():
        other = theirs[site]
        assert one.correction.spec == other.correction.spec
        mine, its = one.correction.state_dict(), other.correction.state_dict()
        assert mine.keys() == its.keys()
        assert all(same(mine[name], its[name]) for name in mine)
        assert same(one.norm_weight, other.norm_weight)
        assert same(one.norm_bias, other.norm_bias)


@pytest.mark.parametrize(
    "choice",
    [
        CompensationSettings(),
        CompensationSettings(form="affine", refit_norm=False, ridge=0.1),
        CompensationSettings(form="neurons", neurons=3, rank=2),
        CompensationSettings(placement="after", rank=4),
    ],
    ids=lambda choice: f"{choice.form} {choice.placement}",
)
def test_a_compensation_comes_back_bit_equal(choice, model, tiny_tokenizer, tmp_path):
    ours = compensate(model, PLAN, ROWS, tiny_tokenizer, settings=choice, max_seq_length=32)
    directory = ours.save_pretrained(tmp_path / "new" / "directory")
    theirs = Compensation.from_pretrained(directory, model)
    assert_equal(ours, theirs)
    assert_equal(ours, Compensation.from_pretrained(directory / WEIGHTS_FILE))
    batch = tiny_tokenizer([row["text"] for row in ROWS[:3]], return_tensors="pt", padding=True)
    with torch.no_grad(), bypass(model, PLAN, ours):
        expected = model(**batch).logits
    with torch.no_grad(), bypass(model, PLAN, theirs):
        assert torch.equal(model(**batch).logits, expected)
    assert sorted(path.name for path in directory.iterdir()) == [FACTS_FILE, WEIGHTS_FILE]


def test_nan_is_null_in_the_json(fitted, tmp_path):
    site, fit = next(iter(fitted.fits.items()))
    unknown = Compensation(fitted.plan, fitted, {**fitted.fits, site: dataclasses.replace(fit, error=float("nan"))})
    unknown.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / FACTS_FILE).read_text(), parse_constant=pytest.fail)["fits"][str(site)]["error"] is None
    )
    assert_equal(Compensation.from_pretrained(tmp_path), unknown)


def test_what_earlier_versions_wrote_is_read(fitted, model, tmp_path):
    """They knew neither the hidden size nor the depth."""
    fitted.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["compensation"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del facts["hidden_size"], facts["num_hidden_layers"]
    save_file(tensors, tmp_path / WEIGHTS_FILE, metadata={"compensation": json.dumps(facts)})
    found = Compensation.from_pretrained(tmp_path, model)
    assert found.num_hidden_layers is None
    assert found.hidden_size == 32
    found.num_hidden_layers = fitted.num_hidden_layers
    assert_equal(found, fitted)


@pytest.mark.parametrize(
    ("sizes", "plan", "says"),
    [
        ({"hidden_size": 16}, PLAN, "fitted for hidden size 32, not 16;"),
        ({"num_hidden_layers": 6}, PLAN, "fitted for number of layers 4, not 6;"),
        ({}, "ffn:2,3", r"fitted for plan 'layer:1 ffn:2-3', not 'ffn:2-3';"),
        ({}, f"{PLAN} norm=skip", "not 'layer:1 ffn:2-3 norm=skip';"),
        (
            {"hidden_size": 16, "num_hidden_layers": 6},
            "ffn:1",
            "hidden size 32, not 16 and number of layers 4, not 6 and",
        ),
    ],
    ids=["width", "depth", "plan", "norm", "all"],
)
def test_a_compensation_of_another_model_or_plan_is_refused(sizes, plan, says, fitted, tmp_path):
    other = make_tiny_bert(**sizes)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for use in (bypass, drop, lambda *given: fitted.check_fits(*given[:2])):
        with pytest.raises(CompensationError, match=says) as caught:
            use(other, plan, fitted)
        assert one_line(caught)
    after = other.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    if sizes:
        fitted.save_pretrained(tmp_path)
        with pytest.raises(CompensationError, match="does not belong here"):
            Compensation.from_pretrained(tmp_path, other)


def test_plain_corrections_are_the_callers_own_affair(fitted, model):
    some = {site: fitted[site] for site in list(fitted)[1:]}
    with bypass(model, PLAN, some):
        pass


def broken(directory, what):
    weights, facts = directory / WEIGHTS_FILE, directory / FACTS_FILE
    if what == "missing":
        weights.unlink()
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif what == "something else":
        save_file({"a": torch.zeros(2)}, weights)
    elif what == "a tensor less":
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in list(file.keys())[1:]}
        save_file(tensors, weights, metadata=metadata)
    elif what == "another's facts":
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"plan": "ffn:0"}))
    elif what == "no JSON":
        facts.write_text("{")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "holds no compensation: there is no file"),
        ("truncated", "holds no compensation"),
        ("something else", "holds no compensation"),
        ("a tensor less", "holds no compensation"),
        ("another's facts", "is of another compensation than"),
        ("no JSON", "cannot read"),
    ],
)
def test_a_damaged_compensation_is_refused_in_one_line(what, says, fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    broken(tmp_path, what)
    with pytest.raises(UserError, match=says) as caught:
        Compensation.from_pretrained(tmp_path)
    assert one_line(caught)


@pytest.mark.parametrize("write", [1, 2])
def test_a_save_that_fails_leaves_a_whole_compensation(write, fitted, model, tiny_tokenizer, tmp_path, monkeypatch):
    """The old one or the new one, but never the weights of one with the facts of the other."""
    old = compensate(model, "ffn:0", ROWS, tiny_tokenizer, max_seq_length=32)
    old.save_pretrained(tmp_path)
    replace, calls = Path.replace, []

    def full(self, target):
        calls.append(target)
        if len(calls) == write:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(CompensationError, match="No space left on device"):
            fitted.save_pretrained(tmp_path)
    assert_equal(Compensation.from_pretrained(tmp_path), old if write == 1 else fitted)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
