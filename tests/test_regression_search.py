"""Searches on a regression with and without labels, and what racing costs: no row is scored twice."""

import json
import random

import numpy as np
import pytest
from conftest import WORDS, make_tiny_bert

from prune_bert import PruningPlan, bypass, evaluate, load_model, load_task
from prune_bert.architectures import find_encoder
from prune_bert.cli import main
from prune_bert.pipeline import calibration, plan_values
from prune_bert.report import front

QUICK = {"device": "cpu", "max_seq_length": 32, "n_resamples": 20, "sequence_length": 16, "profile_rounds": 2}
QUICK |= {"profile_warmup": 0}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(front, "as_png", lambda figure: b"")
    monkeypatch.setattr(front, "as_svg", lambda figure: "")


@pytest.fixture(scope="module")
def regression(tmp_path_factory, tiny_tokenizer):
    """A model with one output, and rows with and without a number to come near to."""
    directory = tmp_path_factory.mktemp("regression")
    make_tiny_bert(num_labels=1, id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}).save_pretrained(directory / "model")
    tiny_tokenizer.save_pretrained(directory / "model")
    draw = random.Random(0)
    for name, count in (("train", 48), ("dev", 24)):
        rows = [(" ".join(draw.choices(WORDS, k=draw.randint(5, 20))), draw.uniform(0, 5)) for _ in range(count)]
        labelled = ["text,score", *(f"{text},{score:.3f}" for text, score in rows)]
        (directory / f"{name}.csv").write_text("\n".join(labelled) + "\n")
        (directory / f"{name}_bare.csv").write_text("\n".join(["text", *(text for text, _ in rows)]) + "\n")
    return directory


def search(flags, capsys, **changes):
    words = [word for name, value in {**QUICK, **flags, **changes}.items() for word in (f"--{name}", str(value))]
    code = main(["search", *words])
    return code, capsys.readouterr().err


def flags_of(directory, output_dir, bare=""):
    return {
        "model_name_or_path": directory / "model",
        "train_file": directory / f"train{bare}.csv",
        "validation_file": directory / f"dev{bare}.csv",
        "text_columns": "text",
        "output_dir": output_dir,
    }


@pytest.mark.parametrize("bare", ["", "_bare"])
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_agreement_on_a_regression_is_a_correlation(regression, capsys, tmp_path, bare, strategy):
    flags = flags_of(regression, tmp_path / "out", bare)
    if not bare:
        flags |= {"label_column": "score"}
    code, err = search(flags, capsys, objective="agreement", strategy=strategy, max_accuracy_drop=100)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert any("agreement on a regression is Pearson's correlation" in note for note in found["notes"])
    values = {plan["plan"]: plan for plan in found["search"]["plans"]}
    assert len({plan["agreement"] for plan in values.values()}) > 3  # equal floats would be all or nothing
    loaded = load_model(str(regression / "model"))
    data = load_task(
        None, train_file=regression / "train.csv", validation_file=regression / "dev.csv", text_columns=["text"],
        label_column="score", splits=("train",),
    )["train"]  # fmt: skip
    whole = evaluate(loaded.model, data, loaded.tokenizer, max_seq_length=32, n_resamples=20)
    with bypass(loaded.model, PruningPlan.parse("layer:1")):
        pruned = evaluate(loaded.model, data, loaded.tokenizer, max_seq_length=32, n_resamples=20)
    expected = np.corrcoef(whole.predictions, pruned.predictions)[0, 1]
    assert values["layer:1"]["agreement"] == pytest.approx(expected, abs=1e-6)
    best = min((plan for plan in values.values() if plan["plan"].count(":") == 1), key=lambda p: -p["agreement"])
    assert best["agreement"] <= 1


def test_without_labels_the_divergence_is_searched_and_the_loss_is_refused(regression, capsys, tmp_path):
    flags = flags_of(regression, tmp_path / "out", "_bare")
    code, err = search(flags, capsys, objective="divergence", strategy="beam", racing="true")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["search"]["races"]
    assert any("the correlation with the unpruned model's predictions" in note for note in found["notes"])
    code, err = search(flags, capsys, objective="loss", output_dir=tmp_path / "other")
    assert code == 2
    assert "label_column" in err


def test_a_race_by_agreement_on_a_regression_is_refused_with_the_objective_to_use(regression, capsys, tmp_path):
    flags = flags_of(regression, tmp_path / "out") | {"label_column": "score"}
    code, err = search(flags, capsys, objective="agreement", strategy="beam", racing="true")
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "--objective divergence" in line
    assert not list(tmp_path.glob("*out*"))


@pytest.fixture
def work(monkeypatch):
    """How many rows went through how many layers of the calibration slice's evaluations, timings aside."""
    counted = {"rows": 0, "at_work": False}
    load, whole = calibration.load_model, plan_values.evaluate_each

    def count(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        counted["rows"] += hidden.shape[0] * counted["at_work"]

    def loaded(*args, **kwargs):
        model = load(*args, **kwargs)
        for layer in find_encoder(model.model).layers:
            layer.register_forward_pre_hook(count, with_kwargs=True)
        return model

    def evaluated(*args, **kwargs):
        counted["at_work"] = True
        try:
            return whole(*args, **kwargs)
        finally:
            counted["at_work"] = False

    monkeypatch.setattr(calibration, "load_model", loaded)
    monkeypatch.setattr(plan_values, "evaluate_each", evaluated)
    return counted


@pytest.mark.parametrize("objective", ["loss", "divergence"])
def test_racing_does_no_work_twice(tiny_checkpoint, data_dir, capsys, tmp_path, work, objective):
    """Also where nothing is cut; beside the rows of the slice, a call looks at a few to check that plans can share."""
    flags = {"model_name_or_path": tiny_checkpoint, "task_name": "sst2", "data_dir": data_dir, "strategy": "beam"}
    flags |= {"beam_width": 2, "objective": objective, "max_calibration_samples": 64}
    rows, values = {}, {}
    for racing in ("false", "true"):
        work["rows"] = 0
        code, err = search(flags, capsys, racing=racing, output_dir=tmp_path / racing)
        assert code == 0, err
        rows[racing] = work["rows"]
        found = json.loads((tmp_path / racing / "search.json").read_text())["search"]
        values[racing] = {plan["plan"]: plan for plan in found["plans"]}
    calls, few = 8 * 4, 2 * 4 * 4  # batches and steps; two rows through at most four passes of four layers
    assert rows["true"] <= rows["false"] + calls * few
    assert set(values["true"]) <= set(values["false"])
    for plan, one in values["true"].items():
        other = values["false"][plan]
        for name in ("loss", "metric", "agreement", "divergence", "drop", "drop_worst"):
            assert one[name] == pytest.approx(other[name], abs=1e-5), (plan, name)


def test_nothing_races_unless_it_is_asked_for(tiny_checkpoint, data_dir, capsys, tmp_path):
    flags = {"model_name_or_path": tiny_checkpoint, "task_name": "sst2", "data_dir": data_dir, "strategy": "beam"}
    code, err = search(flags, capsys, max_removed=1, output_dir=tmp_path / "out")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "search.json").read_text())["search"]["races"] == []
