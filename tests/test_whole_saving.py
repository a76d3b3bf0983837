"""Whatever way a pruned model is saved: plain transformers computes the same from it, or refuses it."""

import copy
import pickle

import pytest
import torch
import transformers
from conftest import make_tiny_bert
from families import FAMILIES, batch, build, logits
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from prune_bert import PruningPlan, Site, bypass, drop, load_pruned, save_pruned
from prune_bert.checkpoint import CheckpointError
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.lora import add_lora
from prune_bert.stand_ins import Identity
from prune_bert.surgery import SurgeryError, pruning_record

EAGER = {"attn_implementation": "eager"}
PORTABLE = ("layer:0 attention:1 ffn:2", "low_rank", "neurons")
COMPACT = ("attention:1 norm=skip", "map")


def fitted(width, spec):
    torch.manual_seed(5)
    correction = Correction(width, spec)
    nn.init.normal_(correction.bias, std=0.3)
    return FittedSite(correction)


SPECS = {
    "low_rank": (Site(1, "ffn"), CorrectionSpec(3)),
    "neurons": (Site(2, "ffn"), CorrectionSpec(2, neurons=5)),
    "map": (Site(1, "ffn"), CorrectionSpec(None)),
}


def pruned(text, family="bert"):
    """A dropped model: by a plan, or with a correction of the shape named."""
    model = build(family)
    if text in SPECS:
        site, spec = SPECS[text]
        return drop(model, PruningPlan((site,)), {site: fitted(32, spec)})
    return drop(model, PruningPlan.parse(text))


class Wrapper(nn.Module):
    """As sentence-transformers wraps a model of transformers."""

    def __init__(self, model):
        super().__init__()
        self.auto_model = model

    def save(self, path):
        self.auto_model.save_pretrained(path)


def by_trainer(model, path):
    arguments = transformers.TrainingArguments(output_dir=str(path.parent / "run"), report_to=[], use_cpu=True)
    transformers.Trainer(model, arguments).save_model(str(path))


WAYS = {
    "save_pretrained": lambda model, path: model.save_pretrained(path),
    "state_dict": lambda model, path: model.save_pretrained(path, state_dict=model.state_dict()),
    "sharded": lambda model, path: model.save_pretrained(path, max_shard_size="20KB"),
    "trainer": by_trainer,
    "wrapper": lambda model, path: copy.deepcopy(Wrapper(model)).save(path),
    "deepcopy": lambda model, path: copy.deepcopy(model).save_pretrained(path),
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)).save_pretrained(path),
    "data_parallel": lambda model, path: nn.DataParallel(model).module.save_pretrained(path),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", PORTABLE)
def test_what_has_a_portable_form_reloads_plainly(text, way, tmp_path):
    model = pruned(text)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    WAYS[way](model, tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **EAGER)
    assert torch.allclose(logits(plain), logits(model), atol=1e-5)
    assert not any(isinstance(module, Identity) for module in plain.modules())
    again = load_pruned(tmp_path / "out", **EAGER)
    assert torch.equal(logits(again), logits(model))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", COMPACT)
def test_what_has_none_is_refused_by_plain_transformers(text, way, tmp_path):
    model = pruned(text)
    build("bert").save_pretrained(tmp_path / "out")  # an earlier save: its weights are not to be taken for these
    WAYS[way](model, tmp_path / "out")
    for plain in (AutoModelForSequenceClassification, AutoModel, type(model)):
        with pytest.raises((ValueError, OSError), match=r"prune_bert_compact|no file named"):
            plain.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(load_pruned(tmp_path / "out", **EAGER)), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_its_base_model_save_whole(family, tmp_path):
    model = pruned("attention:1 ffn:2", family)
    model.save_pretrained(tmp_path / "whole")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole", **EAGER)
    assert torch.equal(logits(plain), logits(model))
    model.base_model.save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base", **EAGER)
    with torch.no_grad():
        assert torch.equal(base(**batch())[0], model.base_model(**batch())[0])


def test_a_loaded_model_saves_whole_and_a_second_drop_too(tmp_path):
    pruned("ffn:2").save_pretrained(tmp_path / "one")
    model = load_pruned(tmp_path / "one", **EAGER)
    drop(model, PruningPlan.parse("layer:0"))
    model.save_pretrained(tmp_path / "two")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two", **EAGER)
    assert torch.equal(logits(plain), logits(model))
    assert load_pruned(tmp_path / "two").config.prune_bert["original_layer_indices"] == [1, 2, 3]


def test_a_state_held_elsewhere_is_what_is_saved(tmp_path):
    """Sharded training gathers the tensors, and passes them."""
    model = pruned("low_rank")
    moved = {name: tensor + 0.25 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "out", state_dict=moved)
    again = load_pruned(tmp_path / "out", **EAGER).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in moved.items())


def test_saving_under_a_bypass_is_refused(tmp_path):
    model = pruned("ffn:2")
    with bypass(model, PruningPlan.parse("ffn:1")), pytest.raises(SurgeryError, match="leave the `with bypass"):
        model.save_pretrained(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_processes_write_nothing(tmp_path):
    for text in ("ffn:1", "ffn:1 norm=skip"):
        pruned(text).save_pretrained(tmp_path / "out", is_main_process=False)
    assert not (tmp_path / "out").is_dir() or not list((tmp_path / "out").glob("*.json"))


def test_a_merged_adapter_leaves_the_saving_whole(tmp_path):
    pytest.importorskip("peft")
    adapted = add_lora(pruned("ffn:2"), 2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **EAGER)
    assert torch.allclose(logits(plain), logits(merged), atol=1e-6)
    assert not torch.allclose(logits(merged), logits(pruned("ffn:2")), atol=1e-3)


@pytest.mark.parametrize("text", PORTABLE)
def test_a_pruned_model_takes_its_own_portable_weights_back(text, tmp_path):
    """As a trainer does that resumes from a checkpoint."""
    model, other = pruned(text), copy.deepcopy(pruned(text))
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    Wrapper(other).load_state_dict({f"auto_model.{name}": tensor for name, tensor in model.state_dict().items()})
    with pytest.raises(RuntimeError, match=r"was removed from this model and is not zero"):
        other.load_state_dict(build("bert").state_dict(), strict=False)


def trained(model, steps=5):
    """Train all of a model's parameters with AdamW, weight decay included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    model.train(False)
    for _ in range(steps):
        loss = model(**batch(), labels=torch.tensor([0, 1, 0])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(
    ("family", "text"),
    [*((family, "layer:0 attention:1 ffn:1,2") for family in FAMILIES), ("bert", "low_rank"), ("bert", "neurons")],
)
def test_what_plain_transformers_trained_loads_exactly_with_its_stand_ins(family, text, tmp_path):
    """Only the last biases of removed sublayers have a gradient, and the neurons of corrections."""
    save_pruned(pruned(text, family), tmp_path / "out")
    plain = trained(AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **EAGER))
    plain.save_pretrained(tmp_path / "trained")
    model = load_pruned(tmp_path / "trained", **EAGER)
    assert torch.allclose(logits(model), logits(plain), atol=1e-6)
    assert any(isinstance(module, Identity) for module in model.modules())
    smaller = sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in plain.parameters())
    assert smaller
    assert pruning_record(model.config).corrections
    for format in ("portable", "compact"):
        save_pruned(model, tmp_path / format, format=format)
        assert torch.equal(logits(load_pruned(tmp_path / format, **EAGER)), logits(model))


def test_a_trained_weight_that_cannot_be_kept_is_named(tmp_path):
    save_pruned(pruned("attention:1"), tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    plain.bert.encoder.layer[1].attention.self.key.weight.data[0, 0] = 1e-30
    plain.save_pretrained(tmp_path / "edited")
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.self\.key\.weight.*only the last bias.*unpruned"):
        load_pruned(tmp_path / "edited")


class TestVerbs:
    """``train`` on a portable checkpoint."""

    def test_train_moves_no_dead_weight_and_saves_the_whole(self, tmp_path, data_dir, tiny_tokenizer):
        from prune_bert.cli import main

        model = drop(make_tiny_bert(), PruningPlan.parse("ffn:1 attention:2"))
        save_pruned(model, tmp_path / "pruned", tiny_tokenizer)
        argv = ["train", "--model_name_or_path", str(tmp_path / "pruned"), "--task_name", "sst2"]
        argv += ["--data_dir", str(data_dir), "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1"]
        argv += ["--learning_rate", "0.01", "--max_seq_length", "16", "--device", "cpu"]
        assert main(argv) == 0
        weights = load_file(tmp_path / "out" / "model.safetensors")
        assert not weights["bert.encoder.layer.1.output.dense.bias"].count_nonzero()
        assert weights.keys() == make_tiny_bert().state_dict().keys()
        again = load_pruned(tmp_path / "out")
        assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert torch.allclose(logits(plain), logits(again), atol=1e-6)
        assert not torch.allclose(logits(again), logits(model), atol=1e-3)
