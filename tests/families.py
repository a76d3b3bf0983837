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

TEXT = SIZES | {"max_position_embeddings": 96}
IMAGE = {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
AUDIO = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
WINDOWED = TEXT | SPECIALS | {"local_attention": 8, "reference_compile": False}
ESM = TEXT | {"pad_token_id": 1, "mask_token_id": 3}
GPT_NEO = {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4, "window_size": 8}

FOREIGN = {
    "bert": ("BertForSequenceClassification", TEXT),
    "distilbert": ("DistilBertForSequenceClassification", DISTILBERT_SIZES | {"max_position_embeddings": 96}),
    "modernbert": ("ModernBertForSequenceClassification", WINDOWED),
    "modernbert-deep": ("ModernBertForSequenceClassification", WINDOWED | {"num_hidden_layers": 7}),
    "deberta-v2-conv": ("DebertaV2ForSequenceClassification", TEXT | RELATIVE | {"conv_kernel_size": 3}),
    "roformer": ("RoFormerForSequenceClassification", TEXT),
    "mobilebert": (
        "MobileBertForSequenceClassification",
        TEXT | {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    ),
    "esm": ("EsmForSequenceClassification", ESM),
    "esm-rotary": (
        "EsmForSequenceClassification",
        ESM | {"position_embedding_type": "rotary", "emb_layer_norm_before": True},
    ),
    "xmod": ("XmodForSequenceClassification", TEXT | {"languages": ["en_XX"], "default_language": "en_XX"}),
    "vit": ("ViTForImageClassification", IMAGE | {"image_size": 16, "patch_size": 4}),
    "beit": ("BeitForImageClassification", IMAGE | {"image_size": 16, "patch_size": 4}),
    "wav2vec2": (
        "Wav2Vec2ForSequenceClassification",
        IMAGE | AUDIO | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16},
    ),
    "llama": ("LlamaForSequenceClassification", TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": (
        "GPT2ForSequenceClassification",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 96, "pad_token_id": 0},
    ),
    "gpt-neo": (
        "GPTNeoForSequenceClassification",
        {"vocab_size": 100, "hidden_size": 32, "max_position_embeddings": 96, "pad_token_id": 0} | GPT_NEO,
    ),
    "qwen2": (
        "Qwen2ForSequenceClassification",
        TEXT
        | {"num_key_value_heads": 2, "pad_token_id": 0}
        | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "funnel": (
        "FunnelForSequenceClassification",
        {"vocab_size": 100, "block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    ),
    "funnel-one-block": (
        "FunnelForSequenceClassification",
        {"vocab_size": 100, "block_sizes": [4], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    ),
    "albert": ("AlbertForSequenceClassification", TEXT | {"embedding_size": 16}),
    "albert-groups": ("AlbertForSequenceClassification", TEXT | {"embedding_size": 16, "num_hidden_groups": 4}),
    "nystromformer": (
        "NystromformerForSequenceClassification",
        TEXT | {"num_landmarks": 4, "segment_means_seq_len": 16},
    ),
    "longformer": ("LongformerForSequenceClassification", TEXT | {"attention_window": [8, 8, 8, 8]}),
    "squeezebert": ("SqueezeBertForSequenceClassification", TEXT | {"embedding_size": 32}),
    "xlnet": (
        "XLNetForSequenceClassification",
        {"vocab_size": 100, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64},
    ),
    "bart": (
        "BartForSequenceClassification",
        {"vocab_size": 100, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "max_position_embeddings": 96}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    ),
}


def build_foreign(family, attention=None, seed=0, **overrides):
    """Build a tiny model of a family of which whole layers alone are known, or not even those."""
    name, sizes = FOREIGN[family]
    cls = getattr(transformers, name)
    config = cls.config_class(**(sizes | overrides))
    if attention is not None:
        config._attn_implementation = attention
    torch.manual_seed(seed)
    return cls(config).eval()


def long_padded(model):
    """Inputs longer than any window of the tiny models, with padding at the end of the second row."""
    main = getattr(model.base_model, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(5)
    if main == "pixel_values":
        return {main: torch.randn(2, 3, model.config.image_size, model.config.image_size, generator=generator)}
    if main == "input_values":
        return {main: torch.randn(2, 400, generator=generator)}
    ids = torch.randint(5, 90, (2, 60), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 45:] = 0
    ids[1, 45:] = model.config.pad_token_id or 0
    return {"input_ids": ids, "attention_mask": mask}


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
