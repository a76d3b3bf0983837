"""Recovery: what is learnt, from whom, in which order, and what bad input gets."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import make_tiny_bert
from test_training import NO_DROPOUT, NUMBERS, light, logits, toy_data, weights  # noqa: F401 - light is a fixture
from test_training_resume import assert_same_weights

from prune_bert.config.recovering import RecoverOptions
from prune_bert.lora import LoraError
from prune_bert.plan import PruningPlan, Site
from prune_bert.recovery import DistillationLoss, RecoverSettings, RecoveryError, recover
from prune_bert.recovery.distillation import hidden_distance, shared_layers
from prune_bert.recovery.jobs import share_steps
from prune_bert.recovery.removal import removal_order
from prune_bert.recovery.selection import set_aside
from prune_bert.surgery import SurgeryError, bypass, drop, pruning_record
from prune_bert.training import ResumeError, TrainingError, TrainSettings, train

PLAN = PruningPlan.parse("layer:2 attention:1 ffn:3")


def settings(training=None, **given):
    loop = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "max_seq_length": 32,
        "seed": 3,
        "evaluation_steps": 4,
        "keep_best": True,
    }
    return RecoverSettings(**given, training=TrainSettings(**loop | (training or {})))


@pytest.fixture(scope="module")
def trained(tiny_tokenizer):
    """A model that knows the toy task, to prune and to learn from."""
    model = make_tiny_bert(initializer_range=0.05)
    knobs = TrainSettings(
        learning_rate=1e-3, per_device_train_batch_size=8, num_train_epochs=12, max_seq_length=32, seed=3
    )
    train(model, toy_data(96), tiny_tokenizer, knobs)
    return model


@pytest.fixture
def teacher(trained):
    return copy.deepcopy(trained)


def pruned(model, plan=PLAN):
    return drop(copy.deepcopy(model), plan)


def loss_on(model, tokenizer, data):
    batch = tokenizer(data.dataset["sentence"][:], padding=True, return_tensors="pt")
    with torch.inference_mode():
        return F.cross_entropy(model(**batch).logits, torch.tensor(data.dataset["label"][:])).item()


# --- what is learnt


@pytest.mark.parametrize("method", ["fine_tuning", "distillation"])
@pytest.mark.parametrize("schedule", ["at_once", "gradual"])
def test_recovery_lowers_the_loss(tiny_tokenizer, teacher, method, schedule):
    plan = PruningPlan.parse("layer:0-2")  # what is left no longer does the task
    gradual = schedule == "gradual"
    broken = loss_on(pruned(teacher, plan), tiny_tokenizer, toy_data(96))
    model = copy.deepcopy(teacher) if gradual else pruned(teacher, plan)
    result = recover(
        model,
        toy_data(96),
        tiny_tokenizer,
        settings({"num_train_epochs": 8}, method=method, schedule=schedule),
        teacher=teacher if method == "distillation" else None,
        plan=plan if gradual else None,
    )
    assert loss_on(model, tiny_tokenizer, toy_data(96)) < 0.5 * broken
    assert (result.train_samples, result.selection_samples) == (87, 9)
    assert result.steps == 88
    assert not model.training


def test_an_identical_teacher_gives_no_gradient(tiny_tokenizer):
    model = make_tiny_bert(**NO_DROPOUT).train()
    batch = dict(tiny_tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"))
    loss = DistillationLoss(copy.deepcopy(model).eval(), 3.0, 0.0, 1.0, ((0, 0), (3, 3)))
    losses = loss(model, batch | {"labels": torch.tensor([0, 1])})
    losses.sum().backward()
    assert losses.shape == (2,)
    assert losses.abs().max() < 1e-6
    assert max(p.grad.abs().max() for p in model.parameters() if p.grad is not None) < 1e-5


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_teacher_runs_in_the_students_precision(tiny_tokenizer, tiny_bert, precision):
    AcceleratorState._reset_state(True)  # precision is fixed by the first accelerator of a process
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    knobs = settings({"max_steps": 1}, label_weight=0.0, hidden_weight=1.0)
    teacher = copy.deepcopy(tiny_bert)
    result = recover(tiny_bert, toy_data(), tiny_tokenizer, knobs, teacher=teacher, accelerator=accelerator)
    assert result.selection_losses[0] == (0, pytest.approx(0.0, abs=1e-7))
    AcceleratorState._reset_state(True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_recovery_lowers_the_loss_on_a_gpu(tiny_tokenizer, teacher, precision):
    AcceleratorState._reset_state(True)
    knobs = settings({"num_train_epochs": 8}, hidden_weight=0.5, lora_rank=4, schedule="gradual")
    result = recover(
        teacher, toy_data(96), tiny_tokenizer, knobs, plan=PLAN, accelerator=Accelerator(mixed_precision=precision)
    )
    losses = dict(result.selection_losses)
    assert losses[result.best_step] < losses[0]
    AcceleratorState._reset_state(True)


def test_the_loss_is_hintons(tiny_tokenizer, tiny_bert):
    teacher = make_tiny_bert(initializer_range=0.5)
    batch = dict(tiny_tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"))
    labels = torch.tensor([0, 1])
    ours, theirs = tiny_bert(**batch).logits, teacher(**batch).logits
    p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
    expected = 0.7 * 4 * (p * (p / q).log()).sum(-1) + 0.3 * F.cross_entropy(ours, labels, reduction="none")
    torch.testing.assert_close(DistillationLoss(teacher, 2.0, 0.3)(tiny_bert, batch | {"labels": labels}), expected)


def test_numbers_are_learnt_by_their_distance(tiny_tokenizer):
    one = {"num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}}
    model, teacher = make_tiny_bert(**one), make_tiny_bert(**one, initializer_range=0.5)
    batch = dict(tiny_tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"))
    expected = (model(**batch).logits - teacher(**batch).logits).squeeze(-1).square()
    found = DistillationLoss(teacher, 2.0)(model, batch | {"labels": torch.zeros(2)})
    torch.testing.assert_close(found, expected)
    teacher = copy.deepcopy(model)
    torch.nn.init.constant_(teacher.classifier.bias, 1.0)
    data = toy_data(48, NUMBERS, [float("nan")] * 48)  # the teacher's numbers are enough
    result = recover(model, data, tiny_tokenizer, settings({"learning_rate": 1e-2}, label_weight=0.0), teacher=teacher)
    losses = dict(result.selection_losses)
    assert losses[result.best_step] < losses[0] == pytest.approx(1.0)


def test_unlabelled_rows_suffice_without_label_weight(tiny_tokenizer, teacher):
    labelled, unlabelled = toy_data(), toy_data()
    unlabelled = dataclasses.replace(unlabelled, dataset=unlabelled.dataset.remove_columns("label"))
    knobs = settings(label_weight=0.0)
    models = [pruned(teacher), pruned(teacher)]
    recover(models[0], unlabelled, tiny_tokenizer, knobs, teacher=teacher)
    recover(models[1], labelled, tiny_tokenizer, knobs, teacher=teacher)
    assert_same_weights(*models)
    hidden, knobs = toy_data(labels=[-1] * 48), settings(label_weight=0.1)
    with pytest.raises(TrainingError, match="has label -1"):
        recover(pruned(teacher), hidden, tiny_tokenizer, knobs, teacher=teacher)


def test_the_teacher_is_left_as_it_was(tiny_tokenizer, teacher):
    teacher.train()
    teacher.bert.eval()
    before, modes = weights(teacher), [module.training for module in teacher.modules()]
    recover(pruned(teacher), toy_data(), tiny_tokenizer, settings(), teacher=teacher)
    assert all(torch.equal(value, before[name]) for name, value in weights(teacher).items())
    assert [module.training for module in teacher.modules()] == modes
    assert all(p.grad is None for p in teacher.parameters())


# --- hidden states


def test_hidden_states_are_matched_by_original_layer(teacher):
    assert shared_layers(pruned(teacher, PruningPlan.parse("layer:1 ffn:3")), teacher) == ((0, 0), (1, 2), (2, 3))
    smaller = pruned(teacher, PruningPlan.parse("layer:0,2"))
    assert shared_layers(pruned(teacher, PruningPlan.parse("layer:0-1")), smaller) == ((1, 1),)


def test_a_student_that_sees_what_its_teacher_saw_has_no_distance(tiny_tokenizer):
    """Layer 1 does nothing in the teacher: dropped, all the others see what they saw, at their own index."""
    teacher = make_tiny_bert()
    batch = dict(tiny_tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"))
    plan = PruningPlan.parse("layer:1")
    student = pruned(teacher, plan)
    with bypass(teacher, plan):
        theirs = teacher(**batch, output_hidden_states=True).hidden_states
    ours = student(**batch, output_hidden_states=True).hidden_states
    assert (len(ours), len(theirs)) == (4, 5)
    assert hidden_distance(ours, theirs, shared_layers(student, teacher), batch["attention_mask"]).max() < 1e-10
    for pair in ((1, 1), (2, 2), (0, 2)):  # by place, or off by one
        assert hidden_distance(ours, theirs, (pair,), batch["attention_mask"]).min() > 1e-3


def test_padding_and_scale_do_not_count():
    random = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 2, 5, 16, generator=random)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    distance = hidden_distance([ours, ours], [theirs, theirs], ((0, 0),), mask)
    ours[0, 3:] = 100
    torch.testing.assert_close(
        hidden_distance([ours, ours * 7 + 3], [theirs, theirs], ((0, 0),), mask), distance, rtol=1e-3, atol=0
    )
    assert distance.shape == (2,)


def test_hidden_states_draw_nearer(tiny_tokenizer, teacher):
    def distance(model):
        batch = dict(tiny_tokenizer(toy_data().dataset["sentence"][:], padding=True, return_tensors="pt"))
        with torch.inference_mode():
            states = [m(**batch, output_hidden_states=True).hidden_states for m in (model, teacher)]
            return hidden_distance(*states, shared_layers(model, teacher), batch["attention_mask"]).mean().item()

    found = []
    for weight in (0.0, 10.0):
        model = pruned(teacher, PruningPlan.parse("layer:1"))
        knobs = settings({"keep_best": False, "num_train_epochs": 6}, hidden_weight=weight)
        recover(model, toy_data(), tiny_tokenizer, knobs, teacher=teacher)
        found.append(distance(model))
    assert found[1] < 0.7 * found[0]


# --- the slice set aside


def test_a_bad_label_is_named_by_its_row_in_the_whole_split(tiny_tokenizer, tiny_bert):
    data = toy_data(49, labels=[0, 1] * 20 + [5] + [0, 1] * 4)
    with pytest.raises(TrainingError, match="row 40 of a toy"):
        recover(tiny_bert, data, tiny_tokenizer, settings(method="fine_tuning"))


@pytest.mark.parametrize(("fraction", "samples", "expected"), [(0.1, None, 4), (0.5, 7, 7), (0.001, None, 1)])
def test_the_slice_is_even_and_never_trained_on(fraction, samples, expected):
    rows, slice_ = set_aside(toy_data(48), settings(selection_fraction=fraction, selection_samples=samples))
    trained, held_out = (np.array(part.dataset["idx"][:]) for part in (rows, slice_))
    assert len(held_out) == expected
    assert sorted([*trained, *held_out]) == list(range(48))
    assert np.diff([-1, *held_out, 48]).max() <= np.ceil(48 / expected)


def test_without_a_use_for_it_no_slice_is_set_aside():
    for knobs in (settings(selection_fraction=0.0), settings({"keep_best": False})):
        assert set_aside(toy_data(48), knobs)[1] is None


def test_without_a_slice_all_rows_are_trained_on(tiny_tokenizer, teacher):
    knobs = settings({"early_stopping_patience": 1}, selection_fraction=0.0)
    result = recover(pruned(teacher), toy_data(), tiny_tokenizer, knobs, teacher=teacher)
    assert (result.train_samples, result.selection_samples, result.best_step) == (48, 0, None)
    assert result.selection_losses == ()


def test_what_is_kept_is_the_best_on_the_slice(tiny_tokenizer, teacher):
    model = copy.deepcopy(teacher)
    before = weights(model)
    harm = {"learning_rate": 0.5, "early_stopping_patience": 2}
    knobs = settings(harm, label_weight=0.0)  # the loss begins at 0
    result = recover(model, toy_data(), tiny_tokenizer, knobs, teacher=teacher)
    assert (result.best_step, result.steps, result.stopped_early) == (0, 8, True)
    assert [loss > 0.1 for _, loss in result.selection_losses] == [False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


# --- LoRA


def test_a_merged_adapter_leaves_names_and_record(tiny_tokenizer, teacher):
    model = pruned(teacher)
    model.bert.embeddings.requires_grad_(False)
    before, attributes, record = weights(model), set(vars(model)), pruning_record(model.config)
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    random_state = torch.get_rng_state()
    recover(model, toy_data(), tiny_tokenizer, settings(lora_rank=2), teacher=teacher)
    assert list(weights(model)) == list(before)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable
    assert set(vars(model)) == attributes
    assert pruning_record(model.config) == record
    assert not any("peft" in type(module).__module__ for module in model.modules())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert changed - {"bert.pooler.dense.bias", "classifier.bias"} == linear


def test_after_a_fault_the_adapter_is_gone(tiny_tokenizer, teacher, monkeypatch):
    model = pruned(teacher)
    before = weights(model)
    monkeypatch.setattr(DistillationLoss, "__call__", lambda *_: torch.full((8,), torch.nan, requires_grad=True))
    with pytest.raises(TrainingError, match="the loss became nan"):
        recover(model, toy_data(), tiny_tokenizer, settings({"keep_best": False}, lora_rank=2), teacher=teacher)
    assert list(weights(model)) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


# --- gradual


@pytest.mark.parametrize(
    "plan", ["layer:2 attention:1 ffn:3", "layer:0 attention:1 ffn:1,3 norm=skip", "layer:0,3", "attention:0 ffn:0"]
)
def test_gradual_ends_at_the_structure_of_a_drop(tiny_tokenizer, plan):
    plan = PruningPlan.parse(plan)
    model, expected = make_tiny_bert(), drop(make_tiny_bert(), plan)
    result = recover(
        model,
        toy_data(),
        tiny_tokenizer,
        settings({"max_steps": 9}, method="fine_tuning", schedule="gradual", steps_per_site=2),
        plan=plan,
    )
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in expected.named_parameters()
    }
    assert pruning_record(model.config) == pruning_record(expected.config)
    assert Counter(type(m).__name__ for m in model.modules()) == Counter(type(m).__name__ for m in expected.modules())
    assert sorted(phase.site for phase in result.phases) == sorted(map(str, plan))
    assert [phase.training.steps for phase in result.phases] == [2] * (len(plan) - 1) + [9 - 2 * (len(plan) - 1)]


def test_from_the_top_layer_down_or_in_the_order_given(tiny_bert):
    gradual = settings(schedule="gradual")
    plan = PruningPlan.parse("layer:1 attention:0,3 ffn:3")
    assert " ".join(map(str, removal_order(tiny_bert, plan, None, gradual))) == "ffn:3 attention:3 layer:1 attention:0"
    order = (Site(0, "attention"), Site(3, "attention"), Site(1), Site(3, "ffn"))
    assert removal_order(tiny_bert, plan, order, gradual) == order
    assert tiny_bert.config.num_hidden_layers == 4


def test_gradual_goes_on_from_a_pruned_model(tiny_tokenizer, teacher):
    model = pruned(teacher, PruningPlan.parse("layer:1"))
    knobs = settings({"max_steps": 4}, schedule="gradual", hidden_weight=1.0)
    recover(model, toy_data(), tiny_tokenizer, knobs, teacher=teacher, plan=PruningPlan.parse("layer:1 ffn:2"))
    assert str(pruning_record(model.config).plan) == "layer:1-2 ffn:3"  # in the numbering before all


def test_without_a_teacher_gradual_learns_from_a_copy(tiny_tokenizer, teacher):
    models = [copy.deepcopy(teacher), copy.deepcopy(teacher)]
    for model, given in zip(models, (None, teacher), strict=True):
        knobs = settings({"max_steps": 6}, schedule="gradual")
        recover(model, toy_data(), tiny_tokenizer, knobs, plan=PLAN, teacher=given)
    assert_same_weights(*models)


@pytest.mark.parametrize(
    ("total", "sites", "each", "steps"),
    [(10, 0, None, (10,)), (10, 1, None, (10,)), (12, 3, None, (2, 2, 8)), (9, 3, 4, (4, 4, 1))],
)
def test_steps_are_shared_out(total, sites, each, steps):
    assert share_steps(total, sites, each) == steps
    assert sum(steps) == total


# --- what bad input gets


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        ({"id2label": {0: "no", 1: "yes"}}, {}, r"does not fit the model: its id2label is \{0: 'no', 1: 'yes'\}, the"),
        ({"num_labels": 3, "id2label": None, "label2id": None}, {}, r"its num_labels is 3, the model's is 2"),
        ({"vocab_size": 300}, {}, r"its vocab_size is 300, the model's is 256"),
        ({"hidden_size": 64}, {"hidden_weight": 1.0}, r"its hidden_size is 64, the model's is 32"),
        ({"num_hidden_layers": 6}, {"hidden_weight": 1.0}, r"unpruned teacher has 6 layers and .* 4, .* hidden_weight"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(tiny_tokenizer, tiny_bert, make, given, message):
    before = weights(tiny_bert)
    make = {name: value for name, value in make.items() if value is not None}
    if make.get("num_labels") == 3:
        make |= {"id2label": {i: str(i) for i in range(3)}, "label2id": {str(i): i for i in range(3)}}
    with pytest.raises(RecoveryError, match=message) as caught:
        recover(tiny_bert, toy_data(), tiny_tokenizer, settings(**given), teacher=make_tiny_bert(**make))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in weights(tiny_bert).items())


def test_a_teacher_of_another_size_teaches_by_its_outputs(tiny_tokenizer, tiny_bert):
    teacher = make_tiny_bert(hidden_size=64, num_hidden_layers=2)
    recover(tiny_bert, toy_data(), tiny_tokenizer, settings({"max_steps": 1}), teacher=teacher)


@pytest.mark.parametrize(
    ("knobs", "given", "message"),
    [
        ({}, {}, "distillation needs a teacher beside the pruned model"),
        ({}, {"teacher": "model"}, "distillation needs a teacher beside the pruned model"),
        ({"method": "fine_tuning"}, {"teacher": "other"}, "'fine_tuning' .* takes no teacher"),
        ({"method": "fine_tuning"}, {"plan": PLAN}, "'at_once' .* takes no plan; drop the plan first"),
        ({"schedule": "gradual"}, {}, "'gradual' removes the sites of a plan .*; give a plan"),
        (
            {"schedule": "gradual"},
            {"plan": PLAN, "order": (Site(2), Site(2))},
            "'layer:2 layer:2' is not an order of the plan 'layer:2 attention:1 ffn:3'",
        ),
        (
            {"schedule": "gradual", "steps_per_site": 50},
            {"plan": PLAN},
            "12 steps do not suffice for 3 sites with 50 steps after each; give at least 101",
        ),
    ],
)
def test_contradictions_are_refused(tiny_tokenizer, tiny_bert, knobs, given, message):
    teachers = {"model": tiny_bert, "other": make_tiny_bert()}
    given = given | ({"teacher": teachers[given["teacher"]]} if "teacher" in given else {})
    before = weights(tiny_bert)
    with pytest.raises(RecoveryError, match=message) as caught:
        recover(tiny_bert, toy_data(), tiny_tokenizer, settings(**knobs), **given)
    assert "\n" not in str(caught.value)
    assert list(weights(tiny_bert)) == list(before)


def test_a_plan_that_cannot_be_dropped_is_refused_before_any_training(tiny_tokenizer, tiny_bert):
    knobs = settings(method="fine_tuning", schedule="gradual")
    with pytest.raises(SurgeryError, match="removes all 4 layers"):
        recover(tiny_bert, toy_data(), tiny_tokenizer, knobs, plan=PruningPlan.parse("layer:0-3"))
    assert tiny_bert.config.num_hidden_layers == 4


def test_an_adapter_for_no_layer_is_refused_and_leaves_the_model(tiny_tokenizer, teacher):
    model = pruned(teacher)
    before = weights(model)
    with pytest.raises(LoraError, match="ends with 'qery'"):
        recover(
            model,
            toy_data(),
            tiny_tokenizer,
            settings(lora_rank=2, lora_target_modules=("qery",)),
            teacher=teacher,
        )
    assert list(weights(model)) == list(before)


def test_all_faults_of_the_settings_are_named_at_once():
    with pytest.raises(RecoveryError) as caught:
        RecoverSettings(temperature=0, label_weight=2, hidden_weight=-1, selection_fraction=0.9, steps_per_site=3)
    for name in ("temperature", "label_weight", "hidden_weight", "selection_fraction", "steps_per_site"):
        assert name in str(caught.value)


def test_defaults_are_said_once():
    known = {knob.name: knob.default for knob in dataclasses.fields(RecoverOptions)}
    defaults = RecoverSettings()
    for knob in dataclasses.fields(RecoverSettings):
        if knob.name != "training":
            assert getattr(defaults, knob.name) == known[knob.name], knob.name
    for knob in dataclasses.fields(TrainSettings):
        if knob.name in known:
            assert getattr(defaults.training, knob.name) == known[knob.name], knob.name
    options = dataclasses.make_dataclass(
        "All", [("max_seq_length", int), ("seed", int)], bases=(RecoverOptions,), frozen=True, kw_only=True
    )
    assert RecoverSettings.from_options(options(max_seq_length=128, seed=42)) == defaults


def test_another_recoverys_state_is_refused(tiny_tokenizer, teacher, tmp_path):
    def run(teacher, **given):
        knobs = settings({"max_steps": 2}, **given)
        return recover(pruned(teacher), toy_data(), tiny_tokenizer, knobs, teacher=teacher, state_dir=tmp_path)

    run(teacher)
    with pytest.raises(ResumeError, match=r"temperature was 2.0 and is now 3.0; continue"):
        run(teacher, temperature=3.0)
    with pytest.raises(ResumeError, match=r"initial weights was .* teacher was"):
        run(make_tiny_bert())
