"""Checkpoints: equal logits on reload, refusal where plain transformers would go on with random weights."""

import copy
import errno
import json

import pytest
import torch
import transformers
from families import FAMILIES, UNKNOWN, build, logits
from transformers import AutoModelForSequenceClassification

from prune_bert import PruningPlan, bypass, drop, load_model, load_pruned, save_pruned
from prune_bert.checkpoint import CheckpointError, saving
from prune_bert.stand_ins import Identity
from prune_bert.surgery import pruning_record

EAGER = {"attn_implementation": "eager"}


def dropped(family, text, **overrides):
    model = build(family, **overrides)
    drop(model, PruningPlan.parse(text))
    return model


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_layers_dropped_load_in_plain_transformers(family, tmp_path):
    model = dropped(family, "layer:1,2")
    if family in UNKNOWN:
        # Which layers attend globally follows from their index in transformers 4 and in servers, so the next cannot
        # move up: refused, not wrong.
        with pytest.raises(CheckpointError, match="another kind of layer"):
            save_pruned(model, tmp_path / "out")
        return
    save_pruned(model, tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **EAGER)
    assert torch.equal(logits(plain), logits(model))
    assert plain.config.num_hidden_layers == 2
    assert plain.config.prune_bert["original_layer_indices"] == [0, 3]
    assert torch.equal(logits(load_pruned(tmp_path / "out", **EAGER)), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_norms_make_sublayer_plans_portable(family, tmp_path):
    model = dropped(family, "layer:1 attention:2 ffn:3")
    save_pruned(model, tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **EAGER)
    assert torch.equal(logits(plain), logits(model))
    assert not any(isinstance(module, Identity) for module in plain.modules())
    pruned = load_pruned(tmp_path / "out", **EAGER)
    assert torch.equal(logits(pruned), logits(model))
    assert sum(p.numel() for p in pruned.parameters()) == sum(p.numel() for p in model.parameters())
    assert pruning_record(pruned.config).plan == PruningPlan.parse("layer:1 attention:2 ffn:3")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["attention:1 ffn:0,2", "attention:1 norm=skip", "layer:0"])
def test_compact_loads_here_and_is_refused_elsewhere(family, text, tmp_path):
    model = dropped(family, text)
    save_pruned(model, tmp_path / "out", format="compact")
    assert torch.equal(logits(load_pruned(tmp_path / "out", **EAGER)), logits(model))
    with pytest.raises(ValueError, match="prune_bert_compact"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with pytest.raises(OSError, match="no file named"):
        type(model).from_pretrained(tmp_path / "out")


def test_compact_is_smaller(tmp_path):
    model = dropped("bert", "attention:1 ffn:0,2")
    portable = save_pruned(model, tmp_path / "portable") / "model.safetensors"
    compact = save_pruned(model, tmp_path / "compact", format="compact") / "pruned_model.safetensors"
    assert compact.stat().st_size < portable.stat().st_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["portable", "compact"])
def test_the_type_of_the_weights_survives(dtype, format, tmp_path):
    model = dropped("bert", "layer:1 ffn:0").to(dtype)
    save_pruned(model, tmp_path / "out", format=format)
    reloaded = load_pruned(tmp_path / "out", **EAGER)
    assert reloaded.dtype == dtype
    assert torch.equal(logits(reloaded), logits(model))


def test_a_second_drop_after_a_reload_goes_on_counting_in_original_layers(tmp_path):
    save_pruned(dropped("bert", "layer:1", num_hidden_layers=6), tmp_path / "one")
    model = load_pruned(tmp_path / "one")
    drop(model, PruningPlan.parse("layer:1"))
    save_pruned(model, tmp_path / "two")
    assert load_pruned(tmp_path / "two").config.prune_bert["original_layer_indices"] == [0, 3, 4, 5]


def test_the_tokenizer_and_more_go_along(tmp_path, tiny_tokenizer, tiny_bert):
    drop(tiny_bert, PruningPlan.parse("ffn:1"))
    save_pruned(tiny_bert, tmp_path / "out", tiny_tokenizer, extra_files={"README.md": "# card\n"})
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("a good film")["input_ids"] == tiny_tokenizer("a good film")["input_ids"]
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"
    assert not list((tmp_path / "out").glob("*.bin"))


def test_skipped_norms_have_no_portable_form(tmp_path):
    with pytest.raises(CheckpointError, match=r"no portable form.*compact"):
        save_pruned(dropped("bert", "ffn:1 norm=skip"), tmp_path / "out")
    save_pruned(dropped("bert", "attention:1 ffn:1 norm=skip"), tmp_path / "layer")  # the same as layer:1


def test_what_drop_did_not_do_is_not_saved(tmp_path):
    from prune_bert import replace_with_identity

    model = build("bert")
    with bypass(model, PruningPlan.parse("layer:1")), pytest.raises(CheckpointError, match=r"drop\(model, plan\)"):
        save_pruned(model, tmp_path / "out")
    replace_with_identity(model, "bert.encoder.layer.1")
    with pytest.raises(CheckpointError, match="random weights"):
        save_pruned(model, tmp_path / "out")
    with pytest.raises(CheckpointError, match="unknown checkpoint format 'zip'"):
        save_pruned(build("bert"), tmp_path / "out", format="zip")
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_replaced_only_on_request(tmp_path):
    model = dropped("bert", "layer:1")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="--overwrite_output_dir"):
        save_pruned(model, out)
    assert (out / "mine.txt").read_text() == "keep"
    with pytest.raises(CheckpointError, match=r"mine\.txt', which prune_bert did not write"):
        save_pruned(model, out, overwrite=True)
    (out / "mine.txt").unlink()
    save_pruned(model, out)
    before = (out / "config.json").read_text()
    save_pruned(dropped("bert", "layer:2"), out, overwrite=True)
    assert (out / "config.json").read_text() != before
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save_pruned(model, tmp_path / "file")
    with pytest.raises(CheckpointError, match="which is a file"):
        save_pruned(model, tmp_path / "file" / "below")


@pytest.mark.parametrize("format", ["portable", "compact"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, format):
    out = tmp_path / "out"
    save_pruned(dropped("bert", "layer:1"), out)
    before = sorted(path.name for path in out.iterdir())

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_pruned(dropped("bert", "layer:2"), out, format=format, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_reload_that_differs_is_not_written(tmp_path, monkeypatch):
    def damage(model):
        damaged = copy.deepcopy(model)
        damaged.classifier.bias.data += 1
        return damaged

    monkeypatch.setattr(saving, "plain_model", damage)
    with pytest.raises(CheckpointError, match="reloads with other logits"):
        save_pruned(dropped("bert", "layer:1"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_modernbert_without_its_first_layer_is_refused(tmp_path):
    """Its first layer has no norm of its own: the next cannot take its place in a plain checkpoint."""
    with pytest.raises(CheckpointError, match=r"would become its layer 0, .* builds another kind of layer there"):
        save_pruned(dropped("modernbert", "layer:0"), tmp_path / "out")


def test_a_portable_checkpoint_trained_afterwards_is_not_cut(tmp_path):
    save_pruned(dropped("bert", "ffn:1"), tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    plain.bert.encoder.layer[1].output.dense.weight.data += 0.1
    plain.save_pretrained(tmp_path / "trained")
    with pytest.raises(CheckpointError, match=r"not zero \(trained after it was pruned\?\)"):
        load_pruned(tmp_path / "trained")


def test_load_pruned_wants_a_pruned_checkpoint(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="was not written by save_pruned"):
        load_pruned(tiny_checkpoint)


def test_compact_weights_that_do_not_fit_are_refused(tmp_path):
    save_pruned(dropped("bert", "ffn:1"), tmp_path / "out", format="compact")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["prune_bert"]["plan"] = "ffn:2"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit the plan"):
        load_pruned(tmp_path / "out")


class TestLoadModel:
    def test_a_plain_checkpoint(self, tiny_checkpoint):
        loaded = load_model(str(tiny_checkpoint))
        assert loaded.model.dtype == torch.float32
        assert not loaded.model.training
        assert loaded.tokenizer("a")["input_ids"]

    def test_a_pruned_checkpoint_comes_with_its_stand_ins(self, tmp_path, tiny_bert, tiny_tokenizer):
        drop(tiny_bert, PruningPlan.parse("ffn:1"))
        save_pruned(tiny_bert, tmp_path / "out", tiny_tokenizer)
        loaded = load_model(str(tmp_path / "out"))
        assert any(isinstance(module, Identity) for module in loaded.model.modules())
        assert "pruned already: ffn:1 of 4 layers" in loaded.notes[0]

    def test_the_stored_type_is_remembered_where_it_is_lossless(self, tmp_path, tiny_bert, tiny_tokenizer):
        tiny_bert.half().save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        loaded = load_model(str(tmp_path))
        assert loaded.stored_dtype == torch.float16
        assert loaded.model.dtype == torch.float32

    def test_without_a_trained_head_it_is_refused(self, tmp_path, tiny_bert, tiny_tokenizer):
        tiny_bert.bert.save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"no trained classification head.*prune-bert train"):
            load_model(str(tmp_path))
        assert load_model(str(tmp_path), require_head=False).model.num_labels == 2
        model = load_model(str(tmp_path), new_head=("x", "y", "z")).model
        assert model.config.id2label == {0: "x", 1: "y", 2: "z"}

    def test_a_hole_in_the_encoder_is_refused(self, tmp_path, tiny_bert, tiny_tokenizer):
        del tiny_bert.bert.encoder.layer[3]
        tiny_bert.save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"lacks 16 weights of its encoder"):
            load_model(str(tmp_path))

    def test_a_head_with_these_labels_keeps_its_order(self, tiny_checkpoint):
        model = load_model(str(tiny_checkpoint), new_head=("positive", "negative")).model
        assert model.config.id2label == {0: "negative", 1: "positive"}

    def test_corrupted_truncated_and_pickled_weights(self, tmp_path, tiny_checkpoint):
        import shutil

        copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
        weights = copy / "model.safetensors"
        content = weights.read_bytes()
        for damaged in (content[: len(content) // 2], b"no safetensors at all", b""):
            weights.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"corrupted or truncated.*copy or download it again"):
                load_model(str(copy))
        weights.unlink()
        with pytest.raises(CheckpointError, match="has no weights"):
            load_model(str(copy))
        state = load_model(str(tiny_checkpoint)).model.state_dict()
        torch.save(state, copy / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"only pickled weights.*--allow_pickle true"):
            load_model(str(copy))
        assert load_model(str(copy), allow_pickle=True).model.num_labels == 2

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"model_type": "brt"}, r"cannot load the model.*brt"),
            ({"hidden_size": 48}, "cannot load the model"),
            ({"num_hidden_layers": 6}, "lacks 32 weights of its encoder"),
            ({"auto_map": {"AutoConfig": "x.Y", "AutoModelForSequenceClassification": "x.Z"}}, "trust_remote_code"),
        ],
    )
    def test_a_config_that_does_not_fit(self, tmp_path, tiny_checkpoint, change, says):
        import shutil

        copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text()) | change
        if "auto_map" in change:
            config["model_type"] = "own"
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=says) as caught:
            load_model(str(copy))
        assert "\n" not in str(caught.value)

    def test_names_that_name_nothing(self, tmp_path, tiny_checkpoint):
        (tmp_path / "my-model").mkdir()
        with pytest.raises(CheckpointError, match=r"no such directory; did you mean '.*my-model'"):
            load_model(str(tmp_path / "my-modle"))
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            load_model(str(tmp_path / "my-model"))
        (tmp_path / "my-model" / "config.json").write_text("{")
        with pytest.raises(CheckpointError, match="is not JSON"):
            load_model(str(tmp_path / "my-model"))
        with pytest.raises(CheckpointError, match="is a file"):
            load_model(str(tiny_checkpoint / "config.json"))

    def test_a_hub_id_without_network_says_what_to_do_at_once(self):
        with pytest.raises(CheckpointError, match=r"hub cannot be reached.*local model directory.*'embedded'"):
            load_model("bert-base-uncased")

    def test_a_tokenizer_that_is_missing(self, tmp_path, tiny_bert):
        tiny_bert.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"has no tokenizer.*--tokenizer_name"):
            load_model(str(tmp_path))

    def test_a_tokenizer_of_another_model(self, tmp_path, tiny_checkpoint):
        from families import build

        build("bert").save_pretrained(tmp_path)  # 100 tokens; the tokenizer has more
        with pytest.raises(CheckpointError, match="do not belong together"):
            load_model(str(tmp_path), tokenizer_name=str(tiny_checkpoint))
