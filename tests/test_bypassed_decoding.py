"""A bypassed or dropped decoder generates with a cache what it generates without, whichever layer is gone."""

import pytest
import torch
import transformers
from odd_families import GPT2_SIZES, LONG
from transformers import DynamicCache, EncoderDecoderCache

from prune_bert import PruningPlan, bypass, drop
from prune_bert.stand_ins import CacheError

TRANSFORMERS_4 = transformers.__version__.startswith("4.")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODERS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LONG | TOKENS | {"num_key_value_heads": 2}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2_SIZES | TOKENS),
    "bert": ("BertLMHeadModel", "BertConfig", LONG | TOKENS | {"is_decoder": True}),
}
PLANS = ["layer:0", "layer:1", "layer:2", "layer:3", "layer:0-1"]
CASES = [(family, plan) for family in DECODERS for plan in PLANS]
CASES += [("bert", "attention:0"), ("bert", "attention:0 ffn:2 norm=skip")]


def decoder(family, **overrides):
    name, config, sizes = DECODERS[family]
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**(sizes | overrides))).eval()


def left_padded():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generated(model, use_cache, **settings):
    """Generate six tokens; their logits too, ``(tokens, batch, vocabulary)``."""
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "use_cache": use_cache} | settings
    out = model.generate(**left_padded(), **settings, output_logits=True, return_dict_in_generate=True)
    return out.sequences, torch.stack(out.logits)


def assert_cache_changes_nothing(model, **settings):
    (cached, some), (alone, others) = generated(model, True, **settings), generated(model, False)
    assert torch.equal(cached, alone)
    assert torch.allclose(some, others, atol=1e-4)


@pytest.mark.parametrize(("family", "text"), CASES)
def test_generation_with_a_cache_equals_generation_without(family, text):
    model, plan = decoder(family), PruningPlan.parse(text)
    with bypass(model, plan):
        assert_cache_changes_nothing(model)
        bypassed, _ = generated(model, True)
    assert_cache_changes_nothing(model)
    drop(model, plan)
    assert_cache_changes_nothing(model)
    assert torch.equal(generated(model, True)[0], bypassed)


def test_a_beam_and_a_static_cache_count_a_bypassed_layer_too():
    model = decoder("llama")
    with bypass(model, PruningPlan.parse("layer:0")):
        beams = {"num_beams": 2, "max_new_tokens": 6, "do_sample": False}
        one, other = (model.generate(**left_padded(), **beams, use_cache=cached) for cached in (True, False))
        assert torch.equal(one, other)
        if TRANSFORMERS_4:  # its static cache has the form of every layer beforehand
            with pytest.raises(CacheError, match="StaticCache does not count"):
                generated(model, True, cache_implementation="static")
        else:
            assert_cache_changes_nothing(model, cache_implementation="static")


@pytest.mark.skipif(TRANSFORMERS_4, reason="transformers 4 cannot return attentions of it without encoder states")
@pytest.mark.parametrize("text", ["layer:0", "layer:2", "attention:0"])
def test_a_decoder_with_cross_attention_counts_in_its_own_cache_alone(text):
    model = decoder("bert", add_cross_attention=True)
    ids, encoded = left_padded()["input_ids"], torch.randn(2, 7, 32)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad(), bypass(model, PruningPlan.parse(text)):
        whole = model(ids, encoder_hidden_states=encoded, use_cache=False).logits
        parts = [
            model(part, encoder_hidden_states=encoded, past_key_values=cache, use_cache=True).logits
            for part in ids.split([8, 1, 1, 2], dim=1)
        ]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)
    assert cache.get_seq_length() == 12


class Counting:
    """A cache of another kind, which counts nothing for a layer that keeps nothing."""

    def get_seq_length(self, layer_idx=0):
        return 0

    def reorder_cache(self, beam_idx):
        return None

    def update(self, keys, values, layer_idx):
        return keys, values


def test_a_cache_that_cannot_count_serves_one_forward_and_no_second():
    model = decoder("llama")
    with bypass(model, PruningPlan.parse("layer:1")):
        stand_in, cache, hidden = model.model.layers[1], Counting(), torch.ones(1, 2, 32)
        assert stand_in(hidden, past_key_values=cache) is hidden
        with pytest.raises(CacheError, match=r"Counting does not count .* or drop the layer") as caught:
            stand_in(hidden, past_key_values=cache)
    assert "\n" not in str(caught.value)
