"""Every public name has an example in its docstring, and every example runs."""

import copy
import doctest
import re
import warnings

import pytest
import torch
from conftest import WORDS, make_tiny_bert

import prune_bert

NAMES = [name for name in prune_bert.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def wide_model():
    """Positions for the 128 tokens that are the default everywhere."""
    return make_tiny_bert(max_position_embeddings=128)


@pytest.fixture(scope="module")
def report(wide_model, tiny_tokenizer, data_dir, tmp_path_factory):
    """What `prune` returns."""
    folder = tmp_path_factory.mktemp("report")
    wide_model.save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    config = prune_bert.RunConfig(
        model_name_or_path=str(folder / "model"),
        task_name="sst2",
        data_dir=str(data_dir),
        plan="ffn:3",
        output_dir=str(folder / "out"),
        max_seq_length=32,
        profile=False,
        n_resamples=50,
        device="cpu",
    )
    return prune_bert.prune(config)


@pytest.fixture
def assumed(wide_model, tiny_tokenizer, data_dir, report, tmp_path):
    """The names that examples take for granted, beside the public ones and torch."""
    checkpoint, tokenizer = tmp_path / "checkpoint", copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 128
    wide_model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    texts = [" ".join(WORDS[start : start + 9]) for start in range(48)]
    rows = [{"text": text, "label": ("negative", "positive")[i % 2]} for i, text in enumerate(texts)]
    public = {name: getattr(prune_bert, name) for name in NAMES}
    return public | {
        "copy": copy,
        "torch": torch,
        "model": copy.deepcopy(wide_model),
        "tokenizer": tokenizer,
        "rows": rows,
        "report": report,
        "checkpoint": str(checkpoint),
        "data_dir": str(data_dir),
        "output_dir": tmp_path / "out",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name, assumed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    value = getattr(prune_bert, name)
    assert re.search(r"^\s*Examples:\n\s*>>> ", value.__doc__, re.MULTILINE), f"{name} has no example"
    example = doctest.DocTestParser().get_doctest(value.__doc__, assumed, name, None, None)
    assert example.examples
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # an example shows the way that no warning stands in
        doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_there_are_at_most_thirty_public_names():
    assert len(prune_bert.__all__) <= 30
