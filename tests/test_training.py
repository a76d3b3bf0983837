"""Training: the order of batches, the loop's arithmetic, LoRA, and what bad input gets."""

import gc
import json
import math
import sys

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import WORDS, make_tiny_bert

from prune_bert.lora import LoraError, add_lora, merge_adapter, save_adapter
from prune_bert.tasks import TaskData, TaskSpec
from prune_bert.training import (
    TrainingError,
    TrainSettings,
    loop,
    progress,
    train,
)
from prune_bert.training.batches import BatchOrder, learning_rate_factor, share

SPEC = TaskSpec("toy", ("sentence",), "label", ("negative", "positive"), ("accuracy",))
NUMBERS = TaskSpec("toy", ("sentence",), "label", (), ("pearson",))
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(autouse=True, scope="module")
def light():
    """Make many small runs cheap.

    A model this small gains nothing from threads, and loses much where others want the cores too; and the
    garbage collection at the end of every run should pass over what the imports left.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def toy_data(count=48, spec=SPEC, labels=None):
    """Sentences of 2 to 13 words whose label is whether "good" is among them."""
    random = np.random.default_rng(5)
    sentences = [" ".join(random.choice(WORDS, size=2 + i % 12)) for i in range(count)]
    sentences = [f"{s} good" if i % 2 else f"{s} bad" for i, s in enumerate(sentences)]
    labels = [i % 2 for i in range(count)] if labels is None else labels
    if not labels:
        sentences = []
    dataset = datasets.Dataset.from_dict({"sentence": sentences, "label": labels, "idx": range(len(labels))})
    return TaskData(spec, "train", dataset, "a toy")


def settings(**given):
    return TrainSettings(
        **{
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "max_seq_length": 32,
            "seed": 3,
        }
        | given
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- the order of batches


def order(count=1000, **given):
    lengths = np.random.default_rng(0).integers(3, 60, size=count)
    return BatchOrder(lengths=lengths, **{"batch_size": 8, "batches_per_step": 3, "seed": 1} | given)


@pytest.mark.parametrize("count", [1, 8, 23, 999])
def test_an_epoch_holds_every_example_once(count):
    steps = order(count).epoch(0)
    seen = np.concatenate([batch for step in steps for batch in step])
    assert sorted(seen) == list(range(count))
    assert len(steps) == order(count).steps_per_epoch


def test_an_order_depends_on_seed_and_epoch_only():
    def flat(epoch, **given):
        return np.concatenate([batch for step in order(**given).epoch(epoch) for batch in step]).tolist()

    assert flat(4) == flat(4)
    assert flat(4) != flat(5)
    assert flat(4) != flat(4, seed=2)
    assert flat(4) == flat(4, batches_per_step=6)  # more processes: the same micro-batches


def test_batches_hold_examples_of_like_length():
    lengths = order(4096).lengths
    batches = [batch for step in order(4096).epoch(0) for batch in step]
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.05 * lengths.sum()


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_shares_add_up_to_the_mean_over_the_step(processes, count):
    losses = np.random.default_rng(0).random(100)
    for step in order(100, batches_per_step=processes * count).epoch(0):
        shares = [share(step, process, processes, count) for process in range(processes)]
        assert {len(mine) for mine in shares} == {count}
        total = sum(weight * losses[batch].sum() for mine in shares for batch, weight in mine) / processes
        assert total == pytest.approx(losses[np.concatenate(step)].mean())


def test_the_learning_rate_is_that_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 7, 50)
    for step in range(50):
        assert learning_rate_factor(step, 50, 7) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


# --- the loop


def test_training_learns_a_simple_task(tiny_tokenizer):
    model = make_tiny_bert(initializer_range=0.05)
    result = train(model, toy_data(), tiny_tokenizer, settings(num_train_epochs=12))
    assert result.steps == 72
    assert result.epochs == 12
    assert result.history[0].loss > 0.5
    assert result.final_loss < 0.2
    assert result.resumed_from is None
    assert not model.training


def test_one_step_is_that_of_the_mean_loss_over_all_its_examples(tiny_tokenizer):
    """48 examples of uneven lengths in micro-batches of 10, three a step: 30 and 18 examples."""
    data = toy_data()
    given = settings(per_device_train_batch_size=10, gradient_accumulation_steps=3, warmup_ratio=0, max_grad_norm=0.5)
    model, expected = make_tiny_bert(**NO_DROPOUT), make_tiny_bert(**NO_DROPOUT).train()
    result = train(model, data, tiny_tokenizer, given)
    assert result.steps == 2

    lengths = np.array([len(row) for row in tiny_tokenizer(list(data.dataset["sentence"]))["input_ids"]])
    decayed = [p for p in expected.parameters() if p.ndim > 1]
    rest = [p for p in expected.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": given.weight_decay}, {"params": rest, "weight_decay": 0}],
        lr=1e-3,
    )
    for number, step in enumerate(BatchOrder(lengths, 10, 3, given.seed).epoch(0)):
        rows = data.dataset[np.concatenate(step).tolist()]
        batch = tiny_tokenizer(rows["sentence"], padding=True, return_tensors="pt")
        loss = F.cross_entropy(expected(**batch).logits, torch.tensor(rows["label"]))
        assert result.history[number].loss == pytest.approx(loss.item(), abs=1e-5)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3 * (1 - number / 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        optimizer.step()
    for name, value in weights(expected).items():
        if "key.bias" in name:
            continue  # its gradient is zero but for rounding, and Adam's first step takes only the sign
        torch.testing.assert_close(model.get_parameter(name), value, atol=2e-5, rtol=0)


def test_frozen_parameters_stay_as_they_are(tiny_tokenizer, tiny_bert):
    tiny_bert.bert.requires_grad_(False)
    before = weights(tiny_bert)
    train(tiny_bert, toy_data(), tiny_tokenizer, settings())
    changed = {name for name, value in weights(tiny_bert).items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_leaves_nothing_behind(tiny_tokenizer, tiny_bert, precision):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # precision is fixed by the first accelerator of a process
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    own, random_state = set(vars(tiny_bert)), torch.get_rng_state()
    train(tiny_bert, toy_data(), tiny_tokenizer, settings(max_steps=2), accelerator=accelerator)
    assert set(vars(tiny_bert)) == own
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in tiny_bert.parameters())
    assert tiny_bert(torch.tensor([[5, 6]])).logits.dtype == torch.float32
    AcceleratorState._reset_state(True)


def test_regression_learns_numbers(tiny_tokenizer):
    labels = [1.0 if i % 2 else -1.0 for i in range(48)]
    model = make_tiny_bert(num_labels=1, id2label={0: "score"}, label2id={"score": 0}, initializer_range=0.05)
    result = train(model, toy_data(48, NUMBERS, labels), tiny_tokenizer, settings(num_train_epochs=12))
    assert result.history[0].loss > 0.5
    assert result.final_loss < 0.3


def test_a_loss_of_ones_own_is_used(tiny_tokenizer, tiny_bert):
    seen = []

    def loss(model, batch):
        seen.append(len(batch["labels"]))
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.square().sum(-1)

    train(tiny_bert, toy_data(), tiny_tokenizer, settings(max_steps=3), loss_function=loss)
    assert seen == [8, 8, 8]


def test_validation_is_asked_after_each_epoch(tiny_tokenizer, tiny_bert):
    scores = iter([0.5, 0.75, 0.625])

    def validate(model):
        assert not model.training
        return next(scores)

    result = train(tiny_bert, toy_data(), tiny_tokenizer, settings(num_train_epochs=2.5), validation=validate)
    assert result.validation == ((6, 0.5), (12, 0.75), (15, 0.625))
    assert (result.best_validation, result.final_validation) == (0.75, 0.625)


def test_the_history_is_thinned_and_still_means_the_whole(tiny_tokenizer, tiny_bert, monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 4)
    result = train(tiny_bert, toy_data(), tiny_tokenizer, settings(max_steps=14))
    assert [point.step for point in result.history] == [3, 6, 9, 12, 14]
    steps = np.diff([0, *(point.step for point in result.history)])
    mean = np.average([point.loss for point in result.history], weights=steps)
    assert result.mean_loss == pytest.approx(mean)
    assert all(math.isfinite(point.learning_rate) for point in result.history)


def test_progress_off_a_terminal_is_plain_lines(tiny_tokenizer, tiny_bert, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_INTERVAL_SECONDS", 0.0)
    train(tiny_bert, toy_data(), tiny_tokenizer, settings(max_steps=4))
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("train:")]
    assert out == ""
    assert len(lines) == 4
    assert lines[0].startswith("train: step 1/4 (25%), loss ")
    assert lines[-1].endswith(" 0:00 left")


def test_progress_of_other_processes_is_silent(capsys):
    with progress.training_progress(3, 0, shown=False) as report:
        report(3, 0.5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_learns_on_a_gpu(tiny_tokenizer, precision):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    model = make_tiny_bert(initializer_range=0.05)
    accelerator = Accelerator(mixed_precision=precision)
    result = train(model, toy_data(), tiny_tokenizer, settings(num_train_epochs=12), accelerator=accelerator)
    assert result.final_loss < 0.3


# --- what bad input gets


def broken_at(step):
    calls = iter(range(1, 100))

    def loss(model, batch):
        factor = float("nan") if next(calls) == step else 1.0
        return model(batch["input_ids"]).logits.sum(-1) * factor

    return loss


def test_a_loss_that_is_no_number_stops_before_it_harms_the_weights(tiny_tokenizer, tiny_bert):
    with pytest.raises(TrainingError, match=r"loss became nan at step 3 of 6 .* lower learning rate"):
        train(tiny_bert, toy_data(), tiny_tokenizer, settings(), loss_function=broken_at(3))
    assert all(torch.isfinite(p).all() for p in tiny_bert.parameters())
    assert not tiny_bert.training


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (toy_data(labels=[]), {}, r"a toy has no train examples to train on"),
        (toy_data(6), {}, r"per_device_train_batch_size is 8, but a toy has only 6 .* lower it to 6"),
        (toy_data(labels=[0, 1, 2] * 16), {}, r"row 2 of a toy \(train\) has label 2, .* 0 to 1"),
        (toy_data(labels=[0, -1, 1] * 16), {}, r"row 1 of a toy \(train\) has label -1"),
        (toy_data(spec=NUMBERS, labels=[0.5] * 48), {}, r"regression.* 2 outputs; .*num_labels=1"),
    ],
)
def test_unfit_data_are_refused(tiny_tokenizer, tiny_bert, data, given, message):
    before = weights(tiny_bert)
    with pytest.raises(TrainingError, match=message) as caught:
        train(tiny_bert, data, tiny_tokenizer, settings(**given))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in weights(tiny_bert).items())


def test_a_model_without_trainable_parameters_is_refused(tiny_tokenizer, tiny_bert):
    tiny_bert.requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter of the model is trainable"):
        train(tiny_bert, toy_data(), tiny_tokenizer, settings())


def test_all_faults_of_the_settings_are_named_at_once():
    with pytest.raises(TrainingError) as caught:
        TrainSettings(learning_rate=0, max_steps=0, warmup_ratio=2, gradient_accumulation_steps=0)
    for name in ("learning_rate", "max_steps", "warmup_ratio", "gradient_accumulation_steps"):
        assert name in str(caught.value)


# --- LoRA


def trained_adapter(tokenizer, rank=4):
    torch.manual_seed(1)
    model = add_lora(make_tiny_bert(), rank, alpha=8.0, dropout=0.1)
    train(model, toy_data(), tokenizer, settings(learning_rate=1e-2))
    return model


def logits(model):
    ids = torch.randint(5, 100, (6, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return model(ids).logits


def test_lora_trains_the_adapter_and_the_head_only(tiny_tokenizer):
    model = trained_adapter(tiny_tokenizer)
    before = weights(make_tiny_bert())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    linear_layers = 4 * 6
    assert sum("lora_A" in name for name in trained) == linear_layers
    assert sum("lora_B" in name for name in trained) == linear_layers
    assert {name.split(".modules_to_save")[0].split(".")[-1] for name in trained if "lora_" not in name} == {
        "pooler",
        "classifier",
    }
    for name, value in weights(model).items():
        if name not in trained:
            plain = name.removeprefix("base_model.model.")
            plain = plain.replace(".base_layer", "").replace(".original_module", "")
            assert torch.equal(value, before[plain]), name


def test_a_merged_adapter_gives_the_same_logits_in_a_plain_model(tiny_tokenizer, tmp_path):
    model = trained_adapter(tiny_tokenizer)
    save_adapter(model, tmp_path / "adapter", base_model_name="someone/tiny")
    torch.manual_seed(9)
    base = make_tiny_bert()
    untrained = logits(base)
    torch.nn.init.normal_(base.classifier.weight)  # a fresh head: the adapter brings its own
    own = set(vars(base))
    merged = merge_adapter(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(merged), untrained, atol=1e-2)
    assert type(merged).__name__ == "BertForSequenceClassification"
    assert set(vars(merged)) == own
    assert set(merged.state_dict()) == set(make_tiny_bert().state_dict())
    assert all(p.requires_grad for p in merged.parameters())
    assert not any("peft" in type(module).__module__ for module in merged.modules())


def test_an_adapter_is_small_and_holds_no_path(tiny_tokenizer, tmp_path):
    model = trained_adapter(tiny_tokenizer)
    save_adapter(model, tmp_path / "full", base_model_name="someone/tiny")
    save_adapter(model, tmp_path / "half", base_model_name="someone/tiny", dtype=torch.float16)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    full, half = ((tmp_path / name / "adapter_model.safetensors").stat().st_size for name in ("full", "half"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert full - half == pytest.approx(2 * trained, abs=64)  # but for the header's padding
    torch.testing.assert_close(
        logits(merge_adapter(make_tiny_bert(), tmp_path / "half")), logits(model), atol=2e-2, rtol=0
    )
    text = (tmp_path / "full" / "adapter_config.json").read_text()
    config = json.loads(text)
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("someone/tiny", 4, 8.0)
    assert str(tmp_path) not in text


def test_chosen_target_modules_are_the_only_ones():
    model = add_lora(make_tiny_bert(), 2, target_modules=["query", "self.value"])
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "lora_rank must be at least 1, not 0"),
        ({"rank": 2, "dropout": 1.0}, "lora_dropout must be from 0 to below 1"),
        ({"rank": 2, "target_modules": ["qery"]}, r"ends with 'qery'; .*attention.self.query"),
    ],
)
def test_unfit_lora_arguments_are_refused(tiny_bert, arguments, message):
    with pytest.raises(LoraError, match=message):
        add_lora(tiny_bert, **arguments)


def test_without_peft_the_extra_is_named(tiny_bert, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    for call in (lambda: add_lora(tiny_bert, 2), lambda: merge_adapter(tiny_bert, tmp_path)):
        with pytest.raises(LoraError, match=r"pip install prune-bert\[lora\]"):
            call()


def test_adapters_that_do_not_fit_are_refused(tmp_path):
    save_adapter(add_lora(make_tiny_bert(), 2), tmp_path, base_model_name="tiny")
    for other in ({"num_hidden_layers": 5}, {"num_hidden_layers": 3}, {"hidden_size": 16}):
        with pytest.raises(LoraError, match=r"does not fit this BertForSequenceClassification") as caught:
            merge_adapter(make_tiny_bert(**other), tmp_path)
        assert "\n" not in str(caught.value)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LoraError, match="is damaged"):
        merge_adapter(make_tiny_bert(), tmp_path)
    path.unlink()
    with pytest.raises(LoraError, match=r"holds no adapter_model\.safetensors"):
        merge_adapter(make_tiny_bert(), tmp_path)


def test_only_an_adapter_can_be_saved_as_one(tiny_bert, tmp_path):
    with pytest.raises(LoraError, match="BertForSequenceClassification has no adapter"):
        save_adapter(tiny_bert, tmp_path, base_model_name="tiny")
