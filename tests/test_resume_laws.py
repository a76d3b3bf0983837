"""After a kill at the end of a step: what a result depends on starts it afresh or is refused, all else resumes."""

import json
import shutil

import pytest
from conftest import make_tiny_bert
from test_training import toy_data

from prune_bert.cli import main
from prune_bert.pipeline import comparing, fingerprints, plan_values, pruning, searching, training
from prune_bert.training import ResumeError, TrainSettings, loop, train
from prune_bert.training import run as loop_run

OFF = {"profile": "false", "save_model": "false", "measure_site_costs": "false"}


def stop(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.fixture
def flags(tiny_checkpoint, data_dir, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    shutil.copytree(data_dir, tmp_path / "data")
    return {
        "model_name_or_path": tmp_path / "model",
        "task_name": "sst2",
        "data_dir": tmp_path / "data",
        "output_dir": tmp_path / "out",
        "max_seq_length": 32,
        "n_resamples": 20,
        "device": "cpu",
    }


def run(verb, flags, capsys, **changes):
    given = {name: value for name, value in {**flags, **changes}.items() if value is not None}
    code = main([verb, *(word for name, value in given.items() for word in (f"--{name}", str(value)))])
    return code, capsys.readouterr().err


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def scored(monkeypatch):
    """The states that were scored, whichever run did it."""
    names, whole = [], comparing.score_model
    monkeypatch.setattr(comparing, "score_model", lambda *args: names.append(args[-1]) or whole(*args))
    return names


def killed_prune(flags, capsys, monkeypatch):
    """A run that ends when both states are scored and nothing is saved."""
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "drop", stop)
        assert run("prune", flags, capsys, plan="layer:1", **OFF)[0] == 130


AFRESH = {
    "max_seq_length": ({"max_seq_length": 16}, "settings.max_seq_length: 32 -> 16"),
    "seed": ({"seed": 7}, "settings.seed: 42 -> 7"),
    "n_resamples": ({"n_resamples": 30}, "settings.n_resamples: 20 -> 30"),
    "batch": ({"per_device_eval_batch_size": 8}, "settings.per_device_eval_batch_size: 32 -> 8"),
    "plan": ({"plan": "layer:2"}, "plan: layer:1 -> layer:2"),
    "attention": ({"attn_implementation": "eager"}, "model.attention: sdpa -> eager"),
    "rows": ({"max_eval_samples": 20}, "data.validation (its content)"),
}


@pytest.mark.parametrize("case", AFRESH)
def test_a_flag_that_changes_the_result_starts_afresh_with_a_line(flags, capsys, monkeypatch, scored, case):
    killed_prune(flags, capsys, monkeypatch)
    scored.clear()
    changed, said = AFRESH[case]
    code, err = run("prune", flags, capsys, **{"plan": "layer:1", **OFF, **changed})
    assert code == 0, err
    assert scored == ["baseline", "pruned"]
    lines = [line for line in err.splitlines() if "is not resumed" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert len(lines[0]) < 500 + len(str(flags["output_dir"]))


def test_an_edited_checkpoint_starts_afresh_with_a_line(flags, capsys, monkeypatch, scored):
    killed_prune(flags, capsys, monkeypatch)
    edit(flags["model_name_or_path"] / "config.json", layer_norm_eps=0.1)
    edit(flags["model_name_or_path"] / "tokenizer_config.json", truncation_side="left")
    scored.clear()
    code, err = run("prune", flags, capsys, plan="layer:1", **OFF)
    assert (code, scored) == (0, ["baseline", "pruned"])
    assert "model.config.layer_norm_eps: 1e-12 -> 0.1" in err
    assert "model.tokenizer.truncation_side: right -> left" in err


def test_another_version_and_other_rows_start_afresh(flags, capsys, monkeypatch, scored):
    killed_prune(flags, capsys, monkeypatch)
    versions = fingerprints._versions
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_versions", lambda names: versions(names) | {"torch": "9.9"})
        patch.setattr(pruning, "drop", stop)
        scored.clear()
        code, err = run("prune", flags, capsys, plan="layer:1", **OFF)
        assert (code, scored) == (130, ["baseline", "pruned"])
        assert "versions.torch" in err
        with (flags["data_dir"] / "dev.tsv").open("a") as file:
            file.write("a new film\t1\n")
        scored.clear()
        code, err = run("prune", flags, capsys, plan="layer:1", **OFF)
        assert (code, scored) == (130, ["baseline", "pruned"])
        assert "data.validation (its content)" in err


def test_what_changes_no_result_resumes(flags, capsys, monkeypatch, scored, tmp_path):
    killed_prune(flags, capsys, monkeypatch)
    shutil.move(flags["model_name_or_path"], tmp_path / "moved")
    shutil.move(flags["data_dir"], tmp_path / "rows")
    (tmp_path / "plan.json").write_text(json.dumps({"sites": ["layer:1"]}))
    scored.clear()
    changed = {"model_name_or_path": tmp_path / "moved", "data_dir": tmp_path / "rows", "save_model": "true"}
    changed |= {"overwrite_output_dir": "true", "checkpoint_format": "compact", "max_eval_samples": 41}
    code, err = run("prune", flags, capsys, **{"plan": "layer:1", **OFF, **changed})
    assert (code, scored) == (0, []), err
    assert "not resumed" not in err


TRAINED = {"max_steps": 4, "per_device_train_batch_size": 8, "checkpointing_steps": 1}


def killed_training(flags, capsys, monkeypatch):
    saved, whole = [], loop.save_run

    def save_twice(*args):
        whole(*args)
        saved.append(args)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_run", save_twice)
        assert run("train", flags, capsys, **TRAINED)[0] == 130


def test_unrelated_flags_keep_the_training(flags, capsys, monkeypatch):
    killed_training(flags, capsys, monkeypatch)
    changed = {"per_device_eval_batch_size": 5, "n_resamples": 30, "checkpointing_steps": 3, "lora_dropout": 0.3}
    code, err = run("train", flags, capsys, **TRAINED | changed, overwrite_output_dir="true")
    assert code == 0, err
    assert json.loads((flags["output_dir"] / "training.json").read_text())["training"]["resumed_from"] == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 1e-3}, "settings.learning_rate: 5e-05 -> 0.001"),
        ({"max_steps": 6}, "settings.max_steps: 4 -> 6"),
        ({"max_train_samples": 32}, "data.train (its content)"),
        ({"max_eval_samples": 8}, "data.validation (its content)"),
        ({"num_threads": 1, "seed": 1}, "settings.seed: 42 -> 1"),
    ],
)
def test_training_hours_of_other_settings_are_refused_and_kept(flags, capsys, monkeypatch, changed, said):
    killed_training(flags, capsys, monkeypatch)
    state = flags["output_dir"].with_name(".out.unfinished") / "state"
    before = sorted(path.name for path in state.iterdir())
    code, err = run("train", flags, capsys, **TRAINED | changed)
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "--no_resume" in line
    assert sorted(path.name for path in state.iterdir()) == before
    code, err = run("train", flags, capsys, **TRAINED | changed, resume="false")
    assert code == 0, err
    assert json.loads((flags["output_dir"] / "training.json").read_text())["training"]["resumed_from"] is None


def test_an_edited_config_is_refused_before_the_training_goes_on(flags, capsys, monkeypatch):
    killed_training(flags, capsys, monkeypatch)
    edit(flags["model_name_or_path"] / "config.json", hidden_dropout_prob=0.5)
    monkeypatch.setattr(training, "train", stop)
    code, err = run("train", flags, capsys, **TRAINED)
    assert code == 2
    assert "model.config.hidden_dropout_prob: 0.1 -> 0.5" in err


def test_the_loop_itself_refuses_another_config_and_another_version(tiny_bert, tiny_tokenizer, tmp_path, monkeypatch):
    knobs = TrainSettings(max_steps=2, checkpointing_steps=1, per_device_train_batch_size=8, max_seq_length=32)
    train(tiny_bert, toy_data(32), tiny_tokenizer, knobs, state_dir=tmp_path)
    other = make_tiny_bert(layer_norm_eps=0.1)
    with pytest.raises(ResumeError, match=r"model config\.layer_norm_eps was 1e-12 and is now 0\.1"):
        train(other, toy_data(32), tiny_tokenizer, knobs, state_dir=tmp_path)
    monkeypatch.setattr(loop_run.transformers, "__version__", "9.9")
    with pytest.raises(ResumeError, match=r"versions\.transformers was .* and is now '9\.9'"):
        train(make_tiny_bert(), toy_data(32), tiny_tokenizer, knobs, state_dir=tmp_path)


SEARCH = {"strategy": "beam", "beam_width": 2, "racing": "true", "max_removed": 2, "max_calibration_samples": 40}
SEARCH |= {"sequence_length": 16, "profile_rounds": 2, "profile_warmup": 0}


def test_a_search_with_another_objective_reads_no_losses_of_the_first(flags, capsys, monkeypatch):
    """The race of the second is that of a search which never had a journal."""
    with monkeypatch.context() as patch:
        patch.setattr(searching, "front_points", stop)
        assert run("search", flags, capsys, **SEARCH, objective="divergence")[0] == 130
        journal = flags["output_dir"].with_name(".out.journal.jsonl")
        known = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
        losses = [key for key in known if " in batch " in key]
        assert losses
        assert all(key.startswith("divergence in batch ") for key in losses)
        assert run("search", flags, capsys, **SEARCH, objective="loss")[0] == 130
    second = {}
    for line in journal.read_text().splitlines()[1:]:
        item = json.loads(line)
        second[item["key"]] = item["value"]
    one = next(key for key in losses if key.replace("divergence", "loss", 1) in second)
    assert second[one] != second[one.replace("divergence", "loss", 1)]


def test_a_search_with_another_budget_evaluates_nothing_again(flags, capsys, monkeypatch):
    monkeypatch.setattr(searching, "front_points", stop)
    given = SEARCH | {"racing": "false"}
    assert run("search", flags, capsys, **given)[0] == 130
    evaluated, whole = [], plan_values.score_plans

    def noted(*args, **kwargs):
        evaluated.append(args[2])
        return whole(*args, **kwargs)

    monkeypatch.setattr(plan_values, "score_plans", noted)
    assert run("search", flags, capsys, **given, max_accuracy_drop=100)[0] == 130
    assert not [plans for plans in evaluated if plans]
    code, err = run("search", flags, capsys, **given, seed=3)
    assert code == 2
    assert "(different: settings.seed)" in err
    assert "settings.seed: 42 -> 3" in err
