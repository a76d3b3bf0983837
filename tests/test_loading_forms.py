"""What a run says of the speed and the size of what it saved, for each way of loading it: measured, never assumed."""

from __future__ import annotations

import io
import json

import jsonschema
import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import AutoModelForSequenceClassification

from prune_bert import RunConfig, load_pruned, prune
from prune_bert.pipeline import reporting
from prune_bert.profiling import latency, measure_size
from prune_bert.profiling.size import count_parameters
from prune_bert.report import SCHEMA_PATH, PruningReport, print_table, read_report, to_html, to_markdown


@pytest.fixture(autouse=True)
def a_clock_that_counts(monkeypatch):
    """A clock on which a forward takes what its matrix products take, whatever else the machine does."""

    def clock(run, times):
        spent = []

        def count(module, arguments, output):
            if isinstance(module, nn.Linear):
                spent.append(module.in_features * module.out_features * arguments[0].shape[:-1].numel() * 1e-4)

        handle = nn.modules.module.register_module_forward_hook(count)
        try:
            for _ in range(times):
                run()
        finally:
            handle.remove()
        return sum(spent)

    monkeypatch.setattr(latency, "clock_for", lambda device: clock)


@pytest.fixture(autouse=True)
def data_alone(monkeypatch):
    """Drawing the plots takes most of a tiny run's time."""

    def write(report, directory):
        (directory / "report.json").write_text(report.to_json())

    monkeypatch.setattr(reporting, "write_report", write)


def run_plan(plan, tiny_checkpoint, data_dir, tmp_path, **changes):
    config = {
        "model_name_or_path": tiny_checkpoint,
        "task_name": "sst2",
        "data_dir": data_dir,
        "plan": plan,
        "output_dir": tmp_path / "out",
        "max_seq_length": 32,
        "profile_batch_sizes": (1, 4),
        "profile_sequence_lengths": (16,),
        "profile_rounds": 4,
        "profile_warmup": 1,
        "n_resamples": 100,
        "measure_site_costs": False,
        "device": "cpu",
    }
    return prune(RunConfig(**config | changes)), tmp_path / "out"


def by_name(report):
    return {form.name: form for form in report.loaded_with}


def texts(report, directory):
    console = Console(width=200, file=io.StringIO())
    print_table(report, console)
    card = (directory / "model" / "README.md").read_text()
    return {"card": card, "md": to_markdown(report), "html": to_html(report), "terminal": console.file.getvalue()}


@pytest.mark.parametrize("plan", ["attention:1 ffn:2,3", "layer:0 ffn:2"])
def test_removed_sublayers_cost_their_time_and_memory_through_plain_from_pretrained(
    plan, tiny_checkpoint, data_dir, tmp_path
):
    report, directory = run_plan(plan, tiny_checkpoint, data_dir, tmp_path)
    forms, final = by_name(report), report.final
    assert forms["load_pruned"].same_modules
    plain = forms["from_pretrained"]
    assert not plain.same_modules
    left = 4 - plan.count("layer")
    assert [point.speedup for point in plain.latency] == pytest.approx([4 / left] * 2, rel=0.02)
    for slow, fast in zip(plain.latency, final.latency, strict=True):
        assert (slow.batch_size, slow.sequence_length) == (fast.batch_size, fast.sequence_length)
        assert len(slow.samples_ms) == len(fast.samples_ms) == 4
        assert fast.speedup > slow.speedup * 1.1
    as_plain = AutoModelForSequenceClassification.from_pretrained(directory / "model")
    assert plain.size.parameters == count_parameters(as_plain)
    assert plain.size.flops == measure_size(as_plain, sequence_length=16).flops
    assert final.size.parameters == count_parameters(load_pruned(directory / "model")) < plain.size.parameters
    assert plain.size.checkpoint_bytes == final.size.checkpoint_bytes

    figure = f"{plain.latency[0].speedup:.2f}"
    for name, text in texts(report, directory).items():
        flat = " ".join(text.replace("\\", "").split())
        assert "load_pruned" in flat, name
        assert "from_pretrained" in flat, name
        assert "computes the removed sublayers all the same" in flat, name
        assert figure in flat.partition("plain from_pretrained computes")[2], name
    card = (directory / "model" / "README.md").read_text()
    assert card.index("load_pruned(") < card.index("from_pretrained(")


def test_the_plain_form_is_timed_as_it_will_be_loaded(tiny_checkpoint, data_dir, tmp_path, monkeypatch):
    from prune_bert.pipeline import comparing, measuring

    seen = {}

    def look(variants, **settings):
        for name, variant in variants.items():
            with variant() as model:
                seen[name] = {key: value.clone() for key, value in model.state_dict().items()}
        return measured(variants, **settings)

    measured = measuring.profile_model
    monkeypatch.setattr(measuring, "profile_model", look)
    _, directory = run_plan("attention:1 ffn:2", tiny_checkpoint, data_dir, tmp_path)
    assert list(seen) == ["baseline", "pruned", comparing.PLAIN]
    loaded = AutoModelForSequenceClassification.from_pretrained(directory / "model").state_dict()
    assert loaded.keys() == seen["from_pretrained"].keys()
    assert all(torch.equal(value, seen["from_pretrained"][key]) for key, value in loaded.items())


def test_whole_layers_are_the_same_model_either_way_and_no_figure_is_copied(tiny_checkpoint, data_dir, tmp_path):
    report, directory = run_plan("layer:1,2", tiny_checkpoint, data_dir, tmp_path)
    forms = by_name(report)
    assert set(forms) == {"from_pretrained", "load_pruned"}
    assert all(form.same_modules and form.latency == () and form.size is None for form in forms.values())
    card = (directory / "model" / "README.md").read_text()
    assert "Both ways build the same modules, so the speed is the same." in card
    assert "computes the removed sublayers" not in " ".join(texts(report, directory).values())
    plain = AutoModelForSequenceClassification.from_pretrained(directory / "model")
    pruned = load_pruned(directory / "model")
    assert [type(module) for module in plain.modules()] == [type(module) for module in pruned.modules()]


def test_a_compact_checkpoint_has_one_way(tiny_checkpoint, data_dir, tmp_path):
    report, directory = run_plan("ffn:1", tiny_checkpoint, data_dir, tmp_path, checkpoint_format="compact")
    assert [form.name for form in report.loaded_with] == ["load_pruned"]
    assert "from_pretrained(" not in (directory / "model" / "README.md").read_text()


def test_a_compensated_one_has_its_own_figures_both_ways(tiny_checkpoint, data_dir, tmp_path):
    changes = {"compensation": "low_rank", "compensation_rank": 2, "max_calibration_samples": 32}
    report, directory = run_plan("ffn:1,2", tiny_checkpoint, data_dir, tmp_path, **changes)
    plain = by_name(report)["from_pretrained"]
    assert [point.speedup for point in plain.latency] == pytest.approx([1, 1])
    assert all(point.speedup > 1.1 for point in report.final.latency)
    assert plain.size.parameters == count_parameters(
        AutoModelForSequenceClassification.from_pretrained(directory / "model")
    )


def test_where_nothing_is_timed_that_is_said(tiny_checkpoint, data_dir, tmp_path):
    report, directory = run_plan("ffn:1", tiny_checkpoint, data_dir, tmp_path, profile=False)
    assert by_name(report)["from_pretrained"].latency == ()
    assert "its speed was not measured" in (directory / "model" / "README.md").read_text().replace("\\", "")


def test_a_report_of_before_still_reads_and_the_new_one_fits_the_schema(tiny_checkpoint, data_dir, tmp_path):
    report, directory = run_plan("ffn:1", tiny_checkpoint, data_dir, tmp_path)
    data = json.loads((directory / "report.json").read_text())
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    assert read_report(directory) == report
    del data["loaded_with"]
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    old = PruningReport.from_json(json.dumps(data))
    assert old.loaded_with == ()
    assert "by the way it is loaded" not in to_html(old)
