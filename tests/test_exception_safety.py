"""An exception anywhere inside an operation on a model leaves the model as it was.

The exception is raised at the n-th call of a function of the package, or at the n-th call of a module of the model.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import make_tiny_bert
from families import FAMILIES, UNKNOWN, batch, build
from model_state import changes, state_of
from odd_families import build_odd, long_batch
from test_evaluation import make_data
from torch import nn

from prune_bert import PruningPlan, bypass, compensate, drop, evaluate_plans, replace_with_identity
from prune_bert.evaluation import encode
from prune_bert.evaluation.plan_forward import plan_forward
from prune_bert.evaluation.plan_tree import plan_tree
from prune_bert.surgery import SurgeryError, install_stand_ins

# What puts a model back cannot fail safely itself.
RESTORING = {"_pass_on_state"}


class Fault(BaseException):
    """Such as a KeyboardInterrupt: nothing handles it."""


@contextmanager
def failing_at_call(number: int, *packages: str) -> Iterator[list[int]]:
    """Raise a Fault instead of the n-th call of a function of some modules of the package; yields the count."""
    count = [0]

    def wrapped(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == number:
                raise Fault(f"{function.__module__} {function.__name__}")
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in [module for name, module in sys.modules.items() if name.startswith(packages)]:
            for name, value in list(vars(module).items()):
                if isinstance(value, types.FunctionType) and _may_fail(value):
                    patch.setattr(module, name, wrapped(value))
        yield count


def _may_fail(function: types.FunctionType) -> bool:
    module = function.__module__
    ours = module.startswith("prune_bert.") and module != "prune_bert.surgery.snapshot"
    return ours and function.__name__ not in RESTORING and not hasattr(function, "__wrapped__")


@contextmanager
def failing_at_module(number: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Raise an error before the n-th call of any module; yields the count."""
    count = [0]

    def before(module, args):
        count[0] += 1
        if count[0] == number:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield count
    finally:
        handle.remove()


def check_every_failure(
    make: Callable[[], nn.Module], operation: Callable[[nn.Module], object], failing: Callable, points: int
) -> None:
    """Fail an operation at points spread over its whole length, its first and last calls among them."""
    operation(make())  # what is remembered from call to call is known by then
    with failing(0) as count:
        operation(make())
    total = count[0]
    chosen = {1, 2, 3, total - 2, total - 1, total} | {round(1 + i * (total - 1) / points) for i in range(points)}
    model = make()
    before = state_of(model)
    for number in sorted(number for number in chosen if 0 < number <= total):
        with pytest.raises((Fault, torch.cuda.OutOfMemoryError)), failing(number):
            operation(model)
        assert not changes(before, state_of(model)), f"call {number} of {total}"
    operation(model)  # and it works still


def surgery_fault(number: int):
    return failing_at_call(number, "prune_bert.surgery", "prune_bert.stand_ins", "prune_bert.architectures")


def memory_fault(number: int):
    return failing_at_module(number, torch.cuda.OutOfMemoryError)


def entered(plan):
    def operation(model):
        with bypass(model, PruningPlan.parse(plan)):
            pass

    return operation


def dropped(plan):
    return lambda model: drop(model, PruningPlan.parse(plan))


SUBLAYERS = "layer:1 attention:2 ffn:3"
MODELS = {
    **{family: (lambda family=family: build(family), SUBLAYERS) for family in FAMILIES},
    **{family: (lambda family=family: build(family), "layer:1,2") for family in UNKNOWN},
    **{family: (lambda family=family: build_odd(family), "layer:1,2") for family in ("big_bird", "gpt2", "t5")},
}


@pytest.mark.parametrize("family", MODELS)
def test_a_drop_that_fails_at_any_call_leaves_the_model_as_it_was(family):
    make, plan = MODELS[family]
    check_every_failure(make, dropped(plan), surgery_fault, points=30 if family == "bert" else 6)


@pytest.mark.parametrize("family", MODELS)
def test_a_drop_that_runs_out_of_memory_leaves_the_model_as_it_was(family):
    make, plan = MODELS[family]
    check_every_failure(make, dropped(plan), memory_fault, points=4)


@pytest.mark.parametrize("family", MODELS)
def test_a_bypass_that_fails_at_any_call_leaves_the_model_as_it_was(family):
    make, plan = MODELS[family]
    check_every_failure(make, entered(plan), surgery_fault, points=30 if family == "bert" else 6)


@pytest.mark.parametrize("plan", [SUBLAYERS, "layer:0", "attention:0-3 norm=skip"])
def test_entering_a_bypass_fails_whole_and_can_be_tried_again(plan, monkeypatch):
    model = build("bert")
    one, before = bypass(model, PruningPlan.parse(plan)), state_of(model)
    with failing_at_call(0, "prune_bert.surgery") as count, one:
        pass
    for number in range(1, count[0] + 1):
        with pytest.raises(Fault), failing_at_call(number, "prune_bert.surgery"), one:
            pass
        assert not changes(before, state_of(model)), number
    with one:
        assert changes(before, state_of(model))
    assert not changes(before, state_of(model))


def test_stand_ins_are_installed_all_or_none():
    def install(model):
        install_stand_ins(model, PruningPlan.parse("attention:0-3 ffn:1"))

    check_every_failure(lambda: build("bert"), install, surgery_fault, points=12)


def test_an_identity_is_put_in_place_or_not():
    def replace(model):
        replace_with_identity(model, "bert.encoder.layer.1.attention.output")

    check_every_failure(lambda: build("bert"), replace, surgery_fault, points=12)


def test_plans_evaluated_together_leave_the_model_as_it_was():
    plans = [PruningPlan.parse(text) for text in ("", "layer:1", "attention:1 ffn:2", "ffn:2 norm=skip", "layer:0-3")]

    @torch.inference_mode()
    def evaluate(model):
        with plan_forward(model, plan_tree(plans, 4)) as forward:
            forward(batch())

    def fault(number):
        return failing_at_call(number, "prune_bert.surgery", "prune_bert.evaluation", "prune_bert.stand_ins")

    check_every_failure(lambda: build("bert"), evaluate, fault, points=6)
    check_every_failure(lambda: build("distilbert"), evaluate, memory_fault, points=10)


def test_evaluate_plans_and_compensate_leave_the_model_as_it_was(tiny_tokenizer):
    plan = PruningPlan.parse("layer:1 ffn:0")
    encoded = encode(tiny_tokenizer, make_data(12), 64)

    def evaluate(model):
        evaluate_plans(model, [PruningPlan(), plan], encoded, batch_size=6)

    def fit(model):
        compensate(model, plan, encoded, batch_size=6)

    for operation in (evaluate, fit):
        check_every_failure(lambda: make_tiny_bert(num_labels=2).eval(), operation, memory_fault, points=6)
    check_every_failure(
        lambda: make_tiny_bert(num_labels=2).eval(),
        fit,
        lambda number: failing_at_call(
            number, "prune_bert.surgery", "prune_bert.compensation", "prune_bert.evaluation"
        ),
        points=8,
    )


def test_setting_the_config_may_fail(monkeypatch):
    model = build("bert")
    before = state_of(model)
    for failing in ("num_hidden_layers", "prune_bert"):
        with monkeypatch.context() as patch:
            original = type(model.config).__setattr__

            def refuse(config, name, value, failing=failing, original=original):
                if name == failing:
                    raise Fault(name)
                original(config, name, value)

            patch.setattr(type(model.config), "__setattr__", refuse)
            with pytest.raises(Fault):
                drop(model, PruningPlan.parse(SUBLAYERS))
        assert not changes(before, state_of(model))


def test_a_model_that_does_not_run_without_the_layer_is_refused_in_one_line():
    model = build("bert")
    encoder = model.bert.encoder

    def forward(hidden_states, *args, **kwargs):
        layers = [encoder.layer[index] for index in range(4)]  # counts on four layers
        return type(encoder).forward(encoder, hidden_states, *args, **kwargs) if layers else None

    encoder.forward = forward
    before = state_of(model)
    with pytest.raises(SurgeryError, match=r"after dropping layer:1, .*IndexError.*nothing was changed") as caught:
        drop(model, PruningPlan.parse("layer:1"))
    assert "\n" not in str(caught.value)
    assert not changes(before, state_of(model))


@pytest.mark.parametrize("layer", range(4))
def test_gpt_neo_is_dropped_right_or_refused_unchanged(layer):
    model, plan = build_odd("gpt_neo"), PruningPlan.parse(f"layer:{layer}")
    before = state_of(model)
    with bypass(model, plan), torch.no_grad():
        expected = model(**long_batch(6)).logits
    try:
        drop(model, plan)
    except SurgeryError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert "\n" not in refused
        assert not changes(before, state_of(model))
        return
    with torch.no_grad():
        assert torch.allclose(model(**long_batch(6)).logits, expected, atol=1e-5)
