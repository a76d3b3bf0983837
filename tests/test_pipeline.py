"""The verbs from end to end on a tiny model: what lands on disk, resuming, and each mistake in one line."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import jsonschema
import numpy as np
import pytest
import torch
import yaml
from processes import run_until_killed, torchrun

from prune_bert import PruningPlan, RunConfig, bypass, load_model, load_task, prune
from prune_bert.cli import main
from prune_bert.pipeline import comparing, reporting
from prune_bert.report import SCHEMA_PATH, read_report

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def flags(tiny_checkpoint, data_dir, tmp_path):
    """The flags of a quick run, by name."""
    return {
        "model_name_or_path": tiny_checkpoint,
        "task_name": "sst2",
        "data_dir": data_dir,
        "plan": "layer:1 ffn:2",
        "output_dir": tmp_path / "out",
        "max_seq_length": 32,
        "profile_batch_sizes": "1",
        "profile_sequence_lengths": "16",
        "profile_rounds": "2",
        "profile_warmup": "1",
        "n_resamples": "100",
        "device": "cpu",
    }


def words(verb, flags, **changes):
    given = {name: value for name, value in {**flags, **changes}.items() if value is not None}
    return [verb, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def run(verb, flags, capsys, **changes):
    code = main(words(verb, flags, **changes))
    return code, *capsys.readouterr()


def test_a_run_leaves_everything_it_promises(flags, capsys):
    code, out, _ = run("prune", flags, capsys)
    directory = flags["output_dir"]
    assert code == 0
    assert str(directory / "report.html") in out
    assert sorted(path.name for path in directory.iterdir()) == [
        ".prune_bert_manifest.json",
        "accuracy_speed.png",
        "accuracy_speed.svg",
        "config.yaml",
        "model",
        "plan.json",
        "predictions.parquet",
        "report.html",
        "report.json",
        "report.md",
        "site_costs.png",
        "site_costs.svg",
    ]
    data = json.loads((directory / "report.json").read_text())
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    assert [row["name"] for row in data["rows"]] == ["baseline", "pruned"]
    assert data["plan"]["text"] == "layer:1 ffn:2"
    assert data["task"]["n"] == 41
    assert [cost["site"]["component"] for cost in data["site_costs"]] == ["layer", "ffn"]
    assert data["rows"][1]["size"]["parameters"] < data["rows"][0]["size"]["parameters"]
    assert data["rows"][1]["size"]["flops"] < data["rows"][0]["size"]["flops"]
    assert not list(directory.parent.glob(".out*"))


def test_the_figures_are_those_of_plain_transformers(flags, capsys):
    run("prune", flags, capsys)
    loaded = load_model(str(flags["model_name_or_path"]))
    data = load_task("sst2", data_dir=str(flags["data_dir"]))["validation"]
    expected = []
    with torch.no_grad(), bypass(loaded.model, PruningPlan.parse("layer:1 ffn:2")):
        for row in data.dataset:
            inputs = loaded.tokenizer(row["sentence"], truncation=True, max_length=32, return_tensors="pt")
            expected.append(int(loaded.model(**inputs).logits.argmax()))
    table = datasets.Dataset.from_parquet(str(flags["output_dir"] / "predictions.parquet"))
    assert table["pruned_prediction"][:] == expected
    accuracy = np.mean(np.array(expected) == np.array(data.dataset["label"][:]))
    report = read_report(flags["output_dir"] / "report.json")
    assert report.rows[1].metrics["accuracy"].value == pytest.approx(accuracy)
    saved = load_model(str(flags["output_dir"] / "model")).model
    loaded.model.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        inputs = loaded.tokenizer("a good film", return_tensors="pt")
        with bypass(loaded.model, PruningPlan.parse("layer:1 ffn:2")):
            assert torch.allclose(saved(**inputs).logits, loaded.model(**inputs).logits, atol=1e-6)


def test_config_yaml_runs_the_same_again(flags, capsys):
    run("prune", flags, capsys)
    first = read_report(flags["output_dir"] / "report.json")
    other = flags["output_dir"].with_name("again")
    assert main(["prune", "--config", str(flags["output_dir"] / "config.yaml"), "--output_dir", str(other)]) == 0
    second = read_report(other / "report.json")
    assert [row.metrics for row in first.rows] == [row.metrics for row in second.rows]
    assert main(["prune", "--config", str(other / "config.yaml"), "--plan", str(other / "plan.json")]) == 2  # exists
    assert yaml.safe_load((other / "config.yaml").read_text())["plan"] == "layer:1 ffn:2"


def test_the_python_api_gives_the_report(flags):
    config = RunConfig(
        **{name: flags[name] for name in ("model_name_or_path", "task_name", "data_dir", "plan", "output_dir")},
        max_seq_length=32,
        profile=False,
        save_model=False,
        n_resamples=100,
        device="cpu",
    )
    report = prune(config)
    assert report.rows[0].n == 41
    assert report.rows[1].latency == ()
    assert not (flags["output_dir"] / "model").exists()


@pytest.mark.parametrize("text", ["layer:0", "attention:1 norm=skip"])
def test_one_site_costs_what_the_plan_costs(flags, capsys, text):
    code, _, err = run("prune", flags, capsys, plan=text, checkpoint_format="compact", profile="false")
    assert code == 0, err
    report = read_report(flags["output_dir"] / "report.json")
    assert len(report.site_costs) == 1
    assert report.site_costs[0].difference == report.rows[1].difference


def test_evaluate_confirms_the_saved_model(flags, capsys):
    run("prune", flags, capsys, profile="false")
    report = read_report(flags["output_dir"] / "report.json")
    names = ("task_name", "data_dir", "max_seq_length", "n_resamples", "device")
    common = {name: flags[name] for name in names}
    other = flags["output_dir"].with_name("score")
    code, out, err = run("evaluate", common, capsys, model_name_or_path=flags["output_dir"] / "model", output_dir=other)
    assert code == 0, err
    score = json.loads((other / "score.json").read_text())
    assert score["metrics"]["accuracy"]["value"] == report.rows[1].metrics["accuracy"].value
    assert "n = 41" in out
    assert "pruned already: layer:1 ffn:2" in out
    bypassed = flags["output_dir"].with_name("bypassed")
    model = flags["model_name_or_path"]
    run("evaluate", common, capsys, model_name_or_path=model, plan="layer:1 ffn:2", output_dir=bypassed)
    assert json.loads((bypassed / "score.json").read_text())["metrics"] == score["metrics"]


def test_benchmark_and_report_verbs(flags, capsys):
    kept = {name: value for name, value in flags.items() if name not in ("task_name", "data_dir", "max_seq_length")}
    code, out, err = run("benchmark", kept, capsys)
    assert code == 0, err
    assert "times as fast" in out
    points = json.loads((flags["output_dir"] / "benchmark.json").read_text())["latency"]
    assert [point["variant"] for point in points] == ["baseline", "pruned"]
    run("prune", flags, capsys, overwrite_output_dir="true")
    rendered = flags["output_dir"].with_name("rendered")
    report = flags["output_dir"] / "report.json"
    assert main(["report", "--report", str(report), "--output_dir", str(rendered)]) == 0
    assert (rendered / "report.html").read_text() == (flags["output_dir"] / "report.html").read_text()


def test_trackers_get_the_same_figures(flags, capsys):
    pytest.importorskip("tensorboard")
    code, _, err = run("prune", flags, capsys, report_to="tensorboard", profile="false", save_model="false")
    assert code == 0, err
    assert list(flags["output_dir"].rglob("events.out.tfevents*"))


def test_train_makes_a_model_that_the_other_verbs_load(flags, capsys):
    names = ("model_name_or_path", "task_name", "data_dir", "output_dir", "max_seq_length", "n_resamples", "device")
    common = {name: flags[name] for name in names}
    code, out, err = run("train", common, capsys, max_steps=4, per_device_train_batch_size=8, learning_rate=1e-3)
    assert code == 0, err
    record = json.loads((flags["output_dir"] / "training.json").read_text())
    assert record["training"]["steps"] == 4
    assert "trained 4 steps" in out
    score = flags["output_dir"].with_name("score")
    code, _, err = run("evaluate", common, capsys, model_name_or_path=flags["output_dir"], output_dir=score)
    assert code == 0, err
    found = json.loads((score / "score.json").read_text())["metrics"]
    assert found == record["score"]["metrics"]
    assert not (flags["output_dir"] / "state").exists()


def test_train_with_lora_saves_the_adapter_and_the_merged_model(flags, capsys):
    pytest.importorskip("peft")
    names = ("model_name_or_path", "task_name", "data_dir", "output_dir", "max_seq_length", "n_resamples", "device")
    common = {name: flags[name] for name in names}
    code, _, err = run("train", common, capsys, max_steps=2, lora_rank=2)
    assert code == 0, err
    assert (flags["output_dir"] / "adapter" / "adapter_model.safetensors").is_file()
    assert load_model(str(flags["output_dir"])).model.num_labels == 2


def test_a_killed_run_resumes(flags, tmp_path):
    """SIGKILL after the first score is on disk: the second run computes only the rest."""
    steps = tmp_path / ".out.unfinished" / "steps"
    run_until_killed(words("prune", flags), "prune_bert.pipeline.comparing.time_variants", "True", tmp_path)
    assert not flags["output_dir"].exists()
    stored = json.loads((steps / "score baseline.json").read_text())
    stored["result"]["seconds"] = 12345.0  # recognisable, so that recomputing would show
    (steps / "score baseline.json").write_text(json.dumps(stored))
    assert main(words("prune", flags)) == 0
    report = read_report(flags["output_dir"] / "report.json")
    assert report.rows[0].seconds == 12345.0


def test_another_run_does_not_resume_this_one(flags, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "time_variants", stop)
    assert run("prune", flags, capsys)[0] == 130
    steps = flags["output_dir"].with_name(".out.unfinished") / "steps"
    before = (steps / "score baseline.json").stat().st_mtime_ns
    assert run("prune", flags, capsys)[0] == 130
    assert (steps / "score baseline.json").stat().st_mtime_ns == before
    assert run("prune", flags, capsys, plan="layer:2")[0] == 130
    assert (steps / "score baseline.json").stat().st_mtime_ns != before


def test_two_runs_on_one_output_directory_are_refused(flags, capsys):
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('locked', flush=True); sys.stdin.read()"
    )
    lock = flags["output_dir"].with_name(".out.lock")
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        code, _, err = run("prune", flags, capsys)
    finally:
        other.kill()
        other.communicate()
    assert code == 2
    assert "another run is at work on this output_dir" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan": "layr:1"}, "did you mean 'layer'"),
        ({"plan": "layer:9"}, "numbered 0 to 3"),
        ({"plan": ""}, "nothing to prune"),
        ({"plan": "layer:0-3"}, "removes all 4 layers"),
        ({"plan": "missing.json"}, "no such file"),
        ({"model_name_or_path": "./nowhere"}, "no such directory"),
        ({"task_name": "sst3"}, "sst2"),
        ({"data_dir": "./nowhere"}, "nowhere"),
        ({"max_seq_length": 4096}, "64"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"profile_sequence_lengths": 999}, "999"),
        ({"task_name": "mnli"}, "dev_matched.tsv"),
        ({"task_name": "stsb", "data_dir": "STSB"}, "regression"),
        ({"report_to": "wandb"}, "not installed"),
        ({"output_dir": "/proc/nowhere/out"}, "cannot be made there"),
    ],
)
def test_each_mistake_gets_one_line_and_nothing_is_written(flags, capsys, tmp_path, monkeypatch, changes, says):
    if torch.cuda.is_available() and {"device", "mixed_precision"} & set(changes):
        pytest.skip("this machine has the GPU that the mistake is about")
    monkeypatch.chdir(tmp_path)
    header = "\t".join(("index", "genre", "sentence1", "sentence2", "score"))
    (tmp_path / "STSB").mkdir()
    (tmp_path / "STSB" / "dev.tsv").write_text(f"{header}\n0\tx\ta film\ta story\t2.5\n")
    code, _, err = run("prune", flags, capsys, **changes)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in err
    assert not flags["output_dir"].exists()


def test_output_directories_that_cannot_be_had(flags, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = run("prune", flags, capsys, output_dir=tmp_path / "file")
    assert (code, "is a file" in err) == (2, True)
    names = ("model_name_or_path", "task_name", "data_dir", "output_dir", "max_seq_length", "device")
    common = {name: flags[name] for name in names}
    code, _, err = run("train", common, capsys, lora_rank=2, lora_target_modules="nope")
    assert (code, "no linear layer's name ends with 'nope'" in err) == (2, True)
    assert not list(tmp_path.glob(".out*"))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    code, _, err = run("prune", flags, capsys, output_dir=full)
    assert (code, "--overwrite_output_dir" in err) == (2, True)
    assert (full / "mine.txt").read_text() == "keep"


def test_an_overwritten_directory_stays_until_the_run_is_done(flags, capsys, monkeypatch):
    assert run("prune", flags, capsys, profile="false")[0] == 0
    before = {path.name: path.read_bytes() for path in flags["output_dir"].iterdir() if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "write_report", full)
    code, _, err = run("prune", flags, capsys, overwrite_output_dir="true", profile="false")
    assert code == 2
    assert "no space left" in err
    assert {path.name: path.read_bytes() for path in flags["output_dir"].iterdir() if path.is_file()} == before


def test_a_label_order_that_differs_is_mapped_and_said(flags, capsys, tmp_path, tiny_checkpoint):
    import shutil

    copy = shutil.copytree(tiny_checkpoint, tmp_path / "flipped")
    config = json.loads((copy / "config.json").read_text())
    config |= {"id2label": {"0": "positive", "1": "negative"}, "label2id": {"positive": 0, "negative": 1}}
    (copy / "config.json").write_text(json.dumps(config))
    run("prune", flags, capsys, profile="false")
    straight = read_report(flags["output_dir"] / "report.json")
    other = tmp_path / "other"
    run("prune", flags, capsys, profile="false", model_name_or_path=copy, output_dir=other)
    flipped = read_report(other / "report.json")
    accuracies = [report.rows[0].metrics["accuracy"].value for report in (straight, flipped)]
    assert sum(accuracies) == pytest.approx(1.0)
    assert any("positive" in note for note in flipped.notes)


def test_bf16_where_it_is_slow_is_said_with_its_cost(flags, capsys, monkeypatch):
    from accelerate.state import AcceleratorState

    from prune_bert.pipeline import session

    monkeypatch.setattr(session, "_bf16_cost", lambda: 30.0)
    AcceleratorState._reset_state(True)
    try:
        code, _, err = run("prune", flags, capsys, mixed_precision="bf16", profile="false")
    finally:
        AcceleratorState._reset_state(True)
    assert code == 0, err
    assert "warning: bf16 on this CPU: a matrix product measured 30.0 times slower" in err
    assert "30.0 times slower" in read_report(flags["output_dir"] / "report.json").notes[0]


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(flags, tmp_path, capsys):
    run("prune", flags, capsys)
    one = read_report(flags["output_dir"] / "report.json")
    two_dir = tmp_path / "two"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = torchrun(ROOT / "scripts" / "prune.py", *words("prune", flags, output_dir=two_dir)[1:])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_report(two_dir / "report.json")
    assert two.environment["processes"] == 2
    assert [dataclasses.replace(row, seconds=0, loss=0, size=None, latency=()) for row in two.rows] == [
        dataclasses.replace(row, seconds=0, loss=0, size=None, latency=()) for row in one.rows
    ]
    assert done.stdout.count("report:") == 1
