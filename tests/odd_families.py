"""Tiny random models of families outside the table: what they do in a forward, or return, is out of the ordinary."""

from __future__ import annotations

import torch
import transformers
from families import SIZES, SPECIALS

GPT2_SIZES = {"vocab_size": 100, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 96, "initializer_range": 0.3}
T5_SIZES = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 4, "num_heads": 4}
GPT_NEO_SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 8,
    "max_position_embeddings": 96,
}
LONG = SIZES | {"max_position_embeddings": 96}

ODD = {
    "big_bird": ("BigBird", "ForSequenceClassification", LONG | {"block_size": 4, "num_random_blocks": 1}),
    "t5": ("T5", "EncoderModel", T5_SIZES),
    "llama": ("Llama", "ForSequenceClassification", LONG | SPECIALS | {"num_key_value_heads": 2}),
    "gpt2": ("GPT2", "ForSequenceClassification", GPT2_SIZES | {"pad_token_id": 0}),
    "gpt_neo": ("GPTNeo", "ForSequenceClassification", GPT_NEO_SIZES | {"pad_token_id": 0}),
    "deberta": ("Deberta", "ForSequenceClassification", LONG | {"relative_attention": True, "pos_att_type": ["c2p"]}),
    "roformer": ("RoFormer", "ForSequenceClassification", LONG | {"embedding_size": 32}),
    "megatron-bert": ("MegatronBert", "ForSequenceClassification", LONG),
    "rembert": ("RemBert", "ForSequenceClassification", LONG | {"input_embedding_size": 32}),
    "nystromformer": ("Nystromformer", "ForSequenceClassification", LONG | {"segment_means_seq_len": 64}),
    "longformer": ("Longformer", "ForSequenceClassification", LONG | {"attention_window": 4, "pad_token_id": 0}),
    "esm": ("Esm", "ForSequenceClassification", LONG | {"pad_token_id": 1, "mask_token_id": 3}),
    "albert": ("Albert", "ForSequenceClassification", LONG | {"embedding_size": 16}),
}


def build_odd(family: str, seed: int = 0, **overrides):
    """Build one in evaluation mode."""
    name, head, sizes = ODD[family]
    config = getattr(transformers, f"{name}Config")(**(sizes | overrides))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}{head}")(config).eval()
    if family in ("t5", "gpt_neo"):  # a small standard deviation of theirs hides differences
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.25)
    return model


def long_batch(length: int = 64):
    """Two rows of token ids without padding, long enough for any window and block of these models."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 90, (2, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def output_of(model, length: int = 64):
    """Run a model on long rows: its logits, or its hidden states."""
    return model(**long_batch(length))[0]


@torch.no_grad()
def skipping_by_hand(model, layer, length: int = 64):
    """Run a model with a layer's hidden states replaced by what went in, and all else that it returns as it is."""

    def skip(module, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handle = layer.register_forward_hook(skip, with_kwargs=True)
    try:
        return output_of(model, length)
    finally:
        handle.remove()
