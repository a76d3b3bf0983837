"""What results depend on is in the fingerprint: every file of a checkpoint, every version, the device, the data."""

import copy
import dataclasses
import json
import shutil
from importlib import metadata

import pytest
import torch
from accelerate import Accelerator

from prune_bert import PruningPlan, RunConfig, load_model, load_task
from prune_bert.pipeline import fingerprints
from prune_bert.pipeline.fingerprints import Fingerprints, data_fingerprint, model_fingerprint, tokenizer_fingerprint
from prune_bert.pipeline.resuming import differences


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def of(directory):
    loaded = load_model(str(directory))
    return model_fingerprint(loaded.model, loaded.tokenizer)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def vocabulary(content):
    vocab = content["model"]["vocab"]
    vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]


@pytest.mark.parametrize(
    ("file", "change", "names"),
    [
        ("config.json", lambda c: c.update(layer_norm_eps=1e-5), "config.layer_norm_eps"),
        ("config.json", lambda c: c.update(num_attention_heads=2), "config.num_attention_heads"),
        ("config.json", lambda c: c.update(hidden_act="relu"), "config.hidden_act"),
        ("config.json", lambda c: c.update(hidden_dropout_prob=0.3), "config.hidden_dropout_prob"),
        ("config.json", lambda c: c.update(id2label={"0": "positive", "1": "negative"}), "config.id2label"),
        ("config.json", lambda c: c.update(of_tomorrow=1), "config.of_tomorrow"),
        ("tokenizer.json", vocabulary, "tokenizer.content"),
        ("tokenizer_config.json", lambda c: c.update(do_lower_case=False), "tokenizer.content"),
        ("tokenizer_config.json", lambda c: c.update(model_max_length=48), "tokenizer.model_max_length"),
        ("tokenizer_config.json", lambda c: c.update(padding_side="left"), "tokenizer.padding_side"),
        ("tokenizer_config.json", lambda c: c.update(truncation_side="left"), "tokenizer.truncation_side"),
    ],
)
def test_every_edit_of_a_checkpoint_shows(checkpoint, file, change, names):
    before = of(checkpoint)
    edit(checkpoint / file, change)
    changed = [change.name for change in differences(before, of(checkpoint))]
    assert any(name.startswith(names) for name in changed), changed


def test_weights_buffers_and_attention_show_and_the_place_does_not(checkpoint, tmp_path):
    loaded = load_model(str(checkpoint))
    before = model_fingerprint(loaded.model, loaded.tokenizer)
    assert of(shutil.copytree(checkpoint, tmp_path / "elsewhere")) == before
    other = copy.deepcopy(loaded.model)
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    assert model_fingerprint(other, loaded.tokenizer)["weights"] != before["weights"]
    loaded.model.register_buffer("extra", torch.ones(1))
    assert model_fingerprint(loaded.model, loaded.tokenizer)["buffers"] != before["buffers"]
    eager = load_model(str(checkpoint), attn_implementation="eager")
    assert model_fingerprint(eager.model, eager.tokenizer)["attention"] == "eager" != before["attention"]


def test_a_tokenizer_is_the_same_before_and_after_it_is_used(tiny_tokenizer):
    before = tokenizer_fingerprint(tiny_tokenizer)
    tiny_tokenizer("a good film", truncation=True, max_length=5, padding="max_length")
    assert tokenizer_fingerprint(tiny_tokenizer) == before


def test_a_slow_tokenizer_shows_its_settings():
    from transformers import CanineTokenizer

    canine = tokenizer_fingerprint(CanineTokenizer())
    assert tokenizer_fingerprint(CanineTokenizer(model_max_length=99)) != canine
    assert json.loads(json.dumps(canine)) == canine


@pytest.fixture
def run(tiny_checkpoint, data_dir):
    config = RunConfig(
        model_name_or_path=str(tiny_checkpoint), task_name="sst2", plan="layer:1", output_dir="o", mixed_precision="no"
    )
    loaded = load_model(str(tiny_checkpoint))
    models = {"model": model_fingerprint(loaded.model, loaded.tokenizer)}
    data = load_task("sst2", data_dir=str(data_dir))["validation"]
    return Fingerprints(config, Accelerator(cpu=True), models, PruningPlan.parse("layer:1")), data


@pytest.mark.parametrize("package", ["torch", "transformers", "tokenizers", "accelerate", "numpy", "evaluate"])
def test_another_version_shows(run, monkeypatch, package):
    prints, data = run
    digests = {"validation": data_fingerprint(data)}
    before = prints.of_steps(digests)
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == package else f"{name}-1")
    changed = [change.name for change in differences(before, prints.of_steps(digests))]
    assert f"versions.{package}" in changed


def test_data_plan_device_threads_and_precision_show(run, monkeypatch):
    prints, data = run
    before = prints.of_steps({"validation": data_fingerprint(data)})
    relabelled = dataclasses.replace(data, dataset=data.dataset.select(range(40)))
    assert data_fingerprint(relabelled) != data_fingerprint(data)
    other = dataclasses.replace(prints, plan=PruningPlan.parse("layer:2"))
    assert other.of_steps({})["plan"] != before["plan"]
    bf16 = dataclasses.replace(prints, config=dataclasses.replace(prints.config, mixed_precision="bf16"))
    assert bf16.of_state({})["settings"]["mixed_precision"] == "bf16"
    monkeypatch.setattr(fingerprints, "device_name", lambda device: "another machine")
    assert prints.of_steps({})["device"]["name"] != before["device"]["name"]
    assert prints.of_training({}) == json.loads(json.dumps(prints.of_training({})))


def test_names_alone_are_no_difference_but_are_told_beside_one():
    one = {"named": {"data_dir": "a"}, "data": {"train": "0" * 64}}
    assert differences(one, one | {"named": {"data_dir": "b"}}) == ()
    other = {"named": {"data_dir": "b"}, "data": {"train": "1" * 64}}
    assert [change.name for change in differences(one, other)] == ["named.data_dir", "data.train"]
