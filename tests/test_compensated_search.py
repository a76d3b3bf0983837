"""A search with the fit inside its loop: quick fits against full ones, what is on disk, resuming, each mistake."""

import json
import math
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from processes import run_until_killed, torchrun

from prune_bert import PruningPlan, bypass, evaluate, load_task
from prune_bert.cli import main
from prune_bert.compensation import CompensationSettings, compensate
from prune_bert.compensation.candidates import PlanFits, new_run
from prune_bert.compensation.passes import Slice
from prune_bert.config import SearchConfig
from prune_bert.evaluation import encode
from prune_bert.pipeline import search_compensated, searching
from prune_bert.pipeline.front import count_parameters
from prune_bert.pipeline.plan_values import divergences
from prune_bert.pipeline.search_choices import compensation_words
from prune_bert.pipeline.search_compensated import blank_of
from prune_bert.pipeline.search_forward import score_compensated, score_group
from prune_bert.pipeline.search_groups import groups_of
from prune_bert.plan import Site
from prune_bert.report import front
from prune_bert.search import STRATEGIES, sublayer_sites

ROOT = Path(__file__).resolve().parents[1]


def plan(text):
    return PruningPlan.parse(text)


@pytest.fixture
def train(data_dir, tiny_tokenizer):
    return encode(tiny_tokenizer, load_task("sst2", data_dir=str(data_dir), splits=("train",))["train"], 32)


def fits_of(model, encoded, **settings):
    settings = CompensationSettings(**{"rank": 4, "ridge": 0.3, **settings})
    examples = Slice(encoded, Accelerator(cpu=True), 16, settings.folds)
    return PlanFits(model, examples, settings, torch.float32), settings


def assert_equal_fits(one, other, tolerance=1e-5):
    assert set(one) == set(other)
    for site in one:
        a, b = one[site].correction.state_dict(), other[site].correction.state_dict()
        assert set(a) == set(b)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)
        if one[site].norm_weight is not None:
            torch.testing.assert_close(one[site].norm_weight, other[site].norm_weight, rtol=tolerance, atol=tolerance)


FORMS = [
    {},
    {"refit_norm": False},
    {"placement": "after"},
    {"form": "neurons", "neurons": 6},
    {"form": "affine"},
]


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_a_quick_fit_of_the_last_site_is_the_full_fit(tiny_bert, train, settings):
    fits, settings = fits_of(tiny_bert, train, **settings)
    base, extended = plan("attention:0 ffn:1"), plan("attention:0 ffn:1,3")
    before = {name: value.clone() for name, value in tiny_bert.state_dict().items()}
    quick = fits.added(base, [plan("attention:0,2 ffn:1"), extended])[1]
    whole = compensate(tiny_bert, extended, train, settings=settings, batch_size=16)
    assert_equal_fits(dict(quick), dict(whole))
    for name, value in tiny_bert.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("base", "extended"),
    [
        ("", "layer:2"),
        ("layer:1", "layer:1-2"),
        ("layer:2", "layer:1-2"),
        ("layer:0,2", "layer:0-2"),
        ("attention:2 ffn:0", "layer:2 ffn:0"),
        ("attention:1 norm=skip", "attention:1 ffn:2 norm=skip"),
    ],
)
def test_whole_layers_and_exact_identities_are_fitted_like_any_site(tiny_bert, train, base, extended):
    fits, settings = fits_of(tiny_bert, train)
    quick = fits.added(PruningPlan(plan(base).sites, plan(extended).norm) if base else PruningPlan(), [plan(extended)])
    assert_equal_fits(
        dict(quick[0]), dict(compensate(tiny_bert, plan(extended), train, settings=settings, batch_size=16))
    )


def test_a_quick_fit_depends_on_its_plan_and_base_alone(tiny_bert, train, monkeypatch):
    plans = [plan("attention:0,2"), plan("attention:2 ffn:3"), plan("attention:2-3")]
    together = fits_of(tiny_bert, train)[0].added(plan("attention:2"), plans)
    alone = [fits_of(tiny_bert, train)[0].added(plan("attention:2"), [one])[0] for one in plans]
    monkeypatch.setattr("prune_bert.compensation.candidates._KEPT_BYTES", 10)  # no room to remember one site's tokens
    again = fits_of(tiny_bert, train)[0].added(plan("attention:2"), plans)
    for one, other, third in zip(together, alone, again, strict=True):
        assert_equal_fits(dict(one), dict(other), tolerance=0)
        assert_equal_fits(dict(one), dict(third), tolerance=0)


def test_full_fits_of_many_plans_are_those_of_compensate(tiny_bert, train):
    fits, settings = fits_of(tiny_bert, train, ridge=None, rank=None, max_cost=0.5)
    for text in ("ffn:1", "ffn:1-2", "attention:0 ffn:1-2", "ffn:1 layer:3", "ffn:1 layer:2-3"):
        whole = compensate(tiny_bert, plan(text), train, settings=settings, batch_size=16)
        found = fits.whole(plan(text))
        assert_equal_fits(dict(found), dict(whole), tolerance=0)
        assert (found.fits, found.notes) == (whole.fits, whole.notes)


def test_a_group_evaluated_together_is_each_plan_alone(tiny_bert, train):
    config = SearchConfig(model_name_or_path="m", task_name="sst2", output_dir="o", per_device_eval_batch_size=16)
    fits, _ = fits_of(tiny_bert, train)
    base = plan("ffn:1 layer:3")
    plans = [plan(text) for text in ("attention:0 ffn:1 layer:3", "ffn:1 layer:2-3", "attention:2 ffn:1 layer:3")]
    fitted = dict(zip(plans, fits.added(base, plans), strict=True))
    inputs = (train, Accelerator(cpu=True))
    together = score_group(config, tiny_bert, (base, fits.quick(base)), fitted, *inputs, description="")
    alone = score_compensated(config, tiny_bert, fitted, *inputs, description="")
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        assert one.metrics["accuracy"].value == other.metrics["accuracy"].value
    assert np.abs(together[0].logits - together[2].logits).max() > 1e-3


# Groups


class Recorded:
    """An objective from a rule that remembers with which plans each call came."""

    def __init__(self):
        self.calls = []

    def __call__(self, plans):
        self.calls.append([one for one in plans if one])
        return [sum((site.layer + 1) * (2 if site.component == "ffn" else 1) for site in one) for one in plans]


def test_each_step_of_a_greedy_search_is_one_group():
    objective = Recorded()
    result = STRATEGIES["greedy"](objective, sublayer_sites(4))
    for found, call in zip(result.path, objective.calls, strict=False):
        (group,) = groups_of(call)
        assert group.base == (found.plan if len(call) > 1 else None)
        assert set(group.plans) == set(call)


def test_the_groups_of_a_beam_hold_every_plan_once():
    objective = Recorded()
    STRATEGIES["beam"](objective, sublayer_sites(4), width=3)
    for call in objective.calls:
        groups = groups_of(call)
        assert sorted(map(str, (one for group in groups for one in group.plans))) == sorted(map(str, call))
        assert groups == groups_of(call[::-1])
        for group in groups:
            assert group.base is None or all(new_run(group.base, one) for one in group.plans)
    assert max(len(groups_of(call)) for call in objective.calls) <= 6


def test_plans_without_a_common_base_are_each_fitted_in_full():
    nested = [plan("layer:3"), plan("layer:2-3"), plan("layer:1-3")]
    groups = groups_of(nested)
    assert [group.base for group in groups] == [None] * 3
    assert {one for group in groups for one in group.plans} == set(nested)
    assert groups_of([]) == []


def test_a_layer_may_take_the_place_of_its_sublayers():
    (group,) = groups_of([plan("layer:2"), plan("attention:1-2"), plan("attention:2-3")])
    assert group.base == plan("attention:2")
    assert new_run(group.base, plan("layer:2")) == (Site(2),)
    with pytest.raises(ValueError, match="not one site more"):
        new_run(plan("attention:2"), plan("attention:2"))


# The objective


def test_the_divergence_is_nothing_for_the_unpruned_model_and_above_for_others(tiny_bert, train):
    unpruned = evaluate(tiny_bert, train)
    assert divergences(unpruned.logits, unpruned).tolist() == [0.0] * len(train)
    with bypass(tiny_bert, plan("layer:1")):
        pruned = evaluate(tiny_bert, train)
    found = divergences(unpruned.logits, pruned)
    p, q = (torch.from_numpy(score.logits).double().softmax(-1).numpy() for score in (unpruned, pruned))
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(-1), atol=1e-12)
    assert found.mean() > 0


def test_compensation_in_words():
    assert compensation_words(None) == ""
    assert compensation_words(CompensationSettings()) == "compensation low_rank, rank 32"
    assert compensation_words(CompensationSettings(form="affine")) == "compensation affine"
    assert compensation_words(CompensationSettings(rank=None)) == "compensation low_rank, a rank by cross-validation"


# From end to end


@pytest.fixture
def flags(tiny_checkpoint, data_dir, tmp_path):
    """The flags of a quick search, by name."""
    return {
        "model_name_or_path": tiny_checkpoint,
        "task_name": "sst2",
        "data_dir": data_dir,
        "output_dir": tmp_path / "out",
        "max_seq_length": 32,
        "max_calibration_samples": 24,
        "n_resamples": "50",
        "device": "cpu",
        "compensation": "low_rank",
        "compensation_rank": 4,
        "sequence_length": 32,
        "batch_size": 8,
        "profile_rounds": 3,
        "profile_warmup": 1,
    }


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(front, "as_png", lambda figure: b"")
    monkeypatch.setattr(front, "as_svg", lambda figure: "")


def words(flags, **changes):
    given = {name: value for name, value in {**flags, **changes}.items() if value is not None}
    return ["search", *(word for name, value in given.items() for word in (f"--{name}", *str(value).split()))]


def run(flags, capsys, **changes):
    code = main(words(flags, **changes))
    return code, *capsys.readouterr()


def result(directory):
    return json.loads((directory / "search.json").read_text())


def values(directory):
    return [{k: v for k, v in one.items() if k != "predicted_ms"} for one in result(directory)["search"]["plans"]]


def test_a_search_with_compensation_leaves_all_it_promises_and_its_command_reproduces(flags, capsys):
    code, out, err = run(flags, capsys, max_accuracy_drop=100, max_removed=3)
    assert code == 0, err
    found = result(flags["output_dir"])
    assert found["search"]["objective"] == "divergence"
    assert found["search"]["evaluated"] == 1 + 8 + 7 + 6
    assert found["n"] == {"calibration": 24, "validation": 41, "fit": 24}
    assert next(one for one in found["search"]["plans"] if not one["plan"])["divergence"] == 0
    assert any(
        "corrections were fitted to 24 rows of train, and plans chosen on 24 others" in n for n in found["notes"]
    )
    assert "compensation low_rank, rank 4" in out
    for name in ("front.html", "front.md"):
        assert "compensation low_rank, rank 4" in (flags["output_dir"] / name).read_text().replace("\\", "")
    assert json.loads((flags["output_dir"] / "chosen_plan.json").read_text())["text"] == found["chosen"]
    point = next(one for one in found["front"] if one["chosen"])
    command = shlex.split(point["command"])[1:]
    assert command[command.index("--compensation") + 1] == "low_rank"
    assert command[command.index("--max_calibration_samples") + 1] == "24"
    assert main([*command, "--no_save_model", "--no_measure_site_costs", "--no_profile"]) == 0
    row = json.loads((Path(command[command.index("--output_dir") + 1]) / "report.json").read_text())["rows"][-1]
    assert row["name"] == "compensated"
    assert row["metrics"]["accuracy"]["value"] == point["validation"]["value"]
    assert row["size"]["parameters"] == point["parameters"]


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "exhaustive"},
        {"strategy": "one_shot", "scorer": "top"},
        {"strategy": "greedy", "components": "attention layer", "compensation": "affine"},
        {"strategy": "beam", "beam_width": 2, "objective": "loss"},
        {"strategy": "sublayer", "max_removed": 2, "compensation": "neurons", "compensation_neurons": 8},
        {"strategy": "greedy", "keep_layers": 2, "norm": "skip", "compensation_rank": "none"},
    ],
    ids=str,
)
def test_every_strategy_finds_a_front(flags, capsys, no_pictures, changes):
    code, _, err = run(flags, capsys, **changes)
    assert code == 0, err
    found = result(flags["output_dir"])
    assert found["front"]
    assert not found["search"]["races"]
    assert found["search"]["objective"] == changes.get("objective", "divergence")
    if changes["strategy"] == "exhaustive":
        assert "15 plans over 4 sites, about" in err


LAYERS = {"strategy": "greedy"}  # whole layers save alike, so that no timing has a say in the order


def test_a_search_takes_up_what_its_journal_knows(flags, capsys, no_pictures, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(searching, "front_points", stop)
        assert run(flags, capsys, **LAYERS)[0] == 130
    with monkeypatch.context() as patch:
        patch.setattr(search_compensated, "score_group", stop)
        patch.setattr(search_compensated, "score_compensated", stop)
        code, _, err = run(flags, capsys, **LAYERS)
    assert code == 0, err
    assert run(flags, capsys, output_dir=tmp_path / "whole", **LAYERS)[0] == 0
    assert values(flags["output_dir"]) == values(tmp_path / "whole")
    journal = flags["output_dir"].with_name(".out.journal.jsonl")
    assert not journal.exists()


def test_the_journal_of_other_fits_is_refused(flags, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "front_points", stop)
    changes = {"strategy": "one_shot", "scorer": "top", "max_removed": 1}
    assert run(flags, capsys, **changes)[0] == 130
    code, _, err = run(flags, capsys, **{**changes, "compensation_rank": 5})
    assert code == 2
    assert "journal of another run (different: settings.compensation_rank)" in err


@pytest.mark.slow
def test_a_killed_search_ends_as_one_that_was_not(flags, capsys, no_pictures, tmp_path):
    """SIGKILL once the first step is on disk: what it knew stays, and the end is that of an undisturbed run."""
    journal = tmp_path / ".out.journal.jsonl"
    one_known = f"len(Path({str(journal)!r}).read_bytes().splitlines()) > 1"
    run_until_killed(words(flags, **LAYERS), "prune_bert.search.Journal.record", one_known, tmp_path)
    assert not flags["output_dir"].exists()
    before = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
    assert before[0]["key"] == "layer:0 beyond nothing"
    assert run(flags, capsys, **LAYERS)[0] == 0
    assert run(flags, capsys, output_dir=tmp_path / "whole", **LAYERS)[0] == 0
    assert values(flags["output_dir"]) == values(tmp_path / "whole")
    assert result(flags["output_dir"])["search"]["path"] == result(tmp_path / "whole")["search"]["path"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compensation_rank": 64}, "over the model's width of 32"),
        ({"max_calibration_samples": 3}, "at least 4 are needed to fit to"),
        ({"strategy": "beam", "racing": "true"}, "racing is for searches without a compensation"),
        ({"compensation": "neurons", "compensation_placement": "after"}, "before, for the form neurons"),
        ({"compensation_rank": "none", "compensation_max_cost": 0.0001}, "leaves no room for rank 1"),
        ({"data_dir": "OVERLAP"}, "also in validation"),
        ({"data_dir": "UNTRAINED"}, "train"),
        ({"compensation": "low_renk"}, "did you mean 'low_rank'"),
    ],
    ids=str,
)
def test_each_mistake_gets_one_line_and_nothing_is_left(flags, capsys, tmp_path, data_dir, monkeypatch, changes, says):
    monkeypatch.chdir(tmp_path)
    for name in ("OVERLAP", "UNTRAINED"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.tsv").write_bytes((data_dir / "dev.tsv").read_bytes())
    (tmp_path / "OVERLAP" / "train.tsv").write_bytes((data_dir / "dev.tsv").read_bytes())
    code, _, err = run(flags, capsys, **changes)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not flags["output_dir"].exists()
    assert not (tmp_path / ".out.journal.jsonl").exists()


def test_both_slices_shrink_where_train_is_small(flags, capsys, no_pictures):
    code, out, err = run(flags, capsys, max_calibration_samples=500, strategy="one_shot", max_removed=1)
    assert code == 0, err
    assert "fitted to 32 rows of train, and plans chosen on 32 others" in out
    assert "--max_calibration_samples 32" in result(flags["output_dir"])["front"][0]["command"]


def test_what_a_site_saves_is_less_by_its_correction(tiny_bert):
    def saved(settings):
        return count_parameters(tiny_bert, sublayer_sites(4), "keep", blank_of(tiny_bert, settings))[1]

    plain, low, full = (saved(one) for one in (None, CompensationSettings(rank=3), CompensationSettings(form="affine")))
    for site in sublayer_sites(4):
        assert plain[site] - low[site] == 2 * 3 * 32 + 32
        assert plain[site] - full[site] == 32 * 32 + 32
    neurons = saved(CompensationSettings(rank=3, form="neurons", neurons=5))
    assert low[Site(1, "ffn")] - neurons[Site(1, "ffn")] == 5 * (32 + 1 + 32)
    assert low[Site(1, "attention")] == neurons[Site(1, "attention")]


@pytest.mark.slow
def test_several_processes_find_what_one_finds(flags, capsys, tmp_path):
    changes = {"strategy": "exhaustive", "max_removed": 2}
    run(flags, capsys, **changes)
    other = tmp_path / "two"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = torchrun("-m", "prune_bert", *words(flags, output_dir=other, **changes))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(other)["environment"]["processes"] == 2
    for one, two in zip(values(flags["output_dir"]), values(other), strict=True):
        assert one["plan"] == two["plan"]
        assert math.isclose(one["divergence"], two["divergence"], rel_tol=1e-4, abs_tol=1e-9)
