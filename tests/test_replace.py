"""``replace_with_identity`` and ``Identity``: the two plain uses that the field starts from, and everything odd."""

import pytest
import torch
from families import batch, build, logits
from torch import nn

from prune_bert import Identity, replace_with_identity
from prune_bert.surgery import SurgeryError


class Residual(nn.Module):
    """Two linear layers, the second beside a shortcut."""

    def __init__(self, width_in=100, width_out=100):
        super().__init__()
        self.first = nn.Linear(100, width_in)
        self.second = nn.Linear(width_in, width_out)
        self.shortcut = Identity()

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.second(hidden) + self.shortcut(hidden)


def test_a_linear_layer_of_a_residual_network_is_removed_without_changing_its_code():
    network, x = Residual(), torch.randn(4, 100)
    removed = replace_with_identity(network, "second")
    assert isinstance(removed, nn.Linear)
    assert torch.equal(network(x), 2 * torch.relu(network.first(x)))
    network.set_submodule("second", removed)
    assert torch.equal(network(x), removed(torch.relu(network.first(x))) + torch.relu(network.first(x)))


def test_a_linear_layer_that_changes_the_width_is_refused_with_both_widths():
    network = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 100))
    with pytest.raises(SurgeryError, match=r"takes a last dimension of 100 and returns one of 200"):
        replace_with_identity(network, "0")
    with pytest.raises(SurgeryError, match=r"shape \(4, 200\), .* shape \(4, 100\) of its input"):
        replace_with_identity(network, "0", example_inputs=torch.randn(4, 100))
    assert isinstance(network[0], nn.Linear)


def test_an_identity_names_a_shortcut_and_takes_whatever_the_caller_passes():
    shortcut, x = Identity(), torch.randn(2, 3)
    assert shortcut(x) is x
    assert shortcut(x, None, mask=torch.ones(2), flag=True) is x
    assert not list(shortcut.parameters())
    assert repr(Residual()).count("(shortcut): Identity(") == 1
    with pytest.raises(TypeError, match="without its argument"):
        shortcut(mask=x)


def test_the_output_of_bert_returns_its_second_argument():
    model = build("bert")
    seen = {}
    replace_with_identity(model, "bert.encoder.layer.1.output")
    model.bert.encoder.layer[1].output.register_forward_hook(lambda m, args, out: seen.update(args=args, out=out))
    logits(model)
    assert seen["out"] is seen["args"][1]


def test_the_self_output_returns_the_residual_although_both_fit():
    model = build("bert")
    replace_with_identity(model, "bert.encoder.layer.1.attention.output")
    assert model.bert.encoder.layer[1].attention.output("dense", "residual") == "residual"
    other = build("bert")
    replace_with_identity(other, "bert.encoder.layer.1.attention.output", argument=0)
    assert other.bert.encoder.layer[1].attention.output("dense", "residual") == "dense"


@pytest.mark.parametrize("name", ["bert.encoder.layer.2", "bert.encoder.layer.2.attention", "bert.encoder"])
def test_any_module_of_a_transformer_runs_on(name):
    model = build("bert")
    before = logits(model)
    replace_with_identity(model, name)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bert.encoder.layer.1.intermediate", r"shape \(\d, \d, 64\).*shape \(\d, \d, 32\)"),
        ("bert.encoder.layr.1", r"no module 'bert.encoder.layr.1'; nearest: bert.encoder.layer.1"),
        ("classifier", r"\(\d, 2\).*\(\d, 32\)"),
        ("bert.embeddings.word_embeddings", "cannot be an identity|cannot stand in"),
    ],
)
def test_what_cannot_stand_in_is_refused(name, says):
    model = build("bert")
    with pytest.raises(SurgeryError, match=says):
        replace_with_identity(model, name)
    assert logits(model).shape == (3, 2)


def test_an_unknown_module_wants_example_inputs():
    class Odd(nn.Module):
        def forward(self, a, b):
            return {"y": a + b, "nothing": None}

    network = nn.Sequential()
    network.add_module("odd", Odd())
    with pytest.raises(SurgeryError, match="pass example_inputs"):
        replace_with_identity(network, "odd")
    odd = nn.ModuleDict({"odd": Odd()})
    odd.forward = lambda a, b: odd["odd"](a, b=b)
    replace_with_identity(odd, "odd", example_inputs=(torch.ones(2), torch.ones(2)))
    assert odd["odd"](torch.zeros(2), b=None)["y"].tolist() == [0, 0]


def test_recurrent_state_cannot_be_imitated():
    with pytest.raises(SurgeryError, match="returns tuple"):
        replace_with_identity(nn.Sequential(nn.LSTM(4, 4)), "0", example_inputs=torch.ones(2, 3, 4))


def test_torch_layers_are_not_imitated_by_class():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    replace_with_identity(network, "0")
    assert not isinstance(network[0], nn.Linear)  # who looks for linear layers looks for a weight
    assert [type(m).__name__ for m in network] == ["Identity", "Linear"]


def test_the_forward_of_the_model_is_called_with_keywords():
    model = build("bert")
    replace_with_identity(model, "bert.encoder.layer.0", example_inputs=batch())
    assert logits(model).shape == (3, 2)
