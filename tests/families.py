"""Tiny random classifiers of every supported family, and one of a family that the table does not know."""

from __future__ import annotations

import torch
import transformers

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_labels": 2,
}
DISTILBERT_SIZES = {
    "vocab_size": 100,
    "dim": 32,
    "n_layers": 4,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_labels": 2,
}

FAMILIES = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", SIZES | {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", SIZES | {"pad_token_id": 1}),
    "camembert": ("Camembert", SIZES | {"pad_token_id": 1}),
    "electra": ("Electra", SIZES | {"embedding_size": 16}),
    "mpnet": ("MPNet", SIZES),
    "deberta-v2": ("DebertaV2", SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "distilbert": ("DistilBert", DISTILBERT_SIZES),
}
SPECIALS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
UNKNOWN = {"modernbert": ("ModernBert", SIZES | SPECIALS | {"reference_compile": False})}


def build(family: str, attention: str = "eager", seed: int = 0, **overrides):
    """Build one in evaluation mode; DeBERTa-v2 and MPNet have eager attention only."""
    name, sizes = (FAMILIES | UNKNOWN)[family]
    config = getattr(transformers, f"{name}Config")(**(sizes | overrides))
    config._attn_implementation = attention
    torch.manual_seed(seed)
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def batch():
    """Three sentences of token ids, one padded."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 90, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model):
    return model(**batch()).logits
