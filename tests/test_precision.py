"""The precision of a run: the setting, else the launcher's, else none; and several of them in one process."""

import json

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from prune_bert import RunConfig, evaluate, load_model, load_task, prune
from prune_bert.cli import main
from prune_bert.pipeline import session
from prune_bert.pipeline.precision import LAUNCHED, PrecisionError, own_accelerate_state, settled_precision


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(session, "_bf16_cost", lambda: 1.0)
    monkeypatch.delenv(LAUNCHED, raising=False)


def config(tiny_checkpoint, data_dir, output_dir, **given):
    return RunConfig(
        model_name_or_path=str(tiny_checkpoint),
        task_name="sst2",
        data_dir=str(data_dir),
        plan="layer:1",
        output_dir=str(output_dir),
        max_seq_length=32,
        n_resamples=20,
        device="cpu",
        profile=False,
        save_model=False,
        measure_site_costs=False,
        **given,
    )


@pytest.mark.parametrize(
    ("given", "launched", "expected", "said"),
    [
        (None, None, "no", ""),
        (None, "no", "no", ""),
        (None, "bf16", "bf16", "from accelerate's launcher"),
        (None, "BF16", "bf16", "from accelerate's launcher"),
        ("no", "bf16", "no", "as given, not the launcher's bf16"),
        ("bf16", "no", "bf16", "as given, not the launcher's no"),
        ("bf16", None, "bf16", ""),
    ],
)
def test_the_setting_wins_over_the_launcher(monkeypatch, given, launched, expected, said):
    if launched is not None:
        monkeypatch.setenv(LAUNCHED, launched)
    settled, notes = settled_precision(config("m", "d", "o", mixed_precision=given))
    assert settled.mixed_precision == expected
    assert [said in note for note in notes] == ([True] if said else [])


def test_a_precision_of_the_launcher_that_is_unknown_is_refused(monkeypatch, tiny_checkpoint, data_dir, tmp_path):
    monkeypatch.setenv(LAUNCHED, "fp8")
    with pytest.raises(PrecisionError, match=r"'fp8'.*give one of no, bf16, fp16"):
        prune(config(tiny_checkpoint, data_dir, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_report_has_the_precision_in_force(monkeypatch, tiny_checkpoint, data_dir, tmp_path):
    """As under ``accelerate launch --mixed_precision bf16``, which tells its processes by the environment."""
    monkeypatch.setenv(LAUNCHED, "bf16")
    report = prune(config(tiny_checkpoint, data_dir, tmp_path / "out"))
    assert report.config["mixed_precision"] == "bf16"
    assert report.environment["mixed_precision"] == "bf16"
    assert any("from accelerate's launcher" in note for note in report.notes)
    assert "mixed_precision: bf16" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_notebook_changes_its_precision_from_call_to_call(tiny_checkpoint, data_dir, tmp_path):
    """Each call gets what it asks for, and an accelerator of the user's own keeps its."""
    loaded = load_model(str(tiny_checkpoint))
    data = load_task("sst2", data_dir=str(data_dir))["validation"]

    def plain():
        return evaluate(loaded.model, data, loaded.tokenizer, max_seq_length=32, n_resamples=20)

    own = Accelerator(cpu=True)
    first = plain()
    reports = [
        prune(config(tiny_checkpoint, data_dir, tmp_path / str(number), mixed_precision=precision))
        for number, precision in enumerate(("bf16", "no", "bf16"))
    ]
    assert [report.config["mixed_precision"] for report in reports] == ["bf16", "no", "bf16"]
    assert reports[0].rows[0].loss == reports[2].rows[0].loss != reports[1].rows[0].loss
    assert reports[1].rows[0].loss == first.loss
    assert own.mixed_precision == "no"
    assert plain().loss == first.loss
    common = ["--task_name", "sst2", "--data_dir", str(data_dir), "--max_seq_length", "32", "--device", "cpu"]
    for precision in ("bf16", "no"):
        out = tmp_path / f"evaluate-{precision}"
        words = ["--model_name_or_path", str(tiny_checkpoint), "--mixed_precision", precision, "--output_dir", str(out)]
        assert main(["evaluate", *common, *words, "--n_resamples", "20"]) == 0
        assert json.loads((out / "score.json").read_text())["environment"]["mixed_precision"] == precision


def test_the_state_is_put_back_after_an_exception():
    Accelerator(cpu=True)
    before = AcceleratorState._shared_state
    content = dict(before)

    @own_accelerate_state()
    def fails():
        raise KeyError(Accelerator(cpu=True, mixed_precision="bf16").mixed_precision)

    with pytest.raises(KeyError, match="bf16"):
        fails()
    assert AcceleratorState._shared_state is before
    assert dict(before) == content
