"""GLUE's metrics against scikit-learn and scipy, and their `evaluate.Metric` classes."""

from __future__ import annotations

import socket
import warnings

import evaluate
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prune_bert.tasks import GLUE_TASKS, METRICS, LocalMetric, TaskError, compute_metrics, confusion_matrix
from prune_bert.tasks.metrics import Accuracy, MatthewsCorrelation, matthews_correlation

QUICK = settings(max_examples=60, deadline=None)


def pairs(numbers, least=1):
    return st.lists(st.tuples(numbers, numbers), min_size=least, max_size=60).map(lambda p: np.array(p).T)


@QUICK
@given(pairs(st.integers(0, 1)))
def test_binary_metrics_equal_scikit_learns(pair):
    predictions, references = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where a metric is undefined
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(references, predictions),
            "f1": sklearn.metrics.f1_score(references, predictions, zero_division=0),
            "matthews_correlation": sklearn.metrics.matthews_corrcoef(references, predictions),
        }
    for name, value in expected.items():
        assert METRICS[name](predictions, references) == pytest.approx(value, abs=1e-12)


@QUICK
@given(pairs(st.integers(0, 4)))
def test_metrics_of_several_classes_equal_scikit_learns(pair):
    predictions, references = pair
    expected = sklearn.metrics.confusion_matrix(references, predictions, labels=range(5))
    np.testing.assert_array_equal(confusion_matrix(predictions, references, 5), expected)
    assert METRICS["accuracy"](predictions, references) == np.mean(predictions == references)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.metrics.matthews_corrcoef(references, predictions)
    assert METRICS["matthews_correlation"](predictions, references) == pytest.approx(expected, abs=1e-12)


@QUICK
@given(pairs(st.floats(-5, 5, width=32), least=2) | pairs(st.sampled_from([0.0, 0.5, 1.0]), least=2))
def test_correlations_equal_scipys(pair):
    predictions, references = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.pearsonr(predictions, references)[0], stats.spearmanr(predictions, references)[0]
    assert METRICS["pearson"](predictions, references) == pytest.approx(expected[0], abs=1e-6, nan_ok=True)
    assert METRICS["spearmanr"](predictions, references) == pytest.approx(expected[1], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_vectorised_over_leading_axes(name):
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 2, (2, 3, 4, 25))
    together = METRICS[name](predictions, references)
    assert together.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert together[i, j] == pytest.approx(METRICS[name](predictions[i, j], references[i, j]), abs=1e-12)
    moved = METRICS[name](np.moveaxis(predictions, -1, 0), np.moveaxis(references, -1, 0), axis=0)
    np.testing.assert_allclose(moved, together)


def test_edge_cases_are_scikit_learns_and_scipys_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS["matthews_correlation"]([1, 1, 1], [1, 0, 1]) == 0
        assert METRICS["matthews_correlation"]([1, 1, 1], [1, 1, 1]) == 0
        assert METRICS["f1"]([0, 0], [0, 0]) == 0
        assert METRICS["f1"]([0, 0], [1, 0]) == 0
        assert np.isnan(METRICS["pearson"]([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]))
        assert np.isnan(METRICS["spearmanr"]([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]))
        assert METRICS["pearson"]([1e300, 2e300, 3e300], [1.0, 2.0, 3.0]) == pytest.approx(1)
        assert METRICS["pearson"]([1e-300, 2e-300], [2.0, 1.0]) == pytest.approx(-1)


def test_matthews_correlation_does_not_overflow():
    billion = 10**9
    counts = np.array([[3 * billion, billion], [2 * billion, 5 * billion]])
    expected = (3 * 5 - 1 * 2) / np.sqrt(4 * 7 * 5 * 6)
    assert matthews_correlation(counts) == pytest.approx(expected)


def test_f1_refuses_more_than_two_classes():
    with pytest.raises(TaskError, match=r"f1 is for two classes, 0 and 1, but the labels have 3"):
        METRICS["f1"]([0, 1, 2], [0, 1, 2])


def test_compute_metrics_goes_through_evaluate_offline_and_leaves_no_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.chdir(tmp_path)
    scores = compute_metrics(("f1", "accuracy", "matthews_correlation"), [1, 0, 1, 1], [1, 0, 0, 1])
    assert list(scores) == ["f1", "accuracy", "matthews_correlation"]
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx(0.8)
    exact = compute_metrics(["pearson", "spearmanr"], [1.0, 2.0, 4.0], [0.1, 0.2, 0.7])
    assert exact["pearson"] == pytest.approx(stats.pearsonr([1, 2, 4], [0.1, 0.2, 0.7])[0], abs=1e-12)
    assert exact["spearmanr"] == pytest.approx(1)
    assert list(tmp_path.iterdir()) == []


def test_every_metric_of_the_table_has_its_class():
    for spec in GLUE_TASKS.values():
        references = [0.0, 1.0, 1.0] if spec.regression else [0, 1, 1]
        assert list(compute_metrics(spec.metrics, references, references).values()) == pytest.approx(
            [1] * len(spec.metrics)
        )


def test_metric_classes_are_evaluate_metrics_and_collect_batches():
    metric = Accuracy()
    assert isinstance(metric, evaluate.Metric)
    assert isinstance(metric, LocalMetric)
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add(prediction=0, reference=0)
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    both = evaluate.combine([Accuracy(), MatthewsCorrelation()])
    assert both.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1, "matthews_correlation": 1}


def test_metrics_through_files_keep_experiments_apart(tmp_path):
    options = {"keep_in_memory": False, "cache_dir": str(tmp_path)}
    one, two = (Accuracy(experiment_id=name, **options) for name in ("one", "two"))
    one.add_batch(predictions=[1], references=[1])
    two.add_batch(predictions=[0], references=[1])
    assert (one.compute(), two.compute()) == ({"accuracy": 1}, {"accuracy": 0})


def test_compute_metrics_says_what_is_wrong():
    with pytest.raises(TaskError, match=r"unknown metric 'acuracy', did you mean 'accuracy'\?; the metrics are"):
        compute_metrics(["acuracy"], [0], [0])
    with pytest.raises(TaskError, match=r"predictions of shape \(2,\) and references of shape \(3,\)"):
        compute_metrics(["accuracy"], [0, 1], [0, 1, 1])
    with pytest.raises(TaskError, match="at least one"):
        compute_metrics(["accuracy"], [], [])
