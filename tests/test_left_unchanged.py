"""Probing, bypassing and refusing leave a model bit-equal: modules, attributes, config, hooks, tensors."""

import copy

import pytest
import torch
from families import FAMILIES, UNKNOWN, build
from model_state import changes, random_state, state_of
from odd_families import ODD, build_odd, long_batch, output_of, skipping_by_hand
from torch import nn

from prune_bert import PruningPlan, bypass, drop, load_pruned, replace_with_identity, save_pruned
from prune_bert.errors import UserError
from prune_bert.evaluation import EvaluationError
from prune_bert.evaluation.plan_forward import plan_forward
from prune_bert.evaluation.plan_tree import plan_tree
from prune_bert.surgery import check_droppable
from prune_bert.surgery.snapshot import ModelChangedError, Snapshot, left_unchanged

ALL = [*FAMILIES, *UNKNOWN, *ODD]


def build_any(family, **overrides):
    if family in ODD:
        return build_odd(family, **overrides)
    return build(family, max_position_embeddings=96, **overrides)


@pytest.mark.parametrize("family", ALL)
def test_a_bypass_entered_and_left_or_refused_leaves_the_model_bit_equal(family):
    model = build_any(family)
    expected = output_of(model)
    model.train()
    before, randomness = state_of(model), random_state()
    for text in ("layer:1", "layer:0,3", "attention:1 ffn:2", "ffn:1 norm=skip", "layer:9"):
        refused = ""
        try:
            with bypass(model, PruningPlan.parse(text)):
                pass
        except UserError as error:
            refused = str(error)
        assert "\n" not in refused
        assert len(refused) < 500
        assert not changes(before, state_of(model)), text
        assert random_state() == randomness
    model.eval()
    assert torch.equal(output_of(model), expected)


@pytest.mark.parametrize("family", ["big_bird", "bert", "modernbert"])
def test_checks_and_refused_drops_leave_the_model_bit_equal(family):
    model = build_any(family)
    before, randomness = state_of(model), random_state()
    check_droppable(model, PruningPlan.parse("layer:1"))
    with pytest.raises(UserError):
        drop(model, PruningPlan.parse("layer:0-3"))
    with pytest.raises(UserError):
        replace_with_identity(model, "classifier")
    assert not changes(before, state_of(model))
    assert random_state() == randomness


def test_evaluating_plans_leaves_the_model_bit_equal_and_bigbird_is_refused():
    model = build("modernbert")
    before = state_of(model)
    with (
        torch.inference_mode(),
        plan_forward(model, plan_tree([PruningPlan(), PruningPlan.parse("layer:1")], 4)) as run,
    ):
        assert run(long_batch()).shape == (2, 2, 2)
    assert not changes(before, state_of(model))
    model = build_odd("big_bird")
    before = state_of(model)
    with (
        pytest.raises(EvaluationError, match="switches the attention of its layers"),
        plan_forward(model, plan_tree([PruningPlan.parse("layer:1")], 4)),
    ):
        pass
    assert not changes(before, state_of(model))


@pytest.mark.parametrize("attention", ["block_sparse", "original_full"])
@pytest.mark.parametrize("length", [64, 12])
def test_bigbird_is_bypassed_in_its_own_mode(attention, length):
    model = build_odd("big_bird", attention_type=attention)
    with bypass(model, PruningPlan.parse("layer:1")):
        under = output_of(model, length)
    twin = build_odd("big_bird", attention_type=attention)
    assert torch.equal(under, skipping_by_hand(twin, twin.bert.encoder.layer[1], length))
    # Short inputs switch the model to full attention, as they do without a bypass: the layer that was out, too.
    kinds = {layer.attention_type for layer in model.bert.encoder.layer}
    assert kinds == {twin.bert.encoder.layer[0].attention_type}
    assert torch.equal(output_of(model, length), output_of(twin, length))
    assert not model.bert.encoder.layer[1].attention.self.training


@pytest.mark.parametrize("format", ["portable", "compact"])
def test_a_dropped_bigbird_reloads_equal_in_its_own_mode(format, tmp_path):
    model = build_odd("big_bird")
    drop(model, PruningPlan.parse("layer:1"))
    save_pruned(model, tmp_path / "model", format=format)
    assert model.bert.attention_type == "block_sparse"
    assert torch.equal(output_of(load_pruned(tmp_path / "model").eval()), output_of(model))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_deep_copy_of_a_bypassed_model_is_bypassed_too(family):
    model = build_any(family)
    with bypass(model, PruningPlan.parse("layer:1")):
        copied = copy.deepcopy(model)
        assert torch.equal(output_of(copied), output_of(model))
    with pytest.raises(UserError, match="bypassed at the moment"):
        drop(copied, PruningPlan.parse("layer:2"))


class Restless(nn.Module):
    """Changes in a forward whatever a module can change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(2))
        self.register_buffer("flag", torch.tensor(True))
        self.inner = nn.Linear(3, 3)
        self.settings = {"nested": [1, {"mode": "a"}], "names": {"one"}}
        self.plain = torch.ones(3)

    def forward(self, x):
        self.steps += 1
        self.flag = torch.tensor(False)
        self.plain.mul_(2)
        self.settings["nested"][1]["mode"] = "b"
        self.settings["names"].add("two")
        self.inner, self.added = nn.Linear(3, 3), nn.Linear(2, 2)
        self.register_forward_hook(lambda *given: None)
        del self.settings["nested"][0]
        return x + self.inner(x)


def test_whatever_a_forward_changes_is_put_back():
    model = nn.Sequential(Restless(), nn.Linear(3, 3))
    before = state_of(model)
    with left_unchanged(model):
        model(torch.ones(1, 3))
        model.train(False)
        model.double()
    assert not changes(before, state_of(model))
    replace_with_identity(model, "1", example_inputs=torch.ones(1, 3))
    assert not [name for name in changes(before, state_of(model)) if name.startswith("0")]


def test_weights_that_a_forward_overwrites_are_an_error():
    embedding = nn.Embedding(4, 3, max_norm=1e-3)
    with pytest.raises(ModelChangedError, match=r"overwrites 1 of its own weights .* shape \(4, 3\)"):
        replace_with_identity(nn.Sequential(embedding, nn.Linear(3, 3)), "1", example_inputs=torch.tensor([1]))


def test_buffers_with_nan_and_inference_tensors_are_put_back():
    model = nn.Module()
    model.register_buffer("nan", torch.tensor([float("nan"), 1.0]))
    with torch.inference_mode():
        model.register_buffer("inference", torch.ones(2))
        before = Snapshot(model)
        model.inference += 1
        model.nan[1] = 2
        before.restore()
    assert model.inference.tolist() == [1, 1]
    assert model.nan[1] == 1


def test_a_shallow_snapshot_does_not_look_inside():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    before = Snapshot(model, deep=False)
    inner, outer = nn.Linear(2, 2), model[0]
    model[0][0], model[0] = inner, nn.Identity()
    before.restore()
    assert model[0] is outer
    assert outer[0] is inner
