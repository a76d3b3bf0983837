"""Whole verbs on a tiny model, killed or out of disk space on the way: the same command again ends as it would have."""

import json
import shutil

import datasets
import pytest
from faults import Killed, faults, tree
from test_pipeline import flags, words  # noqa: F401 (a fixture)
from test_report import make_report

from prune_bert.cli import main
from prune_bert.config import ReportConfig
from prune_bert.errors import UserError
from prune_bert.pipeline import rendering
from prune_bert.pipeline.rendering import run_report
from prune_bert.report import writer
from prune_bert.report.writer import FILES
from prune_bert.storage import MANIFEST

QUICK = {"profile": "false", "n_resamples": 20, "max_eval_samples": 8, "checkpoint_format": "compact"}
TRAIN = {"max_steps": 2, "per_device_train_batch_size": 4, "checkpointing_steps": 1, "n_resamples": 20}
NAMES = ("model_name_or_path", "task_name", "data_dir", "output_dir", "max_seq_length", "device")


@pytest.fixture
def no_pictures(monkeypatch):
    """Plots take most of the time and are files like others."""
    monkeypatch.setattr(writer, "accuracy_speed_plot", lambda report: None)
    monkeypatch.setattr(writer, "site_costs_plot", lambda report: None)
    monkeypatch.setattr(writer, "to_html", lambda report: "<html>")


def faulty(command, at, kind):
    with faults(at, kind) as counted:
        try:
            code = main(command)
        except Killed:
            code = "killed"
    return code, counted


def chosen(seen):
    """The operations to fail at: one in the midst of the work, and those at its end."""
    publishing = max(n for n, (what, _) in enumerate(seen, 1) if what == "exchange")
    return [publishing // 2, publishing, publishing + 1, len(seen)]


def essence(out):
    """What must not depend on faults: the weights and the predictions."""
    found = {name: content for name, content in tree(out).items() if name.endswith(".safetensors")}
    table = out / "predictions.parquet"
    if table.is_file():
        found["predictions"] = datasets.Dataset.from_parquet(str(table)).to_dict()
    return found


def check_verb(command, out, kinds):
    """Run once untroubled, then over the result of that with faults, each followed by the same command."""
    assert main(command) == 0
    expected = essence(out)
    assert expected
    _, counted = faulty([*command, "--overwrite_output_dir"], 0, "kill")
    for number, at in enumerate(chosen(counted.seen)):
        before = tree(out)
        code, _ = faulty([*command, "--overwrite_output_dir"], at, kinds[number % len(kinds)])
        after = tree(out)
        assert code in (0, 2, "killed")
        assert after == before or after[MANIFEST] != before[MANIFEST]
        assert essence(out) == expected
        assert main([*command, "--overwrite_output_dir"]) == 0, at
        assert essence(out) == expected
        assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
        json.loads((out / MANIFEST).read_text())


def test_prune_with_faults(flags, no_pictures):  # noqa: F811
    check_verb(words("prune", flags, **QUICK), flags["output_dir"], ["kill", "full"])


def test_train_with_faults(flags, no_pictures):  # noqa: F811
    given = {name: flags[name] for name in NAMES} | TRAIN
    check_verb(words("train", given), flags["output_dir"], ["full", "kill"])


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_report_is_renewed_file_by_file(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(writer, "_files", lambda report: [(name, report.task.name.encode()) for name in FILES[:5]])
    monkeypatch.setattr(rendering, "print_table", lambda report: None)
    out = tmp_path / "out"

    def render(task, at=0, overwrite=True):
        (tmp_path / "given.json").write_text(make_report(task=task).to_json())
        config = ReportConfig(report=str(tmp_path / "given.json"), output_dir=str(out), overwrite_output_dir=overwrite)
        with faults(at, kind) as counted:
            try:
                run_report(config, ())
            except (Killed, UserError, OSError):
                return None
        return counted.count

    def content():
        return {name: text.decode() for name, text in tree(out).items() if name in FILES}

    total = render("new", overwrite=False)
    new = content()
    assert set(new.values()) == {"new"}
    for at in range(1, total + 1):
        shutil.rmtree(out)
        render("new", at, overwrite=False)
        assert not out.exists() or content() == new  # whole, or not there
        assert render("old")
        render("new", at)
        assert set(content().values()) <= {"old", "new"}
        assert content().keys() == new.keys()
        assert kind == "kill" or not list(out.glob(".*.tmp"))
        assert render("new")
        assert content() == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["given.json", "out"]


def test_a_report_does_not_write_over_foreign_files(tmp_path, capsys, no_pictures):
    (tmp_path / "report.json").write_text(make_report().to_json())
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("my own report")
    (out / "thesis.txt").write_text("years")
    command = ["report", "--report", str(tmp_path / "report.json"), "--output_dir", str(out), "--overwrite_output_dir"]
    assert main(command) == 2
    assert "report.md'" in capsys.readouterr().err
    assert tree(out) == {"report.md": b"my own report", "thesis.txt": b"years"}
    (out / "report.md").unlink()
    assert main(command) == 0  # beside the thesis
    assert main(command) == 0
    assert (out / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("verb", "function", "more"),
    [
        ("train", "training.train", TRAIN),
        ("score", "scoring.score_sites", {}),
        ("prune", "pruning.compare_states", {"plan": "layer:1", "profile": "false"}),
    ],
)
def test_a_mistake_found_late_leaves_nothing_behind(flags, capsys, monkeypatch, verb, function, more):  # noqa: F811
    def mistaken(*given, **named):
        raise UserError("found late")

    monkeypatch.setattr(f"prune_bert.pipeline.{function}", mistaken)
    given = {name: flags[name] for name in NAMES} | more
    before = sorted(flags["output_dir"].parent.iterdir())
    assert main(words(verb, given)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: found late"
    assert sorted(flags["output_dir"].parent.iterdir()) == before
