"""What an item of a module's output is, is known from the code, never from a shape; what is not known is refused."""

import pytest
import torch
from families import FAMILIES, UNKNOWN, build
from odd_families import build_odd, long_batch, output_of, skipping_by_hand
from torch import nn

from prune_bert import PruningPlan, bypass, drop, replace_with_identity
from prune_bert.architectures import find_encoder
from prune_bert.surgery import SurgeryError


class Undeclared(nn.Module):
    """Returns a square tensor beside the hidden states, and nothing says what it is."""

    def forward(self, hidden_states, bias=None):
        square = hidden_states.new_zeros(len(hidden_states), 2, hidden_states.shape[1], hidden_states.shape[1])
        return hidden_states * 2, square


class Named(Undeclared):
    """The same tensor under the name of attention weights."""

    def forward(self, hidden_states, bias=None):
        hidden_states, attn_weights = super().forward(hidden_states)
        return hidden_states, attn_weights


class Wrapping(nn.Module):
    """Passes on what a declared module returned."""

    def __init__(self):
        super().__init__()
        self.inner = Named()

    def forward(self, hidden_states, bias=None):
        outputs = self.inner(hidden_states)
        return (outputs[0], *outputs[1:])


class Passing(nn.Module):
    """Passes on a bias that it was given."""

    def forward(self, hidden_states, bias=None):
        return hidden_states * 2, bias


class Flagged(Undeclared):
    """Returns it only where it is asked for."""

    def forward(self, hidden_states, bias=None, output_attentions=False):
        outputs = super().forward(hidden_states)
        return outputs if output_attentions else outputs[:1]


class Network(nn.Module):
    """Calls one of these with hidden states and a square bias."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, bias):
        return self.layer(x, bias=bias)


def replaced(layer):
    network = Network(layer)
    x, bias = torch.randn(2, 3, 4), torch.randn(1, 2, 3, 3)
    replace_with_identity(network, "layer", example_inputs=(x, bias))
    outputs = network(x, bias)
    assert outputs[0] is x
    return outputs, bias


def test_an_undeclared_square_tensor_is_refused_with_its_place():
    with pytest.raises(
        SurgeryError, match=r"'layer' \(Undeclared\) returns a tensor of shape \(2, 2, 3, 3\) as item 1"
    ):
        replaced(Undeclared())


@pytest.mark.parametrize("layer", [Named, Wrapping])
def test_a_tensor_that_the_code_names_is_attention_weights_wherever_it_is_passed_on(layer):
    outputs, _ = replaced(layer())
    assert torch.equal(outputs[1], torch.eye(3).expand(2, 2, 3, 3))


def test_an_argument_that_is_returned_is_passed_on():
    outputs, bias = replaced(Passing())
    assert outputs[1] is bias


def test_what_a_flag_asks_for_is_not_in_the_ordinary_form():
    outputs, _ = replaced(Flagged())
    assert len(outputs) == 1


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_position_bias_of_t5_is_passed_on(layer):
    model, plan = build_odd("t5"), PruningPlan.parse(f"layer:{layer}")
    expected = skipping_by_hand(model, model.encoder.block[layer])
    with bypass(model, plan):
        assert torch.equal(output_of(model), expected)
    drop(model, plan)
    assert torch.equal(output_of(model), expected)
    assert model.config.num_layers == 3


def test_the_block_of_t5_that_computes_the_bias_is_refused():
    model = build_odd("t5")
    with pytest.raises(SurgeryError, match=r"layer:0 \(T5Block .*as item 1 .*not known what that is"):
        bypass(model, PruningPlan.parse("layer:0"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_families_of_the_table_equal_skipping_by_hand_also_where_a_config_asks_for_weights(family, attention):
    model = build(family, attention, max_position_embeddings=96)
    layer = find_encoder(model).layers[1]
    with bypass(model, PruningPlan.parse("layer:1")):
        under = output_of(model)
    assert torch.equal(under, skipping_by_hand(model, layer))


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_a_config_that_asks_for_attention_weights_changes_nothing(family):
    model = build(family, output_attentions=True, max_position_embeddings=96)
    with torch.no_grad(), bypass(model, PruningPlan.parse("layer:1")):
        output = model(**long_batch(20))
    assert torch.equal(output.attentions[1], torch.eye(20).expand(2, 4, 20, 20))
    plain = build(family, max_position_embeddings=96)
    with torch.no_grad(), bypass(plain, PruningPlan.parse("layer:1")):
        assert torch.equal(plain(**long_batch(20)).logits, output.logits)


@pytest.mark.parametrize("family", ["roformer", "megatron-bert", "rembert", "deberta", "llama", "gpt2", "esm"])
def test_families_outside_the_table_equal_skipping_by_hand(family):
    model = build_odd(family)
    layer = find_encoder(model).layers[1]
    with bypass(model, PruningPlan.parse("layer:1")):
        under = output_of(model)
    assert torch.equal(under, skipping_by_hand(model, layer))
