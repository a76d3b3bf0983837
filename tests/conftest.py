"""What several test modules need: a tiny BERT, its tokenizer, a checkpoint of both, and the shared folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test never reaches for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WORDS = """
a an the of and or but not never film story actor scene plot line this that it is was were be so very too
good great fine bright bad dull weak slow long short warm cold sharp flat loud quiet rich poor funny sad
i you he she they we my your with without for from to in on at by as all any some no yes more less most
""".split()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from a second thread, and on a busy machine lose much by waiting for it."""
    import torch

    torch.set_num_threads(1)


def make_tiny_bert(**overrides):
    """A BERT classifier with seeded random weights: 4 layers, width 32, 4 heads."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    settings = {
        "vocab_size": 256,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_labels": 2,
        # wide enough that a removed layer changes a prediction
        "initializer_range": 0.3,
        "id2label": {0: "negative", 1: "positive"},
        "label2id": {"negative": 0, "positive": 1},
    } | overrides
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**settings)).eval()


@pytest.fixture
def tiny_bert():
    return make_tiny_bert()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    from transformers import BertTokenizerFast

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocab += [c for c in letters if c not in vocab] + [f"##{c}" for c in letters]
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(vocab) + "\n")
    return BertTokenizerFast.from_pretrained(str(path.parent), model_max_length=64)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_tokenizer):
    directory = tmp_path_factory.mktemp("tiny-bert")
    make_tiny_bert().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A task in SST-2's form: 64 and 41 sentences of random words, an uneven number for two processes."""
    directory = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    for name, count in (("train", 64), ("dev", 41)):
        lines = ["sentence\tlabel"]
        lines += [f"{' '.join(draw.choices(WORDS, k=draw.randint(5, 20)))}\t{i % 2}" for i in range(count)]
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with GLUE data and a fine-tuned MiniLM, beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if (folder / "models" / "minilm-l6-sst2" / "model.safetensors").is_file():
        return folder
    pytest.skip("needs ../shared (GLUE data and a fine-tuned model), which is not beside this checkout")
