"""Which rows of train a calibration slice takes."""

import dataclasses

import datasets
import pytest

from prune_bert.pipeline.calibration import longest_rows
from prune_bert.tasks import load_task


@pytest.fixture
def data():
    """A hundred texts of one to a hundred words, shuffled by a stride."""
    reviews = load_task("reviews", splits=("train",), max_samples={"train": 2})["train"]
    lengths = [1 + (37 * row) % 100 for row in range(100)]
    rows = {"sentence": ["word " * length for length in lengths], "label": [0] * 100, "idx": list(range(100))}
    return dataclasses.replace(reviews, dataset=datasets.Dataset.from_dict(rows))


def words(data):
    return [len(text.split()) for text in data.dataset["sentence"]]


def test_the_longest_twentieth_is_the_pool_and_the_order_of_the_data_stays(data):
    kept = longest_rows(data, 3)
    assert set(words(kept)) <= set(range(96, 101))
    assert kept.dataset["idx"][:] == sorted(kept.dataset["idx"][:])
    assert "3 of the longest 5 of 100 rows" in kept.source


def test_a_larger_slice_takes_a_larger_pool(data):
    assert sorted(words(longest_rows(data, 40))) == list(range(61, 101))
    assert len(longest_rows(data, 500).dataset) == 100


def test_equal_lengths_are_taken_in_the_order_of_the_data(data):
    same = dataclasses.replace(data, dataset=data.dataset.map(lambda row: {"sentence": "word"}))
    assert longest_rows(same, 5).dataset["idx"][:] == [0, 1, 2, 3, 4]
