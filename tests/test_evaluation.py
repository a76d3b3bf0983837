"""Evaluation: one forward over every example whatever the batches and processes, intervals, comparisons."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import WORDS, make_tiny_bert
from scipy import stats
from transformers import DistilBertConfig, DistilBertForSequenceClassification, RobertaConfig, RobertaModel

from prune_bert.errors import UserError
from prune_bert.evaluation import (
    Comparison,
    EvaluationError,
    MetricValue,
    TaskScore,
    check_sequence_length,
    compare,
    encode,
    evaluate,
    inference,
    intervals,
    length_sorted_batches,
    progress,
    with_progress,
)
from prune_bert.evaluation.intervals import interval, resampled_metrics
from prune_bert.tasks import GLUE_TASKS, METRICS, TaskData, load_task


def make_data(n=37, task="sst2", seed=0):
    """Sentences of 1 to 30 of the tiny tokenizer's words, with random labels."""
    generator = np.random.default_rng(seed)
    spec = GLUE_TASKS[task]

    def text():
        return " ".join(generator.choice(WORDS, generator.integers(1, 31)))

    columns = {name: [text() for _ in range(n)] for name in spec.text_columns}
    labels = generator.random(n) * 5 if spec.regression else generator.integers(0, len(spec.labels), n)
    kind = datasets.Value("float32" if spec.regression else "int64")
    features = {name: datasets.Value("string") for name in columns} | {"label": kind, "idx": datasets.Value("int64")}
    columns |= {"label": labels.tolist(), "idx": list(range(n))}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return TaskData(spec, "validation", dataset, "made for the test")


def one_by_one(model, tokenizer, data):
    """Logits of plain transformers, one example at a time."""
    rows = zip(*(data.dataset[name][:] for name in data.spec.text_columns), strict=True)
    with torch.no_grad():
        return np.concatenate([model(**tokenizer(*row, return_tensors="pt")).logits.numpy() for row in rows])


def make_score(predictions, references, logits=None, **metrics):
    predictions, references = np.asarray(predictions), np.asarray(references)
    logits = np.eye(2, dtype=np.float32)[predictions] if logits is None else np.asarray(logits, np.float32)
    names = metrics or {"accuracy": None}
    values = {name: MetricValue(float(METRICS[name](predictions, references)), (0.0, 1.0)) for name in names}
    return TaskScore("own", "validation", len(references), values, 0.5, predictions, references, logits, 1.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Encoding and batches


def test_encode_gives_what_the_tokenizer_names_and_cuts(tiny_tokenizer):
    data = make_data(task="mrpc")
    encoded = encode(tiny_tokenizer, data, 20)
    assert list(encoded.features) == list(tiny_tokenizer.model_input_names)
    assert len(encoded) == len(data.dataset)
    assert encoded.lengths.max() == 20
    assert encoded.lengths.min() < 20
    expected = tiny_tokenizer(
        data.dataset["sentence1"][3], data.dataset["sentence2"][3], truncation=True, max_length=20
    )
    assert {name: rows[3] for name, rows in encoded.features.items()} == dict(expected)


def test_batches_are_padded_to_their_own_longest(tiny_tokenizer, recwarn):
    encoded = encode(tiny_tokenizer, make_data(), 64)
    for indices in length_sorted_batches(encoded, 5):
        batch = encoded.batch(indices)
        longest = encoded.lengths[indices].max()
        assert {tensor.shape for tensor in batch.values()} == {(len(indices), longest)}
        assert batch["attention_mask"].sum(-1).tolist() == encoded.lengths[indices].tolist()
    assert not recwarn.list


@pytest.mark.parametrize("batch_size", [1, 4, 37, 100])
def test_batches_hold_each_example_once_longest_first(tiny_tokenizer, batch_size):
    encoded = encode(tiny_tokenizer, make_data(), 64)
    batches = length_sorted_batches(encoded, batch_size)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(37))
    assert (np.diff(encoded.lengths[order]) <= 0).all()
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    again = length_sorted_batches(encode(tiny_tokenizer, make_data(), 64), batch_size)
    assert all(map(np.array_equal, batches, again))


def test_batch_size_zero_is_refused(tiny_tokenizer):
    with pytest.raises(EvaluationError, match="batch size is 0; at least 1"):
        length_sorted_batches(encode(tiny_tokenizer, make_data(2), 64), 0)


def test_a_blank_sentence_and_one_that_is_too_long_are_scored(tiny_bert, tiny_tokenizer):
    data = make_data(3)
    rows = data.dataset.to_dict() | {"sentence": ["", "good " * 500, " "]}
    data = replace(data, dataset=datasets.Dataset.from_dict(rows, features=data.dataset.features))
    assert encode(tiny_tokenizer, data, 64).lengths.tolist() == [2, 64, 2]
    assert evaluate(tiny_bert, data, tiny_tokenizer, max_seq_length=64).n == 3


# Sequence lengths


def test_lengths_over_the_models_or_the_tokenizers_are_refused(tiny_bert, tiny_tokenizer):
    with pytest.raises(EvaluationError, match="max_seq_length 65 is over the model's maximum of 64 tokens"):
        evaluate(tiny_bert, make_data(2), tiny_tokenizer, max_seq_length=65)
    with pytest.raises(EvaluationError, match="max_seq_length 65 is over the tokenizer's maximum of 64 tokens"):
        encode(tiny_tokenizer, make_data(2), 65)
    short = make_tiny_bert(max_position_embeddings=32)
    encoded = encode(tiny_tokenizer, make_data(2), 64)
    with pytest.raises(EvaluationError, match="64 is over the model's maximum of 32"):
        evaluate(short, encoded)
    with pytest.raises(EvaluationError, match=r"max_seq_length 2 leaves no room for text: .* at least 3"):
        encode(tiny_tokenizer, make_data(2), 2)
    assert issubclass(EvaluationError, UserError)


def test_positions_that_start_after_the_padding_id_are_not_counted():
    roberta = RobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=18, pad_token_id=1,
    )  # fmt: skip
    model = RobertaModel(roberta).eval()
    check_sequence_length(16, model=model)
    with pytest.raises(EvaluationError, match="max_seq_length 17 is over the model's maximum of 16"):
        check_sequence_length(17, model=model)
    model(torch.full((1, 16), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 17), 5))
    check_sequence_length(10**9, model=torch.nn.Linear(2, 2))  # does not say


# One forward over every example


@pytest.mark.parametrize("task", ["sst2", "mrpc", "stsb", "mnli"])
def test_scores_are_those_of_plain_transformers_one_by_one(tiny_tokenizer, task):
    data = make_data(task=task)
    model = make_tiny_bert(num_labels=len(data.spec.labels) or 1, id2label=None, label2id=None)
    score = evaluate(model, data, tiny_tokenizer, batch_size=8, max_seq_length=64)
    expected = one_by_one(model, tiny_tokenizer, data)
    np.testing.assert_allclose(score.logits, expected, atol=1e-5)
    references = np.array(data.dataset["label"][:])
    np.testing.assert_array_equal(score.references, references)
    if data.spec.regression:
        np.testing.assert_allclose(score.predictions, expected[:, 0], atol=1e-5)
        assert score.loss == pytest.approx(np.mean((expected[:, 0] - references) ** 2), rel=1e-5)
    else:
        np.testing.assert_array_equal(score.predictions, expected.argmax(-1))
        loss = F.cross_entropy(torch.from_numpy(expected), torch.from_numpy(references))
        assert score.loss == pytest.approx(float(loss), rel=1e-5)
    assert (score.task, score.split, score.n) == (task, "validation", 37)
    assert tuple(score.metrics) == data.spec.metrics
    for name, metric in score.metrics.items():
        assert metric.value == pytest.approx(float(METRICS[name](score.predictions, references)))
        assert metric.ci95[0] <= metric.value <= metric.ci95[1]


def test_scores_do_not_depend_on_batch_size_or_order(tiny_bert, tiny_tokenizer):
    data = make_data()
    score = evaluate(tiny_bert, data, tiny_tokenizer, max_seq_length=64)
    for batch_size in (1, 5, 64):
        other = evaluate(tiny_bert, data, tiny_tokenizer, max_seq_length=64, batch_size=batch_size)
        np.testing.assert_allclose(other.logits, score.logits, atol=1e-5)
        np.testing.assert_array_equal(other.predictions, score.predictions)
        assert other.metrics == score.metrics
    shuffled = np.random.default_rng(1).permutation(37)
    other = evaluate(tiny_bert, replace(data, dataset=data.dataset.select(shuffled)), tiny_tokenizer, max_seq_length=64)
    np.testing.assert_allclose(other.logits, score.logits[shuffled], atol=1e-5)
    assert other.metrics == score.metrics
    assert other.loss == pytest.approx(score.loss, rel=1e-6)


def test_an_encoded_task_serves_several_models(tiny_bert, tiny_tokenizer):
    data = make_data()
    encoded = encode(tiny_tokenizer, data, 64)
    direct = evaluate(tiny_bert, data, tiny_tokenizer, max_seq_length=64)
    assert evaluate(tiny_bert, encoded).to_dict() | {"seconds": 0} == direct.to_dict() | {"seconds": 0}
    with pytest.raises(TypeError, match="needs a tokenizer"):
        evaluate(tiny_bert, data)


def test_training_modes_come_back_also_after_an_error(tiny_bert, tiny_tokenizer):
    encoded = encode(tiny_tokenizer, make_data(), 64)
    tiny_bert.train()
    tiny_bert.bert.encoder.layer[1].eval()
    modes = [module.training for module in tiny_bert.modules()]
    first, second = evaluate(tiny_bert, encoded), evaluate(tiny_bert, encoded)
    np.testing.assert_array_equal(first.logits, second.logits)  # no dropout
    assert [module.training for module in tiny_bert.modules()] == modes
    handle = tiny_bert.classifier.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(tiny_bert, encoded)
    handle.remove()
    assert [module.training for module in tiny_bert.modules()] == modes
    assert all(parameter.grad is None for parameter in tiny_bert.parameters())


def test_every_form_of_output_is_understood(tiny_bert, tiny_tokenizer):
    class Wrapped(torch.nn.Module):
        def __init__(self, form):
            super().__init__()
            self.inner, self.form = tiny_bert, form

        def forward(self, *args, **kwargs):
            return self.form(self.inner(*args, **kwargs))

    encoded = encode(tiny_tokenizer, make_data(), 64)
    expected = evaluate(tiny_bert, encoded)
    for form in (lambda o: o.logits, lambda o: (o.logits,), lambda o: {"logits": o.logits}, lambda o: o.to_tuple()):
        np.testing.assert_array_equal(evaluate(Wrapped(form), encoded).logits, expected.logits)


def test_inputs_that_a_model_does_not_take_are_left_out(tiny_tokenizer):
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=256, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=64)
    )
    assert "token_type_ids" in tiny_tokenizer.model_input_names
    assert evaluate(model, make_data(5), tiny_tokenizer, max_seq_length=64).n == 5


def test_mixed_precision_is_the_accelerators(tiny_bert, tiny_tokenizer):
    encoded = encode(tiny_tokenizer, make_data(), 64)
    plain = evaluate(tiny_bert, encoded)
    AcceleratorState._reset_state(True)
    try:
        score = evaluate(tiny_bert, encoded, accelerator=Accelerator(cpu=True, mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state(True)
    assert score.logits.dtype == np.float32
    assert 0 < abs(score.logits - plain.logits).max() < 0.3
    assert tiny_bert.classifier.weight.dtype == torch.float32


def test_an_example_lost_or_counted_twice_is_an_error(tiny_bert, tiny_tokenizer, monkeypatch):
    encoded = encode(tiny_tokenizer, make_data(8), 64)
    monkeypatch.setattr(inference, "gather_object", lambda parts: parts * 2)
    with pytest.raises(RuntimeError, match="16 predictions came back for 8 examples"):
        evaluate(tiny_bert, encoded)
    monkeypatch.setattr(inference, "gather_object", lambda parts: [(i[:-1], rows[:-1]) for i, rows in parts])
    with pytest.raises(RuntimeError, match="7 predictions came back for 8 examples"):
        evaluate(tiny_bert, encoded)


def test_outputs_that_do_not_fit_or_are_not_finite_are_refused(tiny_bert, tiny_tokenizer):
    with pytest.raises(EvaluationError, match=r"outputs of shape \(4, 2\), but task 'mnli' needs 3"):
        evaluate(tiny_bert, make_data(4, "mnli"), tiny_tokenizer, max_seq_length=64)
    with pytest.raises(EvaluationError, match=r"task 'stsb' needs 1"):
        evaluate(tiny_bert, make_data(4, "stsb"), tiny_tokenizer, max_seq_length=64)
    tiny_bert.classifier.bias.data[0] = torch.nan
    with pytest.raises(EvaluationError, match="nan or infinite outputs for 4 of 4 examples"):
        evaluate(tiny_bert, make_data(4), tiny_tokenizer, max_seq_length=64)


TWO_PROCESSES = """
import json, sys
import torch
from accelerate import Accelerator, debug_launcher
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from prune_bert.evaluation import encode, evaluate
from prune_bert.tasks import load_task

def work(checkpoint, data, out):
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    scores = []
    for n in (13, 3):  # 4 batches, the last of one example; 1 batch, so that one process has none
        task = load_task("sst2", validation_file=data, max_samples={"validation": n})["validation"]
        encoded = encode(tokenizer, task, 64)
        scores.append(evaluate(model, encoded, accelerator=accelerator, batch_size=4).to_dict())
    with open(f"{out}/{accelerator.process_index}.json", "w") as file:
        json.dump([accelerator.num_processes, scores], file)

if __name__ == "__main__":
    debug_launcher(work, args=tuple(sys.argv[1:]), num_processes=2)
"""


def test_two_processes_with_uneven_shares_equal_one(tiny_checkpoint, tiny_bert, tiny_tokenizer, tmp_path):
    data = make_data(13)
    data.dataset.to_json(tmp_path / "data.jsonl")
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    arguments = [str(tiny_checkpoint), str(tmp_path / "data.jsonl"), str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [processes for processes, _ in results] == [2, 2]
    for score_of_0, score_of_1, n in zip(results[0][1], results[1][1], (13, 3), strict=True):
        assert score_of_0 | {"seconds": 0} == score_of_1 | {"seconds": 0}
        score = TaskScore.from_dict(score_of_0)
        part = load_task("sst2", validation_file=arguments[1], max_samples={"validation": n})["validation"]
        alone = evaluate(tiny_bert, part, tiny_tokenizer, batch_size=4, max_seq_length=64)
        np.testing.assert_allclose(score.logits, alone.logits, atol=1e-5)
        np.testing.assert_array_equal(score.predictions, alone.predictions)
        assert score.metrics == alone.metrics
        assert score.n == n


@pytest.mark.slow
def test_the_shared_model_scores_what_it_is_known_to_score(shared_dir):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(2)
    path = shared_dir / "models" / "minilm-l6-sst2"
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    data = load_task("sst2", data_dir=shared_dir / "glue")["validation"]
    score = evaluate(model, data, AutoTokenizer.from_pretrained(path))
    assert score.n == 872
    assert score.metrics["accuracy"].value == pytest.approx(0.893, abs=0.0006)
    assert score.metrics["accuracy"].ci95 == pytest.approx((0.873, 0.913), abs=0.003)


# Progress


def test_progress_is_silent_when_quick_and_speaks_now_and_then_when_slow(capfd, monkeypatch):
    assert list(with_progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(with_progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert "counting: 2 of 3 batches\n" in capfd.readouterr().err
    assert list(with_progress([1, 2, 3], "counting", show=False)) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


# Intervals


@pytest.mark.parametrize("name", METRICS)
def test_intervals_agree_with_scipys_bootstrap(name):
    generator = np.random.default_rng(0)
    if name in ("pearson", "spearmanr"):
        references = np.round(generator.random(150) * 5, 1)
        predictions, num_labels = references + generator.normal(size=150), 0
    else:
        references = generator.integers(0, 2, 150)
        predictions, num_labels = np.where(generator.random(150) < 0.8, references, 1 - references), 2
    ours = resampled_metrics([name], [predictions], references, num_labels=num_labels, n_resamples=4000, seed=1)[name]
    scipys = stats.bootstrap(
        (predictions, references), METRICS[name], paired=True, vectorized=True, n_resamples=4000,
        method="percentile", random_state=np.random.default_rng(2),
    )  # fmt: skip
    assert stats.ks_2samp(ours[0], scipys.bootstrap_distribution).pvalue > 1e-3
    assert interval(ours[0]) == pytest.approx(tuple(scipys.confidence_interval), abs=0.02)


def test_several_models_are_resampled_together():
    generator = np.random.default_rng(0)
    references = generator.integers(0, 3, 200)
    one = np.where(generator.random(200) < 0.7, references, 0)
    values = resampled_metrics(["accuracy"], [one, one], references, num_labels=3, n_resamples=500, seed=0)
    np.testing.assert_array_equal(*values["accuracy"])
    two = np.where(generator.random(200) < 0.9, one, 1)
    paired = resampled_metrics(["accuracy"], [one, two], references, num_labels=3, n_resamples=4000, seed=0)["accuracy"]
    difference = (two == references).astype(float) - (one == references)
    assert np.std(paired[1] - paired[0]) == pytest.approx(difference.std() / np.sqrt(200), rel=0.05)


def test_every_resample_is_ranked_anew():
    codes = np.random.default_rng(3).integers(0, 7, (4, 5, 30)).astype(float)
    np.testing.assert_array_equal(intervals._mean_ranks(codes), stats.rankdata(codes, axis=-1))


def test_data_that_do_not_vary_give_neither_nan_nor_a_warning():
    names = ("accuracy", "f1", "matthews_correlation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for predictions, references, expected in (
            ([1, 0, 1], [1, 0, 1], (1, None, None)),  # some resamples hold one class only
            ([0, 0], [0, 0], (1, 0, 0)),
            ([1, 1], [0, 0], (0, 0, 0)),
            ([1], [1], (1, 1, 0)),
        ):
            values = resampled_metrics(names, [predictions], references, num_labels=2, n_resamples=200, seed=0)
            for name, value in zip(names, expected, strict=True):
                low, high = interval(values[name][0])
                assert 0 <= low <= high <= 1
                assert value is None or (low, high) == (value, value)
        for predictions, references in (([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0], [1.0])):
            values = resampled_metrics(["pearson"], [predictions], references, num_labels=0, n_resamples=50, seed=0)
            assert np.isnan(interval(values["pearson"][0])).all()
        few = resampled_metrics(["pearson"], [[0.0, 1.0]], [0.0, 2.0], num_labels=0, n_resamples=50, seed=0)
        assert interval(few["pearson"][0]) == pytest.approx((1.0, 1.0))  # undefined resamples do not count


def test_many_classes_stay_within_memory_and_are_right():
    generator = np.random.default_rng(0)
    references = generator.integers(0, 300, 2000)
    predictions = np.where(generator.random(2000) < 0.9, references, generator.integers(0, 300, 2000))
    values = resampled_metrics(["accuracy"], [predictions], references, num_labels=300, n_resamples=100, seed=0)
    accuracy = np.mean(predictions == references)
    assert values["accuracy"][0].mean() == pytest.approx(accuracy, abs=0.005)
    assert values["accuracy"][0].std() == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 2000), rel=0.3)


# Comparison and storage


def test_compare_counts_flips_both_ways():
    references = np.array([0, 0, 1, 1, 1, 0])
    baseline = make_score([0, 0, 1, 1, 0, 1], references)
    other = make_score([0, 1, 1, 0, 1, 1], references)
    comparison = compare(baseline, other)
    assert (comparison.right_to_wrong, comparison.wrong_to_right) == (2, 1)
    assert comparison.agreement == 0.5
    difference = comparison.differences["accuracy"]
    assert difference.value == pytest.approx(-1 / 6)
    assert difference.ci95[0] < difference.value < difference.ci95[1]


def test_a_model_does_not_differ_from_itself(tiny_bert, tiny_tokenizer):
    score = evaluate(tiny_bert, make_data(task="mrpc"), tiny_tokenizer, max_seq_length=64)
    same = MetricValue(0.0, (0.0, 0.0))
    assert compare(score, score) == Comparison({"accuracy": same, "f1": same}, 0, 0, 1.0)


def test_paired_intervals_are_narrower_than_those_of_independent_samples():
    generator = np.random.default_rng(0)
    references = generator.integers(0, 2, 800)
    one = np.where(generator.random(800) < 0.85, references, 1 - references)
    two = np.where(generator.random(800) < 0.97, one, 1 - one)
    low, high = compare(make_score(one, references), make_score(two, references)).differences["accuracy"].ci95
    single = resampled_metrics(["accuracy"], [one], references, num_labels=2, n_resamples=2000, seed=0)["accuracy"]
    assert high - low < np.subtract(*interval(single[0])[::-1])


def test_compare_on_regression():
    references, other = np.array([0.0, 1.0, 2.0, 3.5]), np.array([0.5, 1.0, 1.5, 3.0])
    scores = [make_score(p, references, p[:, None], pearson=1, spearmanr=1) for p in (references, other)]
    comparison = compare(*scores)
    assert (comparison.right_to_wrong, comparison.wrong_to_right) == (0, 0)
    assert comparison.agreement == pytest.approx(stats.pearsonr(references, other)[0])
    assert list(comparison.differences) == ["pearson", "spearmanr"]
    constant = make_score(np.zeros(4), references, np.zeros((4, 1)), pearson=1)
    stored = json.loads(json.dumps(compare(constant, constant).to_dict(), allow_nan=False))
    assert stored["agreement"] is None
    assert np.isnan(Comparison.from_dict(stored).differences["pearson"].value)


def test_scores_of_different_examples_are_not_compared():
    one = make_score([0, 1], [0, 1])
    for other in (make_score([0, 1], [1, 1]), make_score([0], [0]), replace(one, task="b"), replace(one, split="x")):
        with pytest.raises(EvaluationError, match="different examples cannot be compared"):
            compare(one, other)


@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_scores_survive_json_bit_by_bit(tiny_tokenizer, task):
    model = make_tiny_bert(num_labels=1 if task == "stsb" else 2, id2label=None, label2id=None)
    score = evaluate(model, make_data(task=task), tiny_tokenizer, max_seq_length=64)
    back = TaskScore.from_dict(json.loads(json.dumps(score.to_dict(), allow_nan=False)))
    assert back.to_dict() == score.to_dict()
    for name in ("predictions", "references", "logits"):
        ours, theirs = getattr(score, name), getattr(back, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert compare(score, back).agreement == pytest.approx(1)
    assert back.num_labels == (0 if task == "stsb" else 2)


def test_comparisons_survive_json():
    comparison = compare(make_score([0, 1, 1], [0, 1, 0]), make_score([0, 0, 1], [0, 1, 0]))
    assert Comparison.from_dict(json.loads(json.dumps(comparison.to_dict()))) == comparison


def test_a_model_spread_over_devices_is_not_moved():
    model = torch.nn.Linear(2, 2)
    inference.move_to_device(model, torch.device("meta"))
    assert model.weight.device.type == "meta"
    spread = torch.nn.Linear(2, 2)
    spread.hf_device_map = SimpleNamespace()
    inference.move_to_device(spread, torch.device("meta"))
    assert spread.weight.device.type == "cpu"
