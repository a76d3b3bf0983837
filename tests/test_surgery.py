"""The laws of surgery, on every family: leaving is bit-exact, bypass equals drop, outputs keep their lengths."""

import copy
import pickle

import pytest
import torch
from families import FAMILIES, UNKNOWN, batch, build, logits
from torch import nn

from prune_bert import PruningPlan, bypass, drop
from prune_bert.architectures import ArchitectureError
from prune_bert.stand_ins import Identity
from prune_bert.surgery import SurgeryError, pruning_record

PLANS = [
    "layer:1",
    "layer:0,3",
    "attention:1",
    "ffn:2",
    "attention:1 norm=skip",
    "ffn:1 norm=skip",
    "layer:0 attention:2 ffn:3",
    "attention:0-3 ffn:0-3",
]


def layers_of(model):
    base = model.base_model
    return base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", PLANS)
def test_bypass_equals_drop_and_leaves_no_trace(family, text):
    model, plan = build(family), PruningPlan.parse(text)
    before = logits(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with bypass(model, plan) as bypassed:
        assert bypassed is model
        under = logits(model)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not torch.equal(under, before)
    drop(model, plan)
    assert torch.equal(logits(model), under)
    assert model.config.num_hidden_layers == 4 - len(plan.layers())


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_dropped_equal_a_model_built_without_them(family):
    model = build(family)
    native = build(family, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 2})
    renumbered = {}
    for name, value in model.state_dict().items():
        for old, new in ((0, 0), (2, 1)):
            if f"layer.{old}." in name:
                renumbered[name.replace(f"layer.{old}.", f"layer.{new}.")] = value
        if "layer." not in name:
            renumbered[name] = value
    native.load_state_dict(renumbered)
    drop(model, PruningPlan.parse("layer:1,3"))
    assert torch.equal(logits(model), logits(native))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_ffn_skipped_are_the_layer(family):
    model = build(family)
    with bypass(model, PruningPlan.parse("attention:2 ffn:2 norm=skip")):
        sublayers = logits(model)
    with bypass(model, PruningPlan.parse("layer:2")):
        assert torch.equal(logits(model), sublayers)
    drop(model, PruningPlan.parse("attention:2 ffn:2 norm=skip"))
    assert model.config.num_hidden_layers == 3
    assert torch.equal(logits(model), sublayers)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "deberta-v2"])
def test_keep_is_the_layer_norm_of_the_input(family):
    model = build(family)
    norm = layers_of(model)[1].output.LayerNorm
    seen = {}
    with bypass(model, PruningPlan.parse("ffn:1")):
        hook = layers_of(model)[1].output.register_forward_hook(lambda m, args, out: seen.update(x=args[1], y=out))
        logits(model)
        hook.remove()
    assert torch.equal(seen["y"], norm(seen["x"]))


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
@pytest.mark.parametrize("text", ["layer:1", "layer:0,3"])
def test_captured_outputs_keep_their_documented_lengths(family, text):
    model, plan = build(family), PruningPlan.parse(text)
    with torch.no_grad(), bypass(model, plan):
        output = model(**batch(), output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == 5
        assert len(output.attentions) == 4
        assert all(weights.shape == (3, 4, 9, 9) for weights in output.attentions)
        assert torch.equal(output.attentions[plan.layers()[-1]], torch.eye(9).expand(3, 4, 9, 9))
    with torch.no_grad():
        after = model(**batch(), output_hidden_states=True, output_attentions=True)
        assert len(after.hidden_states) == 5
        assert len(after.attentions) == 4
        drop(model, plan)
        dropped = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(dropped.hidden_states) == len(dropped.attentions) + 1 == 5 - len(plan)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_sublayers_keep_the_attentions_entry(family):
    model = build(family)
    with torch.no_grad(), bypass(model, PruningPlan.parse("attention:1,2")):
        output = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(output.attentions) == 4
    assert len(output.hidden_states) == 5


def test_capture_works_in_whatever_order_it_is_first_asked_for():
    model, plan = build("bert"), PruningPlan.parse("layer:1 attention:2")
    with torch.no_grad():
        with bypass(model, plan):
            inside = model(**batch(), output_hidden_states=True, output_attentions=True)
        outside = model(**batch(), output_hidden_states=True, output_attentions=True)
        with bypass(model, plan):
            again = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert [len(o.hidden_states) for o in (inside, outside, again)] == [5, 5, 5]
    assert [len(o.attentions) for o in (inside, outside, again)] == [4, 4, 4]


def test_a_hook_registered_under_a_bypass_stays_and_its_removal_too():
    model, calls = build("bert"), []
    with bypass(model, PruningPlan.parse("layer:1")):
        handle = layers_of(model)[1].register_forward_hook(lambda *a: calls.append(1))
        logits(model)
    logits(model)
    handle.remove()
    logits(model)
    assert len(calls) == 2


@pytest.mark.parametrize("family", UNKNOWN)
def test_an_unknown_family_gets_whole_layers(family):
    model, plan = build(family), PruningPlan.parse("layer:1,2")
    before = logits(model)
    with bypass(model, plan):
        under = logits(model)
    assert torch.equal(logits(model), before)
    drop(model, plan)
    assert torch.equal(logits(model), under)
    with pytest.raises(ArchitectureError, match=r"sublayers of 'modernbert' are not known"):
        bypass(model, PruningPlan.parse("ffn:1"))


def test_a_family_without_a_layer_list_is_refused_with_what_was_looked_for():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = AlbertForSequenceClassification(AlbertConfig(vocab_size=100, num_hidden_layers=6, **sizes))
    with pytest.raises(ArchitectureError, match=r"exactly one nn.ModuleList of config.num_hidden_layers = 6"):
        bypass(model, PruningPlan.parse("layer:1"))


def test_an_exception_inside_restores_too():
    model = build("bert")
    before = logits(model)

    def fail():
        with bypass(model, PruningPlan.parse("layer:1 ffn:2")):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(logits(model), before)


def test_an_empty_plan_is_bit_exact():
    model = build("bert")
    before = logits(model)
    with bypass(model, PruningPlan()):
        assert torch.equal(logits(model), before)
    assert drop(model, PruningPlan()) is model
    assert not hasattr(model.config, "prune_bert")


def test_bypasses_nest_and_can_be_entered_again():
    model = build("bert")
    with bypass(model, PruningPlan.parse("layer:1 ffn:2")):
        both = logits(model)
    outer, inner = bypass(model, PruningPlan.parse("layer:1")), bypass(model, PruningPlan.parse("ffn:2"))
    for _ in range(2):
        with outer, inner:
            assert torch.equal(logits(model), both)
    with outer, pytest.raises(SurgeryError, match="in place already"), outer:
        pass
    with bypass(model, PruningPlan.parse("layer:1")), pytest.raises(SurgeryError, match="bypassed already"):
        bypass(model, PruningPlan.parse("ffn:1"))


def test_every_layer_can_be_bypassed_but_not_dropped():
    model = build("bert")
    with bypass(model, PruningPlan.parse("layer:0-3")):
        assert logits(model).shape == (3, 2)
    with pytest.raises(SurgeryError, match="removes all 4 layers"):
        drop(model, PruningPlan.parse("layer:0-3"))


def test_modes_dtypes_and_checkpointing_set_inside_reach_the_originals():
    model = build("bert")
    with bypass(model, PruningPlan.parse("layer:1 attention:2")):
        model.train()
        model.to(torch.float64)
    assert all(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_it_trains_under_gradient_checkpointing_and_runs_under_autocast():
    model = build("bert").train()
    with bypass(model, PruningPlan.parse("layer:1 attention:2 ffn:3")):
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable()
        loss = model(**batch(), labels=torch.tensor([0, 1, 1])).loss
        loss.backward()
    assert layers_of(model)[0].attention.self.query.weight.grad is not None
    assert layers_of(model)[1].attention.self.query.weight.grad is None
    model.eval()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        bypass(model, PruningPlan.parse("layer:1 attention:2 ffn:3")),
    ):
        assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet", "deberta-v2"])
def test_no_graph_break_under_torch_compile(family):
    model = build(family)
    drop(model, PruningPlan.parse("layer:1 attention:1 ffn:2".replace("attention:1", "attention:3")))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(**batch()).logits, logits(model))
    torch._dynamo.reset()


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_stand_ins_pickle_and_deep_copy(family):
    model = build(family)
    drop(model, PruningPlan.parse("layer:1" if family in UNKNOWN else "layer:1 attention:2 ffn:3"))
    with bypass(model, PruningPlan.parse("layer:0")):
        expected = logits(model)
        assert torch.equal(logits(copy.deepcopy(model)), expected)
        copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(copied), expected)
    assert type(layers_of(copied)[0] if family in FAMILIES else copied.model.layers[0]).__name__.startswith("Identity")


def test_each_site_has_its_own_stand_in_without_parameters_but_the_kept_norm():
    model = build("bert")
    with bypass(model, PruningPlan.parse("layer:0,1 ffn:2")):
        first, second, third = layers_of(model)[0], layers_of(model)[1], layers_of(model)[2].output
        assert first is not second
        assert not list(first.parameters())
        assert [name for name, _ in third.named_parameters()] == ["LayerNorm.weight", "LayerNorm.bias"]
        assert isinstance(first, Identity)
        assert isinstance(first, type(layers_of(build("bert"))[0]))
        assert "returns LayerNorm(input_tensor)" in repr(third)
    assert third.LayerNorm is layers_of(model)[2].output.LayerNorm


def test_the_config_remembers_over_several_drops():
    model = build("bert", num_hidden_layers=6)
    drop(model, PruningPlan.parse("layer:1"))
    drop(model, PruningPlan.parse("layer:1 ffn:2"))  # originally layer 2 and ffn 3
    record = pruning_record(model.config)
    assert str(record.plan) == "layer:1-2 ffn:3"
    assert record.original_layer_indices == (0, 3, 4, 5)
    assert str(record.current_stand_ins()) == "ffn:1"
    assert model.config.prune_bert["original_num_hidden_layers"] == 6
    drop(model, PruningPlan.parse("layer:1"))
    assert str(pruning_record(model.config).plan) == "layer:1-3"


def test_a_layer_outside_which_its_index_matters_is_refused_and_nothing_changes():
    model = build("deberta-v2", conv_kernel_size=3)
    before = logits(model)
    with pytest.raises(SurgeryError, match="gives other hidden states than bypassing"):
        drop(model, PruningPlan.parse("layer:0 ffn:1"))
    assert torch.equal(logits(model), before)
    assert model.config.num_hidden_layers == 4
    assert not hasattr(model.config, "prune_bert")
    drop(model, PruningPlan.parse("layer:2"))


def test_mistakes_are_named():
    model = build("bert")
    with pytest.raises(SurgeryError, match=r"layer:7: bert here has 4 layers, numbered 0 to 3"):
        bypass(model, PruningPlan.parse("layer:7"))
    with (
        bypass(model, PruningPlan.parse("layer:1")),
        pytest.raises(SurgeryError, match="bypassed at the moment"),
    ):
        drop(model, PruningPlan.parse("layer:2"))
    with pytest.raises(ArchitectureError, match="wrapped in OptimizedModule"):
        bypass(torch.compile(model), PruningPlan.parse("layer:1"))
    with pytest.raises(ArchitectureError, match="replace_with_identity"):
        bypass(nn.Linear(2, 2), PruningPlan.parse("layer:1"))
    del model.bert.encoder.layer[0]
    with pytest.raises(ArchitectureError, match="a layer was deleted without the config"):
        bypass(model, PruningPlan.parse("layer:1"))
    drop(pruned := build("bert"), PruningPlan.parse("ffn:1"))
    with pytest.raises(SurgeryError, match="pruned already"):
        bypass(pruned, PruningPlan.parse("ffn:1"))


def test_surgery_takes_part_in_ddp():
    model = build("bert")
    drop(model, PruningPlan.parse("layer:1 attention:2"))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model.train())
        wrapped(**batch(), labels=torch.tensor([0, 1, 1])).loss.backward()
        with pytest.raises(ArchitectureError, match="wrapped in DistributedDataParallel"):
            bypass(wrapped, PruningPlan.parse("layer:0"))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bypass_on_a_gpu_in_bf16():
    model = build("bert", attention="sdpa").cuda().bfloat16()
    inputs = {key: value.cuda() for key, value in batch().items()}
    with torch.no_grad(), bypass(model, PruningPlan.parse("layer:1 ffn:2")):
        under = model(**inputs).logits
    drop(model, PruningPlan.parse("layer:1 ffn:2"))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, under)
