"""The contract with any family: whole layers go exactly, or one line says why not; nothing else ever happens."""

import copy
import json

import pytest
import torch
from families import FOREIGN, build_foreign, long_padded
from torch import nn

from prune_bert import PruningPlan, bypass, drop, save_pruned
from prune_bert.architectures import find_encoder
from prune_bert.checkpoint import saving
from prune_bert.errors import UserError
from prune_bert.stand_ins import Identity
from prune_bert.surgery.probe_inputs import long_inputs, probe_inputs
from prune_bert.surgery.trial import structural_copy

# What is known to work, so that a refusal is no way out for it.
WORKS = {
    "bert": ("layer:0", "layer:1", "layer:3", "layer:1,2"),
    "modernbert": ("layer:3", "layer:2-3"),
    "modernbert-deep": ("layer:1-3", "layer:5-6", "layer:4-6"),
    "esm": ("layer:0", "layer:1", "layer:3"),
    "esm-rotary": ("layer:0", "layer:1", "layer:3"),
    "xmod": ("layer:0", "layer:1", "layer:3"),
    "vit": ("layer:0", "layer:1", "layer:3"),
    "wav2vec2": ("layer:0", "layer:1", "layer:3"),
    "gpt-neo": ("layer:3", "layer:1-2"),
    "llama": ("layer:0", "layer:1", "layer:3"),
    "gpt2": ("layer:0", "layer:1", "layer:3"),
    "deberta-v2-conv": ("layer:1", "layer:3"),
    "roformer": ("layer:0", "layer:1", "layer:3"),
}
PLANS = ("layer:0", "layer:1", "layer:3")
CASES = [(family, plan) for family in FOREIGN for plan in dict.fromkeys((*WORKS.get(family, ()), *PLANS))]


class Skipping(nn.Module):
    """The oracle: calls a layer for the form of what it returns, and puts the layer's input into it."""

    def __init__(self, layer):
        super().__init__()
        object.__setattr__(self, "layer", layer)

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def forward(self, hidden, *args, **kwargs):
        output = self.layer(hidden, *args, **kwargs)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])


@torch.no_grad()
def hidden_states(model):
    inputs = long_padded(model)
    output = model.base_model(**inputs)[0].float()
    mask = inputs.get("attention_mask")
    return output if mask is None else output[mask.bool()]


def skipped_by_hand(model, plan):
    """Compute the model without its layers, knowing nothing of stand-ins."""
    encoder = find_encoder(model)
    layers = list(encoder.layers)
    if any(isinstance(layer, Identity) for layer in layers):
        raise AssertionError("the oracle wants the whole model")
    try:
        for index in plan.layers():
            encoder.layers._modules[str(index)] = Skipping(layers[index])
        return hidden_states(model)
    finally:
        for index, layer in enumerate(layers):
            encoder.layers._modules[str(index)] = layer


@pytest.mark.parametrize(("family", "text"), CASES)
def test_whole_layers_go_exactly_or_are_refused_in_one_line(family, text, tmp_path):
    model, plan, refusal = build_foreign(family), PruningPlan.parse(text), None
    try:
        bypassed = bypass(model, plan)
        before, expected = hidden_states(model), skipped_by_hand(model, plan)
        with bypassed:
            under = hidden_states(model)
        torch.testing.assert_close(under, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(hidden_states(model), before)
        drop(model, plan)
        torch.testing.assert_close(hidden_states(model), under, rtol=1e-4, atol=1e-5)
        save_pruned(model, tmp_path / "out")
    except UserError as error:
        refusal = str(error)
    if refusal is None:
        for attention in ("eager", "sdpa") if model._supports_sdpa else ("eager",):
            plain = type(model).from_pretrained(tmp_path / "out", attn_implementation=attention)
            expected = hidden_states(model)
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(hidden_states(plain), expected, rtol=1e-3, atol=1e-3 * scale)
    else:
        assert text not in WORKS.get(family, ()), refusal
        assert "\n" not in refusal
        assert len(refusal) < 600
        assert not list(tmp_path.iterdir())


def test_what_must_be_refused_is():
    for family, text in (("albert-groups", "layer:1"), ("albert", "layer:1"), ("funnel", "layer:1")):
        with pytest.raises(UserError):
            bypass(build_foreign(family), PruningPlan.parse(text))


def test_long_inputs_are_longer_than_any_window_and_padded():
    model = build_foreign("modernbert", local_attention=40)
    inputs = long_inputs(model)
    assert inputs["input_ids"].shape[1] > 40
    assert inputs["attention_mask"][1].sum() < inputs["attention_mask"][0].sum()
    short = long_inputs(build_foreign("bert", max_position_embeddings=16))
    assert short["input_ids"].shape == (2, 16)
    assert long_inputs(build_foreign("vit")) is None


def test_a_structural_copy_shares_weights_and_nothing_else():
    model = build_foreign("bert")
    copied = structural_copy(model)
    assert all(one is other for one, other in zip(model.parameters(), copied.parameters(), strict=True))
    drop(copied, PruningPlan.parse("layer:1"))
    assert len(find_encoder(model).layers) == 4
    assert model.config.num_hidden_layers == 4


def test_esm_keeps_the_contact_head_of_the_layers_that_remain(tmp_path):
    model = build_foreign("esm")
    weight = model.esm.contact_head.regression.weight.clone()
    drop(model, PruningPlan.parse("layer:1"))
    kept = model.esm.contact_head.regression.weight
    assert torch.equal(kept, torch.cat((weight[:, :4], weight[:, 8:]), dim=1))
    save_pruned(model, tmp_path / "out")
    plain = type(model).from_pretrained(tmp_path / "out")
    assert torch.equal(plain.esm.contact_head.regression.weight, kept)


def test_what_a_model_raises_in_a_probe_is_told_in_one_line():
    model = build_foreign("bert")

    def fail(*args, **kwargs):
        raise KeyError("a defect of the family")

    model.bert.embeddings.forward = fail
    with pytest.raises(UserError, match=r"'bert' fails in its own forward on probing inputs \(KeyError: 'a defect"):
        bypass(model, PruningPlan.parse("layer:1"))


# What a config may say of outputs and of chunks


FLAGS = [
    {"output_attentions": True},
    {"output_hidden_states": True},
    {"return_dict": False},
    {"chunk_size_feed_forward": 4},
]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: next(iter(flags)))
@pytest.mark.parametrize("family", ["bert", "modernbert", "distilbert"])
def test_flags_in_a_config_change_neither_bypass_nor_drop_nor_saving(family, flags, attention, tmp_path):
    text = "layer:3" if family == "modernbert" else "layer:1 attention:2 ffn:3"
    plain, model, plan = (build_foreign(family, attention), build_foreign(family, attention, **flags), None)
    plan = PruningPlan.parse(text)
    with bypass(plain, plan):
        expected = hidden_states(plain)
    own = {name: getattr(model.config, name) for name in flags}
    with bypass(model, plan):
        torch.testing.assert_close(hidden_states(model), expected, rtol=1e-4, atol=1e-5)
    drop(model, plan)
    for format in ("portable", "compact"):
        save_pruned(model, tmp_path / format, format=format)
        stored = json.loads((tmp_path / format / "config.json").read_text())
        assert {name: stored[name] for name in flags} == own
    assert {name: getattr(model.config, name) for name in flags} == own


def test_saving_compares_logits_beyond_the_window(tmp_path, monkeypatch):
    """A checkpoint that is right on short inputs alone is not written."""
    model = build_foreign("modernbert-deep")
    drop(model, PruningPlan.parse("layer:1-3"))
    wider = copy.deepcopy(model)
    wider.config.local_attention = 12
    monkeypatch.setattr(saving, "plain_model", lambda model: wider)
    with torch.no_grad():
        short = probe_inputs(model)
        assert torch.equal(model(**short).logits, wider(**short).logits)
    with pytest.raises(UserError, match="reloads with other"):
        save_pruned(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
