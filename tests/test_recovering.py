"""``recover`` from end to end on a tiny model: rows, files, every method, resuming, each mistake."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import torch
from processes import run_until_killed, torchrun
from test_compensating import COMPENSATED, NAMES, figures, killed
from test_pipeline import ROOT, flags, run, words  # noqa: F401 - flags is a fixture

from prune_bert import load_model
from prune_bert.cli import main
from prune_bert.pipeline import recovering
from prune_bert.report import SCHEMA_PATH, read_report
from prune_bert.surgery import pruning_record

QUICK = {
    "plan": "layer:1 ffn:2",
    "max_steps": 8,
    "evaluation_steps": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "checkpointing_steps": 2,
}
UNTIMED = {"profile": "false", "measure_site_costs": "false"}


def no_dropout(source, directory):
    """A copy of a checkpoint that gives the same in training on one process and on two."""
    shutil.copytree(source, directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_recovery_leaves_everything_it_promises(flags, capsys):  # noqa: F811
    code, out, err = run("recover", flags, capsys, **QUICK | COMPENSATED)
    assert code == 0, err
    directory = flags["output_dir"]
    names = {path.name for path in directory.iterdir()}
    assert {"compensation.safetensors", "model", "training.png", "training.svg", "report.html", "plan.json"} <= names
    assert not {"state", "steps", "fingerprint"} & names
    assert not list(directory.parent.glob(".out*"))
    data = json.loads((directory / "report.json").read_text())
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    report = read_report(directory)
    assert [row.name for row in report.rows] == ["baseline", "pruned", "compensated", "recovered"]
    compensated, recovered = report.rows[2:]
    assert recovered.size.parameters == compensated.size.parameters
    assert [point.p50_ms for point in recovered.latency] == [point.p50_ms for point in compensated.latency]
    assert [point.variant for point in recovered.latency] == ["recovered"]
    assert recovered.made_in_seconds == report.recovery.seconds == report.step_seconds["recover"]
    assert (report.recovery.steps, report.recovery.train_samples, report.recovery.selection_samples) == (8, 58, 6)
    assert [step for step, _ in report.recovery.selection_losses] == [0, 4, 8]
    assert len(report.recovery.losses) == 8
    assert any("recovery trained on 58 rows, 6 more chose its weights" in note for note in report.notes)
    assert any("its latency is what that one took" in note for note in report.notes)
    for text in (out, *((directory / name).read_text() for name in ("report.md", "report.html", "model/README.md"))):
        assert "The recovery, by distillation, took 8 steps" in " ".join(text.split())
    assert "training.png" in (directory / "report.md").read_text()
    assert (directory / "report.html").read_text().count("<svg") == 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"plan": "ffn:1,2", "compensation": "low_rank", "compensation_rank": 4},
        {"method": "fine_tuning"},
        {"lora_rank": 2, "learning_rate": 1e-2},
        {"schedule": "gradual", "steps_per_site": 3},
        {"schedule": "gradual", "method": "fine_tuning", "checkpoint_format": "compact"},
        {"hidden_weight": 0.5, "label_weight": 0},
    ],
)
def test_the_saved_model_is_the_one_of_the_last_row(flags, capsys, changes):  # noqa: F811
    last = {"keep_best": "false", "early_stopping_patience": "none"}  # the best may be the weights that it began with
    code, _, err = run("recover", flags, capsys, **UNTIMED, **QUICK | last | changes)
    assert code == 0, err
    report = read_report(flags["output_dir"])
    assert report.recovery.schedule == changes.get("schedule", "at_once")
    other = flags["output_dir"].with_name("score")
    model = flags["output_dir"] / "model"
    given = {name: flags[name] for name in NAMES} | {"model_name_or_path": model, "output_dir": other}
    assert main(words("evaluate", given)) == 0
    score = json.loads((other / "score.json").read_text())
    assert score["metrics"]["accuracy"]["value"] == report.final.metrics["accuracy"].value
    assert score["loss"] == pytest.approx(report.final.loss, rel=1e-4)
    assert str(pruning_record(load_model(str(model)).model.config).plan) == report.plan.text
    assert report.final.loss != report.rows[-2].loss


def test_half_precision_is_rounded_before_it_is_scored(flags, capsys, tmp_path):  # noqa: F811
    half = tmp_path / "half"
    loaded = load_model(str(flags["model_name_or_path"]))
    loaded.model.half().save_pretrained(half)
    loaded.tokenizer.save_pretrained(half)
    code, _, err = run("recover", flags, capsys, **UNTIMED, **QUICK, model_name_or_path=half)
    assert code == 0, err
    report = read_report(flags["output_dir"])
    assert any("rounded to torch.float16" in note for note in report.notes)
    given = {name: flags[name] for name in NAMES}
    given |= {"model_name_or_path": flags["output_dir"] / "model", "output_dir": tmp_path / "score"}
    assert main(words("evaluate", given)) == 0
    assert json.loads((tmp_path / "score" / "score.json").read_text())["loss"] == pytest.approx(
        report.final.loss, rel=1e-5
    )


def test_a_model_that_came_pruned_is_recovered_from_its_origin(flags, capsys, tmp_path):  # noqa: F811
    run("prune", flags, capsys, **UNTIMED, plan=QUICK["plan"], output_dir=tmp_path / "pruned")
    pruned = read_report(tmp_path / "pruned")
    given = dict(QUICK, plan=None, model_name_or_path=tmp_path / "pruned" / "model")
    code, _, err = run("recover", flags, capsys, **given, teacher_name_or_path=flags["model_name_or_path"])
    assert code == 0, err
    later = read_report(flags["output_dir"])
    run("recover", flags, capsys, **QUICK, output_dir=tmp_path / "at once")
    once = read_report(tmp_path / "at once")
    assert [row.metrics for row in later.rows[:2]] == [row.metrics for row in pruned.rows]
    assert [row.metrics for row in later.rows] == [row.metrics for row in once.rows]
    assert later.final.loss == pytest.approx(once.final.loss, rel=1e-5)
    assert (later.plan, later.model) == (once.plan, once.model)
    assert [row.size.parameters for row in later.rows] == [row.size.parameters for row in once.rows]
    assert later.site_costs == ()
    assert any("came pruned" in note for note in later.notes)


def test_a_recovery_killed_before_it_trains_starts_from_the_same_fit(flags, capsys, tmp_path):  # noqa: F811
    given = UNTIMED | QUICK | COMPENSATED
    killed(flags, tmp_path, "recover", "prune_bert.pipeline.recovering.recover", "compensation.safetensors", **given)
    run("recover", flags, capsys, **given)
    run("recover", flags, capsys, **given, output_dir=tmp_path / "whole")
    assert figures(read_report(flags["output_dir"])) == figures(read_report(tmp_path / "whole"))
    ours, whole = (
        next((folder / "model").glob("*.safetensors")) for folder in (flags["output_dir"], tmp_path / "whole")
    )
    assert ours.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("schedule", ["at_once", pytest.param("gradual", marks=pytest.mark.slow)])
def test_a_recovery_killed_while_it_trains_ends_at_the_same_weights(flags, capsys, tmp_path, schedule):  # noqa: F811
    given = UNTIMED | QUICK | {"schedule": schedule, "max_steps": 16}
    state = tmp_path / ".out.unfinished" / "state"
    four_steps = f"any(Path({str(state)!r}).rglob('checkpoint-00000004.pt'))"
    target = "prune_bert.recovery.DistillationLoss.__call__"
    run_until_killed(words("recover", flags, **given), target, four_steps, tmp_path)
    assert list(state.rglob("checkpoint-*.pt"))
    assert not flags["output_dir"].exists()
    code, _, err = run("recover", flags, capsys, **given | {"learning_rate": 2e-3})
    assert (code, "unfinished training of another run" in err) == (2, True)
    assert list(state.rglob("checkpoint-*.pt"))
    run("recover", flags, capsys, **given)
    run("recover", flags, capsys, **given, output_dir=tmp_path / "whole")
    resumed, whole = read_report(flags["output_dir"]), read_report(tmp_path / "whole")
    assert figures(resumed) == figures(whole)
    assert resumed.recovery.losses == whole.recovery.losses
    weights = "model/model.safetensors"
    assert (flags["output_dir"] / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_with_no_resume_another_runs_training_is_thrown_away(flags, capsys, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        patch.setattr(recovering, "save_and_weigh", stop)
        assert run("recover", flags, capsys, **UNTIMED, **QUICK)[0] == 130
    code, _, err = run("recover", flags, capsys, **UNTIMED, **QUICK | {"seed": 1}, resume="false")
    assert code == 0, err


def mistakes():
    """What is wrong, and what is said of it."""
    aside = {"teacher_name_or_path": "TINY", "plan": None, "model_name_or_path": "PRUNED"}
    return [
        ({"plan": None}, "is not pruned, and no plan says what to remove"),
        ({"plan": None, "model_name_or_path": "PRUNED"}, "is pruned already (ffn:2)"),
        ({"teacher_name_or_path": "TINY"}, "leave out --teacher_name_or_path"),
        (aside | {"model_name_or_path": "TINY"}, "is not: give --plan instead"),
        (aside | {"schedule": "gradual"}, "--schedule at_once"),
        (aside | {"compensation": "low_rank"}, "give the unpruned model and --plan"),
        (aside | {"teacher_name_or_path": "OTHER"}, "the teacher does not fit the model: its id2label"),
        (aside | {"teacher_name_or_path": "SHORT"}, "has 2 layers, so it is not"),
        (aside | {"teacher_name_or_path": "PRUNED"}, "is pruned itself (ffn:2)"),
        (aside | {"teacher_name_or_path": "nowhere"}, "nowhere"),
        ({"schedule": "gradual", "compensation": "low_rank"}, "give --compensation none"),
        ({"schedule": "gradual", "max_steps": 1}, "1 steps do not suffice for 2 sites"),
        ({"steps_per_site": 3}, "steps_per_site must be none with schedule at_once"),
        ({"label_weight": 1.5}, "label_weight: expected at most 1"),
        ({"temperature": 0}, "temperature: expected more than 0"),
        ({"per_device_train_batch_size": 99}, "per_device_train_batch_size is 99"),
        ({"lora_rank": 2, "lora_target_modules": "nope"}, "no linear layer's name ends with 'nope'"),
        ({"lora_target_modules": "query"}, "lora_target_modules: given while lora_rank is 0"),
        ({"data_dir": "ONLY_DEV"}, "no train split"),
        ({"data_dir": "SAME"}, "training rows are also in validation"),
        ({"plan": "layer:9"}, "numbered 0 to 3"),
        ({"plan": "attention:1 norm=skip", "checkpoint_format": "portable"}, "no portable form"),
        ({"compensation": "low_rank", "compensation_rank": 64}, "rank 64 is over the model's width 32"),
    ]


@pytest.mark.parametrize(("changes", "says"), mistakes())
def test_each_mistake_gets_one_line_and_nothing_is_written(flags, capsys, tmp_path, monkeypatch, changes, says):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    make_models(tmp_path, flags, set(changes.values()), capsys)
    dev = (Path(flags["data_dir"]) / "dev.tsv").read_text()
    for name in ("ONLY_DEV", "SAME"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.tsv").write_text(dev)
    (tmp_path / "SAME" / "train.tsv").write_text(dev)
    code, _, err = run("recover", flags, capsys, **UNTIMED, **QUICK | changes)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), err
    assert says in lines[0]
    assert "Traceback" not in err
    assert not flags["output_dir"].exists()
    assert not list(tmp_path.glob(".out*"))


def make_models(tmp_path, flags, wanted, capsys):  # noqa: F811
    """Put the models that a mistake names beside the run."""
    from conftest import make_tiny_bert

    source = flags["model_name_or_path"]
    if "TINY" in wanted or "PRUNED" in wanted:
        (tmp_path / "TINY").symlink_to(source)
    if "PRUNED" in wanted:
        run("prune", flags, capsys, **UNTIMED, plan="ffn:2", output_dir=tmp_path / "p", n_resamples=20)
        shutil.move(tmp_path / "p" / "model", tmp_path / "PRUNED")
    other = {"OTHER": {"id2label": {0: "no", 1: "yes"}}, "SHORT": {"num_hidden_layers": 2}}
    for name in wanted & set(other):
        shutil.copytree(source, tmp_path / name)
        make_tiny_bert(**other[name]).save_pretrained(tmp_path / name)


def test_trackers_get_the_training_too(flags, capsys):  # noqa: F811
    pytest.importorskip("tensorboard")
    code, _, err = run("recover", flags, capsys, **UNTIMED, **QUICK, report_to="tensorboard", save_model="false")
    assert code == 0, err
    assert list(flags["output_dir"].rglob("events.out.tfevents*"))
    assert not (flags["output_dir"] / "model").exists()


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(flags, tmp_path, capsys):  # noqa: F811
    model = no_dropout(flags["model_name_or_path"], tmp_path / "model")
    given = {**UNTIMED, **QUICK, **COMPENSATED, "model_name_or_path": model}
    given |= {"per_device_train_batch_size": 4}
    run("recover", flags, capsys, **given, gradient_accumulation_steps=2)
    one = read_report(flags["output_dir"])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    typed = words("recover", flags, **given | {"output_dir": tmp_path / "two"})
    command = torchrun("-m", "prune_bert", *typed)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_report(tmp_path / "two")
    assert [row.metrics for row in two.rows] == [row.metrics for row in one.rows]
    torch.testing.assert_close(two.final.loss, one.final.loss, rtol=1e-4, atol=1e-5)
    assert done.stdout.count("report:") == 1
