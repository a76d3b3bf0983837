"""``score`` and ``search`` from end to end on a tiny model: what lands on disk, budgets, resuming, each mistake."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from processes import run_until_killed, torchrun

from prune_bert import PruningPlan
from prune_bert.cli import main
from prune_bert.config import ScoreConfig, SearchConfig
from prune_bert.config.options import ComponentName, ScorerName
from prune_bert.importance import SCORERS
from prune_bert.pipeline import plan_values, searching
from prune_bert.pipeline.calibration import without_overlap
from prune_bert.pipeline.front import shown_front
from prune_bert.plan import COMPONENTS
from prune_bert.report import front
from prune_bert.search import STRATEGIES, Candidate, pareto_front
from prune_bert.storage import MANIFEST

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def flags(tiny_checkpoint, data_dir, tmp_path):
    """The flags of a quick search, by name."""
    return {
        "model_name_or_path": tiny_checkpoint,
        "task_name": "sst2",
        "data_dir": data_dir,
        "output_dir": tmp_path / "out",
        "max_seq_length": 32,
        "max_calibration_samples": 48,
        "n_resamples": "50",
        "device": "cpu",
    }


TIMING = {"sequence_length": 32, "batch_size": 8, "profile_rounds": 4, "profile_warmup": 1}


def words(verb, flags, **changes):
    given = {**flags, **(TIMING if verb == "search" else {}), **changes}
    given = {name: value for name, value in given.items() if value is not None}
    return [verb, *(word for name, value in given.items() for word in (f"--{name}", *str(value).split()))]


def run(verb, flags, capsys, **changes):
    code = main(words(verb, flags, **changes))
    return code, *capsys.readouterr()


def result(flags):
    return json.loads((flags["output_dir"] / "search.json").read_text())


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_the_choices_of_the_flags_are_those_of_the_code():
    assert set(get_args(ScorerName)) == set(SCORERS)
    assert get_args(ComponentName) == COMPONENTS
    strategies = [name for part in get_args(get_type_hints(SearchConfig)["strategy"]) for name in get_args(part)]
    assert set(strategies) == set(STRATEGIES)
    assert set(ScoreConfig(model_name_or_path="m", task_name="sst2", output_dir="o").scorer) <= set(SCORERS)


def test_score_leaves_a_table_and_a_plot(flags, capsys):
    code, out, err = run("score", flags, capsys, scorer="top contribution taylor")
    assert code == 0, err
    names = sorted(path.name for path in flags["output_dir"].iterdir())
    assert names == [MANIFEST, "config.yaml", "scores.json", "scores.md", "scores.png", "scores.svg"]
    record = json.loads((flags["output_dir"] / "scores.json").read_text())
    assert [one["scorer"] for one in record["scorers"]] == ["top", "contribution", "taylor"]
    assert [len(one["scores"]) for one in record["scorers"]] == [12, 12, 12]
    assert record["scorers"][0]["removal_order"][0].endswith(":3")
    assert record["n"] == 48
    assert "attention:2" in out
    assert not list(flags["output_dir"].parent.glob(".out*"))


def test_a_search_leaves_everything_it_promises(flags, capsys):
    code, out, err = run("search", flags, capsys, max_accuracy_drop=100)
    assert code == 0, err
    names = sorted(path.name for path in flags["output_dir"].iterdir())
    pictures = ["front.html", "front.md", "front.png", "front.svg"]
    assert names == [MANIFEST, "chosen_plan.json", "config.yaml", *pictures, "search.json"]
    assert not list(flags["output_dir"].parent.glob(".out*"))
    found = result(flags)
    assert found["search"]["strategy"] == "sublayer"
    assert found["search"]["evaluated"] == 1 + sum(range(1, 9))
    assert found["n"] == {"calibration": 48, "validation": 41}
    for point in found["front"]:
        assert {"plan", "calibration", "validation", "predicted_ms", "measured_ms", "speedup", "command"} <= set(point)
        assert len(point["validation"]["ci95"]) == 2
    chosen = json.loads((flags["output_dir"] / "chosen_plan.json").read_text())
    assert chosen["text"] == found["chosen"]
    assert [point["plan"] for point in found["front"] if point["chosen"]] == [found["chosen"]]
    page = (flags["output_dir"] / "front.html").read_text()
    assert f"<title>{found['chosen']}: " in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("prune-bert prune --model_name_or_path") == len(found["front"])
    assert found["chosen"] in out


def test_the_commands_of_the_front_and_the_chosen_plan_work(flags, capsys):
    run("search", flags, capsys, strategy="greedy", min_speedup=1)
    point = result(flags)["front"][0]
    command = shlex.split(point["command"])[1:]
    assert main([*command, "--no_save_model", "--no_measure_site_costs", "--profile_rounds", "2"]) == 0
    pruned = Path(command[command.index("--output_dir") + 1])
    rows = json.loads((pruned / "report.json").read_text())["rows"]
    assert rows[1]["metrics"]["accuracy"]["value"] == point["validation"]["value"]
    other = flags["output_dir"].with_name("evaluated")
    plan = flags["output_dir"] / "chosen_plan.json"
    kept = {name: value for name, value in flags.items() if name != "max_calibration_samples"}
    assert run("evaluate", kept, capsys, plan=plan, output_dir=other)[0] == 0


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a tiny search; the tests of what is drawn do not use this."""
    monkeypatch.setattr(front, "as_png", lambda figure: b"")
    monkeypatch.setattr(front, "as_svg", lambda figure: "")


@pytest.mark.parametrize(
    ("changes", "evaluated"),
    [
        ({"strategy": "exhaustive"}, 15),
        ({"strategy": "exhaustive", "max_removed": 1}, 5),
        ({"strategy": "exhaustive", "racing": "true"}, None),
        ({"strategy": "greedy", "keep_layers": 2}, 8),
        ({"keep_layers": 3}, 5),
        ({"strategy": "one_shot", "scorer": "symmetric"}, 4),
        ({"strategy": "one_shot", "components": "attention ffn", "scorer": "magnitude"}, 9),
        ({"strategy": "beam", "racing": "false", "beam_width": 2, "objective": "metric"}, None),
        ({"strategy": "beam", "beam_width": 2, "racing": "true"}, None),
        ({"strategy": "beam", "beam_width": 2, "objective": "divergence", "racing": "true"}, None),
        ({"strategy": "sublayer", "beam_width": 2, "objective": "agreement", "max_accuracy_drop": 100}, None),
        ({"strategy": "greedy", "objective": "agreement", "norm": "skip", "components": "attention layer"}, None),
    ],
)
def test_every_strategy_finds_a_front(flags, capsys, no_pictures, changes, evaluated):
    code, _, err = run("search", flags, capsys, **changes)
    assert code == 0, err
    found = result(flags)
    assert evaluated is None or found["search"]["evaluated"] == evaluated
    points = found["front"]
    assert all(point["parameters"] < found["baseline"]["parameters"] for point in points)
    predicted = [point["predicted_ms"] for point in points]
    assert predicted == sorted(predicted)
    assert (found["chosen"] is None) == (not {"keep_layers", "max_accuracy_drop"} & set(changes))
    if "keep_layers" in changes:
        assert len(PruningPlan.parse(found["chosen"])) == 4 - changes["keep_layers"]
    assert bool(found["search"]["races"]) == (changes.get("racing") == "true")
    if changes.get("racing") == "true":
        assert all("confidence" in race for race in found["search"]["races"])


def test_evaluate_confirms_the_front(flags, capsys, no_pictures):
    run("search", flags, capsys, strategy="exhaustive")
    point = result(flags)["front"][0]
    kept = {name: value for name, value in flags.items() if name != "max_calibration_samples"}
    other = flags["output_dir"].with_name("evaluated")
    assert main(["evaluate", "--plan", point["plan"], *words("evaluate", kept, output_dir=other)[1:]]) == 0
    score = json.loads((other / "score.json").read_text())
    assert score["metrics"]["accuracy"]["value"] == point["validation"]["value"]


def test_a_budget_that_no_plan_meets_keeps_the_journal_for_another(flags, capsys, no_pictures, monkeypatch):
    code, _, err = run("search", flags, capsys, strategy="exhaustive", min_speedup=500)
    assert code == 2
    assert "the nearest is" in err
    assert not flags["output_dir"].exists()
    evaluated = []
    original = plan_values.PlanScorer.values
    monkeypatch.setattr(
        plan_values.PlanScorer, "values", lambda self, plans: evaluated.append(plans) or original(self, plans)
    )
    code, _, err = run("search", flags, capsys, strategy="exhaustive", min_speedup=1)
    assert code == 0, err
    assert evaluated == []


def test_the_journal_of_another_run_is_refused_and_kept(flags, capsys, monkeypatch):
    monkeypatch.setattr(searching, "front_points", stop)
    assert run("search", flags, capsys, strategy="exhaustive")[0] == 130
    journal = flags["output_dir"].with_name(".out.journal.jsonl")
    before = journal.read_bytes()
    code, _, err = run("search", flags, capsys, strategy="exhaustive", max_calibration_samples=32)
    assert code == 2
    assert "journal of another run" in err
    assert "max_calibration_samples" in err
    assert journal.read_bytes() == before


def test_a_killed_search_resumes_from_its_journal(flags, capsys, no_pictures, tmp_path, monkeypatch):
    """SIGKILL once some plans are on disk: the second run evaluates only the others."""
    journal = tmp_path / ".out.journal.jsonl"
    ten_known = f"len(Path({str(journal)!r}).read_bytes().splitlines()) > 10"
    run_until_killed(words("search", flags), "prune_bert.search.Journal.record", ten_known, tmp_path)
    assert not flags["output_dir"].exists()
    known = len(journal.read_bytes().splitlines()) - 1
    assert known >= 9
    evaluated = []
    original = plan_values.PlanScorer.values
    monkeypatch.setattr(
        plan_values.PlanScorer, "values", lambda self, plans: evaluated.extend(plans) or original(self, plans)
    )
    code, _, err = run("search", flags, capsys)
    assert code == 0, err
    assert len(evaluated) <= 37 - known + 1
    assert result(flags)["search"]["evaluated"] == 37


def test_two_searches_on_one_output_directory_are_refused(flags, capsys):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    journal = flags["output_dir"].with_name(".out.journal.jsonl")
    other = subprocess.Popen([sys.executable, "-c", code, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        code, _, err = run("search", flags, capsys)
    finally:
        other.kill()
        other.communicate()
    assert code == 2
    assert "another search is at work" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "gredy"}, "did you mean 'greedy'"),
        ({"strategy": "one_shot", "scorer": "block_influnce"}, "did you mean 'block_influence'"),
        ({"max_accuracy_drop": 200}, "points from 0 to 100"),
        ({"min_speedup": 0.5}, "slower than the unpruned model"),
        ({"respect_interval": "true"}, "max_accuracy_drop, which is not given"),
        ({"keep_layers": 9}, "more than the model's 4 layers"),
        ({"keep_layers": 2, "min_speedup": 3}, "at most 2.00"),
        ({"keep_layers": 2, "strategy": "sublayer"}, "use --strategy greedy"),
        ({"scorer": "top"}, "one_shot"),
        ({"strategy": "greedy", "beam_width": 3}, "beam_width is for"),
        ({"strategy": "greedy", "racing": "true"}, "racing is for"),
        ({"strategy": "beam", "racing": "true", "objective": "metric"}, "not metric"),
        ({"strategy": "exhaustive", "components": "layer ffn"}, "not both"),
        ({"strategy": "sublayer", "components": "layer"}, "use greedy or beam"),
        ({"respect_interval": "true", "max_accuracy_drop": 1, "objective": "agreement"}, "needs labels"),
        ({"sequence_length": 999}, "999"),
        ({"data_dir": "OVERLAP"}, "also in validation"),
        ({"data_dir": "UNTRAINED"}, "train"),
        ({"data_dir": None, "task_name": None, "validation_file": "OVERLAP/dev.tsv"}, "train"),
    ],
)
def test_each_mistake_gets_one_line_and_nothing_is_left(flags, capsys, tmp_path, data_dir, monkeypatch, changes, says):
    monkeypatch.chdir(tmp_path)
    for name in ("OVERLAP", "UNTRAINED"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.tsv").write_bytes((data_dir / "dev.tsv").read_bytes())
    (tmp_path / "OVERLAP" / "train.tsv").write_bytes((data_dir / "dev.tsv").read_bytes())
    code, _, err = run("search", flags, capsys, **changes)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in err
    assert not flags["output_dir"].exists()
    assert not (tmp_path / ".out.journal.jsonl").exists()


def test_exhaustive_over_too_many_sites_is_refused_with_the_alternatives(flags, capsys, tmp_path, tiny_tokenizer):
    from conftest import make_tiny_bert

    deep = tmp_path / "deep"
    make_tiny_bert(num_hidden_layers=17).save_pretrained(deep)
    tiny_tokenizer.save_pretrained(deep)
    code, _, err = run("search", flags, capsys, model_name_or_path=deep, strategy="exhaustive")
    assert code == 2
    assert "131,072 plans over 17 sites, about" in err
    assert "beam or greedy" in err


def test_a_few_rows_in_common_are_left_out_and_said(data_dir, tmp_path, flags, capsys):
    dev = (data_dir / "dev.tsv").read_text().splitlines()
    train = (data_dir / "train.tsv").read_text().splitlines()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "dev.tsv").write_text("\n".join(dev) + "\n")
    (tmp_path / "mixed" / "train.tsv").write_text("\n".join([*train, dev[1]]) + "\n")
    code, out, err = run(
        "search", flags, capsys, data_dir=tmp_path / "mixed", strategy="one_shot", max_calibration_samples=65
    )
    assert code == 0, err
    assert "1 of the 65 calibration rows is also in validation and left out" in out
    assert result(flags)["n"]["calibration"] == 64


@pytest.mark.slow
def test_several_processes_find_what_one_finds(flags, capsys, tmp_path):
    run("search", flags, capsys, strategy="exhaustive")
    alone = result(flags)
    other = tmp_path / "two"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = torchrun("-m", "prune_bert", *words("search", flags, strategy="exhaustive", output_dir=other))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    together = json.loads((other / "search.json").read_text())
    assert together["environment"]["processes"] == 2
    figures = [
        [(one["plan"], one["loss"], one["metric"]) for one in run["search"]["plans"]] for run in (alone, together)
    ]
    assert figures[0] == figures[1]


def test_the_front_is_thinned_evenly_and_keeps_the_chosen_plan():
    found = [
        Candidate(PruningPlan.parse(f"layer:{number}"), accuracy=number, latency_ms=float(number))
        for number in range(40)
    ]
    shown, whole = shown_front(found, found[17])
    assert whole == len(pareto_front(found)) == 40
    assert 12 <= len(shown) <= 13
    assert {0, 39, 17} <= {candidate.accuracy for candidate in shown}
    assert list(np.diff([candidate.latency_ms for candidate in shown]) > 0) == [True] * (len(shown) - 1)


def test_overlap_is_told_by_the_text_alone(data_dir):
    from prune_bert import load_task

    data = load_task("sst2", data_dir=str(data_dir), splits=("train", "validation"))
    same, notes = without_overlap(data["train"], data["validation"])
    assert same is data["train"]
    assert notes == ()


def test_a_search_runs_again_from_its_config(flags, capsys, no_pictures):
    run("search", flags, capsys, strategy="one_shot", scorer="top")
    first = result(flags)
    path = flags["output_dir"] / "config.yaml"
    assert yaml.safe_load(path.read_text())["strategy"] == "one_shot"
    other = flags["output_dir"].with_name("again")
    assert main(["search", "--config", str(path), "--output_dir", str(other)]) == 0
    assert json.loads((other / "search.json").read_text())["search"]["path"] == first["search"]["path"]


@pytest.fixture
def unlabelled(tmp_path, data_dir):
    """The same sentences without their labels, as files of the user's own."""
    for split in ("train", "dev"):
        rows = (data_dir / f"{split}.tsv").read_text().splitlines()
        (tmp_path / f"{split}.tsv").write_text("\n".join(row.split("\t")[0] for row in rows) + "\n")
    return {
        "task_name": None,
        "data_dir": None,
        "train_file": tmp_path / "train.tsv",
        "validation_file": tmp_path / "dev.tsv",
        "text_columns": "sentence",
    }


def test_without_labels_the_search_keeps_the_unpruned_models_predictions(flags, unlabelled, capsys):
    code, out, err = run("search", flags, capsys, **unlabelled, objective="agreement", max_accuracy_drop=100)
    assert code == 0, err
    assert "the data have no labels" in out
    found = result(flags)
    for point in found["front"]:
        assert 0 <= point["validation"]["value"] <= 1
    assert found["chosen"]


def test_without_labels_some_things_cannot_be_had(flags, unlabelled, capsys):
    for changes in ({"objective": "loss"}, {"objective": "agreement", "strategy": "one_shot", "scorer": "taylor"}):
        code, _, err = run("search", flags, capsys, **unlabelled, **changes)
        assert code == 2
        assert "need text_columns and label_column" in err
    code, _, err = run("score", flags, capsys, **unlabelled, scorer="fisher")
    assert code == 2
    assert "need text_columns and label_column" in err
    code, _, err = run("score", flags, capsys, **unlabelled, scorer="block_influence")
    assert code == 0, err
