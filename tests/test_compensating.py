"""``prune --compensation`` from end to end on a tiny model: rows, files, formats, resuming, each mistake."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import torch
from processes import run_until_killed, torchrun
from test_pipeline import ROOT, flags, run, words  # noqa: F401 - flags is a fixture
from transformers import AutoModelForSequenceClassification

from prune_bert import PruningPlan, load_model, load_pruned
from prune_bert.cli import main
from prune_bert.compensation import Compensation
from prune_bert.report import SCHEMA_PATH, read_report

COMPENSATED = {"compensation": "low_rank", "compensation_rank": 4, "plan": "attention:1 ffn:2"}
NAMES = ("task_name", "data_dir", "max_seq_length", "n_resamples", "device")


def figures(report):
    """What a report says but for times."""
    return [dataclasses.replace(row, seconds=0, made_in_seconds=0, latency=(), size=None) for row in report.rows], [
        note for note in report.notes if not note.startswith("the machine was busy")
    ]


def killed(flags, tmp_path, verb, slow, awaited, **changes):  # noqa: F811
    """Run a verb that is killed as its step ``slow`` begins, when ``awaited`` is there in its working directory."""
    run_until_killed(words(verb, flags, **changes), slow, "True", tmp_path)
    assert list((tmp_path / ".out.unfinished").rglob(awaited))
    assert not flags["output_dir"].exists()


def test_a_compensated_run_leaves_everything_it_promises(flags, capsys):  # noqa: F811
    code, out, err = run("prune", flags, capsys, **COMPENSATED)
    assert code == 0, err
    directory = flags["output_dir"]
    assert {"compensation.safetensors", "model", "report.html"} <= {path.name for path in directory.iterdir()}
    assert not list(directory.parent.glob(".out*"))
    data = json.loads((directory / "report.json").read_text())
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    report = read_report(directory)
    assert [row.name for row in report.rows] == ["baseline", "pruned", "compensated"]
    assert [cost.site.component for cost in report.site_costs] == ["attention", "ffn"]
    baseline, pruned, compensated = report.rows
    assert pruned.size.parameters < compensated.size.parameters < baseline.size.parameters
    assert pruned.size.flops < compensated.size.flops < baseline.size.flops
    assert compensated.size.checkpoint_bytes > pruned.size.checkpoint_bytes
    assert [point.variant for point in compensated.latency] == ["compensated"]
    assert compensated.made_in_seconds > 0
    assert [(one.form, one.rank, one.neurons) for one in report.compensated_sites] == [("low_rank", 4, 0)] * 2
    for one in report.compensated_sites:
        assert one.parameters < one.replaced_parameters
        assert one.flops < one.replaced_flops
        assert one.latency_ms > 0
        assert one.error >= 0
    assert Compensation.load(directory / "compensation.safetensors").plan == PruningPlan.parse(COMPENSATED["plan"])
    assert {"compensate", "score compensated"} <= set(report.step_seconds)
    assert any("fitted to 64 rows" in note for note in report.notes)
    for text in (out, *((directory / name).read_text() for name in ("report.md", "report.html", "model/README.md"))):
        assert "low rank" in text
    assert "What stands in their place" in (directory / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, "compact"),
        ({"plan": "ffn:1,2"}, "portable"),
        ({"plan": "ffn:1,2", "checkpoint_format": "compact"}, "compact"),
        ({"plan": "ffn:1,2", "compensation": "neurons", "compensation_neurons": 8}, "portable"),
        ({"plan": "layer:1,2", "compensation": "affine"}, "compact"),
        ({"plan": "ffn:1,2", "compensation_rank": "none", "compensation_max_cost": 0.5}, "portable"),
        ({"plan": "attention:1 norm=skip", "compensation": "none", "compensation_rank": None}, "compact"),
    ],
)
def test_the_saved_model_is_the_one_of_the_last_row(flags, capsys, changes, form):  # noqa: F811
    code, out, err = run("prune", flags, capsys, profile="false", measure_site_costs="false", **COMPENSATED | changes)
    assert code == 0, err
    report = read_report(flags["output_dir"])
    directory = flags["output_dir"] / "model"
    assert report.checkpoint_format == form
    said = any("saved in the compact format" in note for note in report.notes)
    assert said == (form == "compact" and "checkpoint_format" not in changes)
    assert (
        (form == "compact")
        == ("load_pruned loads it" in out)
        == ("compact: plain transformers refuses it" in (directory / "README.md").read_text())
    )
    other = flags["output_dir"].with_name("score")
    given = {name: flags[name] for name in NAMES} | {"model_name_or_path": directory, "output_dir": other}
    assert main(words("evaluate", given)) == 0
    metrics = json.loads((other / "score.json").read_text())["metrics"]
    assert metrics["accuracy"]["value"] == report.final.metrics["accuracy"].value
    inputs = load_model(str(flags["model_name_or_path"])).tokenizer("a good film", return_tensors="pt")
    with torch.no_grad():
        pruned = load_pruned(directory)(**inputs).logits
        if form == "portable":
            plain = AutoModelForSequenceClassification.from_pretrained(directory).eval()
            torch.testing.assert_close(plain(**inputs).logits, pruned, rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises((ValueError, KeyError, OSError)):
                AutoModelForSequenceClassification.from_pretrained(directory)
    assert all(one.latency_ms is None and one.parameters for one in report.compensated_sites)


def test_none_is_as_it_was(flags, capsys):  # noqa: F811
    run("prune", flags, capsys, profile="false")
    data = json.loads((flags["output_dir"] / "report.json").read_text())
    assert [row["name"] for row in data["rows"]] == ["baseline", "pruned"]
    assert (data["compensated_sites"], data["recovery"], data["checkpoint_format"]) == ([], None, "portable")
    assert [row["made_in_seconds"] for row in data["rows"]] == [None, None]
    assert "made in" not in (flags["output_dir"] / "report.md").read_text()


@pytest.mark.parametrize(
    ("slow", "awaited"),
    [
        pytest.param("prune_bert.pipeline.compensating.compensate", "steps/score pruned.json", marks=pytest.mark.slow),
        ("prune_bert.pipeline.comparing.time_variants", "compensation.safetensors"),
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(flags, capsys, tmp_path, slow, awaited):  # noqa: F811
    killed(flags, tmp_path, "prune", slow, awaited, **COMPENSATED)
    run("prune", flags, capsys, **COMPENSATED)
    resumed = read_report(flags["output_dir"])
    run("prune", flags, capsys, **COMPENSATED, output_dir=tmp_path / "whole")
    assert figures(resumed) == figures(read_report(tmp_path / "whole"))
    found = list((tmp_path / "whole").rglob("*.safetensors"))
    assert len(found) == 2  # the compensation and the model
    for path in found:
        assert path.read_bytes() == (flags["output_dir"] / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compensation_rank": 99}, "rank 99 is over the model's width 32"),
        ({"compensation_rank": 0}, "expected at least 1"),
        ({"compensation": "lowrank"}, "did you mean 'low_rank'"),
        ({"checkpoint_format": "portable"}, "no portable form"),
        ({"plan": "layer:1", "checkpoint_format": "portable"}, "no portable form"),
        (
            {"plan": "attention:1 norm=skip", "compensation": "none", "checkpoint_format": "portable"},
            "no portable form",
        ),
        ({"compensation": "neurons", "compensation_placement": "after"}, "compensation_placement must be before"),
        ({"max_calibration_samples": 3}, "the calibration slice has 3 examples"),
        ({"max_calibration_samples": 0}, "expected at least 2"),
        ({"data_dir": "ONLY_DEV"}, "no train split"),
        ({"data_dir": "EMPTY"}, "train.tsv"),
        ({"data_dir": "SAME"}, "are also in validation"),
        ({"task_name": None, "data_dir": None, "validation_file": "SAME/dev.tsv", "text_columns": "sentence",
          "label_column": "label"}, "there is no train split for calibration"),
        ({"model_name_or_path": "ALBERT"}, "albert"),
    ],
)  # fmt: skip
def test_each_mistake_gets_one_line_and_nothing_is_written(flags, capsys, tmp_path, monkeypatch, changes, says):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    dev = (Path(flags["data_dir"]) / "dev.tsv").read_text()
    for name, train in (("ONLY_DEV", None), ("EMPTY", "sentence\tlabel\n"), ("SAME", dev)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.tsv").write_text(dev)
        if train is not None:
            (tmp_path / name / "train.tsv").write_text(train)
    if changes.get("model_name_or_path") == "ALBERT":
        save_albert(tmp_path / "ALBERT", flags["model_name_or_path"])
    code, _, err = run("prune", flags, capsys, **COMPENSATED | changes)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), err
    assert says in lines[0]
    assert "Traceback" not in err
    assert not flags["output_dir"].exists()


def save_albert(directory, tokenizer_from):
    """A family whose layers are one, which has no sublayers to take out."""
    from transformers import AlbertConfig, AlbertForSequenceClassification, AutoTokenizer

    config = AlbertConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        embedding_size=16, max_position_embeddings=64, id2label={0: "negative", 1: "positive"},
    )  # fmt: skip
    AlbertForSequenceClassification(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(directory)


def test_rows_without_labels_are_compensated_too(flags, capsys, tmp_path):  # noqa: F811
    import csv

    for name in ("train", "dev"):
        with (Path(flags["data_dir"]) / f"{name}.tsv").open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        (tmp_path / f"{name}.csv").write_text("text\n" + "\n".join(row["sentence"] for row in rows) + "\n")
    own = {"train_file": tmp_path / "train.csv", "validation_file": tmp_path / "dev.csv", "text_columns": "text"}
    code, _, err = run("prune", flags, capsys, task_name=None, data_dir=None, profile="false", **own, **COMPENSATED)
    assert code == 0, err
    report = read_report(flags["output_dir"])
    assert report.baseline.metrics["accuracy"].value == 1.0
    assert report.final.agreement == report.final.metrics["accuracy"].value


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(flags, tmp_path, capsys):  # noqa: F811
    run("prune", flags, capsys, profile="false", **COMPENSATED)
    one = read_report(flags["output_dir"])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = words("prune", flags, profile="false", output_dir=tmp_path / "two", **COMPENSATED)[1:]
    command = torchrun(ROOT / "scripts" / "prune.py", *given)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_report(tmp_path / "two")
    assert [row.metrics for row in two.rows] == [row.metrics for row in one.rows]
    assert [row.flips for row in two.rows] == [row.flips for row in one.rows]
