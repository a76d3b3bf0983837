"""A mutation of any tensor, key or config value of a pruned checkpoint is refused in one line, or changes no logit."""

import copy
import json
import shutil

import pytest
import torch
from families import batch, build, logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from prune_bert import PruningPlan, Site, drop, load_model, load_pruned, save_pruned
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.errors import UserError

EAGER = {"attn_implementation": "eager"}
GONE = object()

# Whole layers; sublayers as zeros; a corrected FFN; and a corrected layer with a norm rule of no portable form.
FORMS = {
    "layers": ("roberta", "layer:1,2", {}),
    "zeros": ("bert", "layer:0 attention:1 ffn:2", {}),
    "neurons": ("bert", "ffn:1 attention:3", {Site(1, "ffn"): CorrectionSpec(2, neurons=3)}),
    "compact": ("bert", "layer:1 attention:2 norm=skip", {Site(1): CorrectionSpec(None, "after", neurons=2)}),
}


def pruned(form):
    family, text, specs = FORMS[form]
    torch.manual_seed(5)
    corrections = {site: FittedSite(Correction(32, spec)) for site, spec in specs.items()}
    for fitted in corrections.values():
        nn.init.normal_(fitted.correction.bias, std=0.3)
    return drop(build(family), PruningPlan.parse(text), corrections)


@pytest.fixture(scope="module", params=FORMS)
def saved(request, tmp_path_factory, tiny_tokenizer):
    """A pruned checkpoint and its logits."""
    directory = tmp_path_factory.mktemp("saved") / request.param
    model = pruned(request.param)
    save_pruned(model, directory, format="compact" if request.param == "compact" else "portable")
    return directory, logits(model)


@pytest.fixture
def mutant(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "mutant")


def weights_of(directory):
    (file,) = directory.glob("*.safetensors")
    return file


def holds(directory, expected, what):
    """The law. The error must be the user's, and a line."""
    try:
        model, said = load_pruned(directory, **EAGER), ""
    except UserError as error:
        said = str(error)
    if said:
        assert 20 < len(said) < 700, what
        assert "\n" not in said, what
        return "refused"
    with torch.no_grad():
        found = model(**batch(), return_dict=True).logits
    assert torch.allclose(found, expected, atol=1e-6), what
    return "equal"


TENSOR_MUTATIONS = {
    "deleted": lambda name, tensor: {},
    "renamed": lambda name, tensor: {f"{name}_": tensor},
    "flattened": lambda name, tensor: {name: tensor.flatten().unsqueeze(0)},
    "truncated": lambda name, tensor: {name: tensor[:-1].contiguous()},
    "lengthened": lambda name, tensor: {name: torch.cat((tensor, tensor[:1]))},
    "joined by another": lambda name, tensor: {name: tensor, f"{name}.more": tensor.clone()},
    "halved": lambda name, tensor: {name: tensor.half()},
    "doubled": lambda name, tensor: {name: tensor.double()},
    "made whole": lambda name, tensor: {name: tensor.long()},
}


@pytest.mark.parametrize("way", TENSOR_MUTATIONS)
def test_every_tensor(saved, mutant, way):
    """Each way takes a ninth of the tensors, so that all of them are taken."""
    file = weights_of(mutant)
    tensors = load_file(file)
    seen = set()
    for name in sorted(tensors)[list(TENSOR_MUTATIONS).index(way) :: len(TENSOR_MUTATIONS)]:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(rest | TENSOR_MUTATIONS[way](name, tensors[name]), file, metadata={"format": "pt"})
        seen.add(holds(mutant, saved[1], f"{name} {way}"))
    if way not in ("halved", "doubled"):
        assert seen == {"refused"}


@pytest.mark.parametrize("form", ["zeros", "neurons"])
def test_values_of_dead_weights(form, tmp_path):
    """Where a sublayer was removed, a value that is not zero is refused, or it is a last bias, which counts."""
    save_pruned(pruned(form), tmp_path / "out")
    model = load_pruned(tmp_path / "out", **EAGER)
    file = weights_of(tmp_path / "out")
    tensors = load_file(file)
    for name in sorted(tensors.keys() - model.state_dict().keys()):
        values = tensors[name].clone().flatten()
        values[-1] = 0.5
        save_file(tensors | {name: values.reshape(tensors[name].shape)}, file, metadata={"format": "pt"})
        plain = logits(type(model).from_pretrained(tmp_path / "out", **EAGER))
        outcome = holds(tmp_path / "out", plain, name)
        assert outcome == ("equal" if name.endswith(".output.dense.bias") else "refused"), name


def test_every_byte_range_of_the_weights(saved, mutant):
    file = weights_of(mutant)
    content = file.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        assert holds(mutant, saved[1], f"cut to {size}") == "refused"
    for head in (b"\x00" * 8, b"\xff" * 8, b"\x01" + b"\x00" * 7):
        file.write_bytes(head + content[8:])
        assert holds(mutant, saved[1], f"length {head!r}") == "refused"
    for old, new in ((b'"F32"', b'"F64"'), (b'"F32"', b'"I32"'), (b'"shape"', b'"shapo"'), (b"[32]", b"[33]")):
        file.write_bytes(content.replace(old, new, 1))
        holds(mutant, saved[1], f"{old!r} {new!r}")
    file.write_bytes(content + b"more")
    assert holds(mutant, saved[1], "lengthened") == "refused"
    file.unlink()
    assert holds(mutant, saved[1], "gone") == "refused"


def variants(value):
    """What a value may be turned into: another type, off by one, empty, absurd, gone."""
    found = [GONE, None, "x", [], {}, -1, 0, 1.5, True]
    if isinstance(value, bool):
        found.append(not value)
    elif isinstance(value, int):
        found += [value + 1, value - 1, -value, str(value), float(value)]
    elif isinstance(value, float):
        found += [value * 2, str(value)]
    elif isinstance(value, str):
        found += [value + "x", value.upper(), value.replace("1", "3"), "77", "relu", "layer:77", "norm=skip"]
    elif isinstance(value, list):
        found += [value[:-1], [*value, 3], list(reversed(value)), [[x] for x in value]]
    return [one for one in found if type(one) is not type(value) or one != value]


def paths(data, prefix=()):
    """Every key of a JSON value, at every depth, as a path."""
    for key, value in data.items() if isinstance(data, dict) else ():
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def changed(config, path, value):
    """A copy of a config with another value at a path."""
    config = copy.deepcopy(config)
    place = config
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return config


def with_config(mutant, config):
    (mutant / "config.json").write_text(json.dumps(config))


def value_at(config, path):
    for key in path:
        config = config[key]
    return config


def test_every_config_value_and_every_value_of_the_record(saved, mutant):
    """Each key once with some of its variants, in turn; hypothesis draws from all of them below."""
    config = json.loads((saved[0] / "config.json").read_text())
    for number, path in enumerate(paths(config)):
        options = variants(value_at(config, path))
        for one in {0, number % len(options)}:  # without it, and with one of its variants
            with_config(mutant, changed(config, path, options[one]))
            holds(mutant, saved[1], f"{path} {options[one]!r}")


@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_two_config_values_at_once(saved, mutant, data):
    config = json.loads((saved[0] / "config.json").read_text())
    said = []
    for _ in range(2):
        path = data.draw(st.sampled_from(sorted(paths(config))))
        value = data.draw(st.sampled_from(variants(value_at(config, path))))
        config = changed(config, path, value)
        said.append((path, value))
    with_config(mutant, config)
    holds(mutant, saved[1], said)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("layer_norm_eps",), 0.1, r"layer_norm_eps 0\.1, and the checkpoint was saved with 1e-12.*set layer_norm_eps"),
        (("hidden_act",), "relu", "hidden_act 'relu'"),
        (("num_attention_heads",), 2, "num_attention_heads 2"),
        (("num_hidden_layers",), 0, "num_hidden_layers 0, and its record of pruning leaves 3 of 4"),
        (("num_hidden_layers",), -1, "num_hidden_layers -1"),
        (("num_hidden_layers",), 4, "num_hidden_layers 4"),
        (("num_hidden_layers",), 10**9, "num_hidden_layers 1000000000"),
        (("prune_bert",), [], "damaged: it is list, not a mapping"),
        (("prune_bert", "plan"), "layer:77", "damaged: it removes layer:77 from a model of 4 layers, numbered 0 to 3"),
        (("prune_bert", "plan"), "layer:0-3", "removes all 4 layers"),
        (("prune_bert", "plan"), "lyer:0", "unknown component 'lyer'"),
        (("prune_bert", "original_num_hidden_layers"), -4, "original_num_hidden_layers is -4"),
        (("prune_bert", "original_num_hidden_layers"), True, "original_num_hidden_layers is True"),
        (("prune_bert", "original_layer_indices"), [1, 2, 4], r"original_layer_indices is \[1, 2, 4\]"),
        (("prune_bert", "corrections"), {"ffn:3": {"rank": 1}}, "correction for ffn:3, which its plan"),
        (("prune_bert", "corrections"), {"ffn:2": {"rank": -1}}, "damaged"),
        (("prune_bert", "corrections"), {"ffn:2": {"rank": 99}}, "edited after it was saved"),
        (("prune_bert", "checksum"), "0" * 16, "edited after it was saved"),
    ],
)
def test_what_is_said_of_an_edited_value(tmp_path, path, value, says, tiny_tokenizer):
    save_pruned(pruned("zeros"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    with_config(tmp_path / "out", changed(config, path, value))
    with pytest.raises(UserError, match=says):
        load_pruned(tmp_path / "out")


def test_a_checkpoint_of_an_earlier_version_has_no_seal_and_loads(saved, mutant):
    config = json.loads((saved[0] / "config.json").read_text())
    for key in ("config", "checksum"):
        del config["prune_bert"][key]
    with_config(mutant, config)
    assert holds(mutant, saved[1], "unsealed") == "equal"


def test_what_fine_tuning_changes_is_no_edit(tmp_path):
    """Labels, dropout and the vocabulary may change after the pruning, in plain transformers."""
    from transformers import AutoModelForSequenceClassification

    save_pruned(pruned("zeros"), tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", num_labels=5, ignore_mismatched_sizes=True, hidden_dropout_prob=0.3, **EAGER
    )
    plain.resize_token_embeddings(107)
    plain.save_pretrained(tmp_path / "tuned")
    assert torch.equal(logits(load_pruned(tmp_path / "tuned", **EAGER)), logits(plain))


class TestLoadModel:
    """The same guard where a model is loaded with its tokenizer."""

    @pytest.fixture
    def checkpoint(self, tmp_path, tiny_bert, tiny_tokenizer):
        drop(tiny_bert, PruningPlan.parse("layer:0 ffn:2"))
        return save_pruned(tiny_bert, tmp_path / "out", tiny_tokenizer)

    def test_a_pruned_checkpoint_without_its_head_is_refused_or_gets_a_new_one(self, checkpoint):
        file = weights_of(checkpoint)
        save_file({k: t for k, t in load_file(file).items() if "classifier" not in k}, file, metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"no trained classification head \(classifier\.bias"):
            load_model(str(checkpoint))
        model = load_model(str(checkpoint), new_head=("a", "b", "c")).model
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert sum("output.dense" in name for name, _ in model.named_parameters()) == 10

    @pytest.mark.parametrize("form", ["portable", "compact"])
    def test_a_new_head_stands_on_the_pruned_encoder(self, checkpoint, tmp_path, form, tiny_tokenizer):
        model = load_pruned(checkpoint)
        save_pruned(model, tmp_path / form, tiny_tokenizer, format=form)
        again = load_model(str(tmp_path / form), new_head=("a", "b", "c")).model
        assert again.classifier.out_features == 3
        with torch.no_grad():
            ids = torch.arange(6, 14).unsqueeze(0)
            assert torch.equal(again.bert(ids)[0], model.bert(ids)[0])

    @pytest.mark.parametrize("depth", [0, -1, 2, 6, "4", 4.0, None, 10**9])
    def test_a_depth_that_is_not_the_weights(self, tmp_path, tiny_checkpoint, depth):
        plain = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
        with_config(plain, json.loads((plain / "config.json").read_text()) | {"num_hidden_layers": depth})
        with pytest.raises(UserError, match=f"num_hidden_layers '?{depth}") as caught:
            load_model(str(plain))
        assert "\n" not in str(caught.value)

    def test_a_weight_without_a_place_is_refused_in_the_encoder_and_noted_outside(self, tmp_path, tiny_checkpoint):
        plain = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
        tensors = load_file(weights_of(plain))
        save_file(tensors | {"cls.extra": torch.zeros(3)}, weights_of(plain), metadata={"format": "pt"})
        assert "no use for (cls.extra)" in load_model(str(plain)).notes[0]
        extra = {"bert.encoder.layer.1.extra": torch.zeros(3)}
        save_file(tensors | extra, weights_of(plain), metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"without a place in the model \(bert\.encoder\.layer\.1\.extra\)"):
            load_model(str(plain))

    def test_position_ids_of_old_checkpoints_are_no_matter(self, tmp_path, tiny_checkpoint):
        plain = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
        extra = {"bert.embeddings.position_ids": torch.arange(64).unsqueeze(0)}
        save_file(load_file(weights_of(plain)) | extra, weights_of(plain), metadata={"format": "pt"})
        assert load_model(str(plain)).notes == ()
