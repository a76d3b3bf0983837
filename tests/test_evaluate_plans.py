"""Plans evaluated together: bit-equal to one at a time, each prefix once, memory bounded, the model as before."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
from itertools import accumulate

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import make_tiny_bert
from families import FAMILIES, UNKNOWN, build
from families import batch as family_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_evaluation import make_data
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from prune_bert.evaluation import EvaluationError, count_layer_passes, encode, evaluate, evaluate_plans
from prune_bert.evaluation.plan_forward import _PlanForward, plan_forward
from prune_bert.evaluation.plan_tree import layer_variants, plan_tree
from prune_bert.evaluation.replay import ReplayError, Tape
from prune_bert.plan import PlanError, PruningPlan, Site
from prune_bert.surgery import SurgeryError, bypass, drop

DEPTH = 4
KINDS = ((), ("layer",), ("attention",), ("ffn",), ("attention", "ffn"))


def make_plan(kinds, norm="keep"):
    sites = tuple(Site(layer, component) for layer, kind in enumerate(kinds) for component in kind)
    return PruningPlan(sites, norm)


def random_plans(count, sublayers=True, seed=0):
    choose = random.Random(seed).choice
    kinds = KINDS if sublayers else KINDS[:2]
    plans = [make_plan([choose(kinds) for _ in range(DEPTH)], choose(("keep", "skip"))) for _ in range(count)]
    return [*plans, PruningPlan(), make_plan([("layer",)] * DEPTH)]


def layer_subsets():
    return [make_plan([("layer",) if bits >> i & 1 else () for i in range(DEPTH)]) for bits in range(2**DEPTH)]


kind_lists = st.lists(st.sampled_from(KINDS), min_size=DEPTH, max_size=DEPTH)
plan_lists = st.lists(st.builds(make_plan, kind_lists, st.sampled_from(["keep", "skip"])), max_size=12)


@torch.inference_mode()
def logits_together(model, plans, inputs):
    tree = plan_tree(plans, DEPTH)
    with plan_forward(model, tree) as forward:
        return forward(inputs)[:, list(tree.end_of)].unbind(1)


@torch.inference_mode()
def logits_alone(model, plans, inputs):
    results = []
    for plan in plans:
        with bypass(model, plan):
            results.append(model(**inputs).logits)
    return results


def assert_equal_bits(together, alone):
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def snapshot(model):
    """All that a bypass, a hook or a mode could have left behind."""
    modules = {name: (id(module), module.training) for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    weights = [tensor.clone() for tensor in model.state_dict().values()]
    return modules, hooks, weights


def assert_as_before(model, before):
    modules, hooks, weights = snapshot(model)
    assert (modules, hooks) == before[:2]
    assert all(torch.equal(one, other) for one, other in zip(weights, before[2], strict=True))
    assert torch._C._len_torch_function_stack() == 0


@pytest.fixture
def encoded(tiny_tokenizer):
    return encode(tiny_tokenizer, make_data(11), 64)


# The tree


def count_by_force(plans, depth):
    prefixes, separate = set(), 0
    for plan in plans:
        gone = set(plan.layers())
        norm = plan.norm if plan.sublayers() else "keep"
        for level in range(depth):
            here = frozenset(site for site in plan if site.layer <= level)
            norms = norm if any(site.component != "layer" for site in here) else "keep"
            if level not in gone:
                separate += 1
                prefixes.add((level, here, norms))
    return len(prefixes), separate


@given(plan_lists)
def test_every_distinct_prefix_is_counted_once(plans):
    assert count_layer_passes(plans, DEPTH) == count_by_force(plans, DEPTH)
    assert count_layer_passes(plans[::-1] + plans, DEPTH)[0] == count_layer_passes(plans, DEPTH)[0]


@pytest.mark.parametrize("depth", [1, 6, 12])
def test_all_subsets_cost_what_the_formula_says(depth):
    plans = [PruningPlan(tuple(Site(i) for i in range(depth) if bits >> i & 1)) for bits in range(2**depth)]
    assert count_layer_passes(plans, depth) == (2**depth - 1, depth * 2 ** (depth - 1))
    assert len(plan_tree(plans, depth).ends) == 2**depth


@given(plan_lists)
def test_plans_that_do_the_same_meet_in_one_end(plans):
    tree = plan_tree(plans, DEPTH)
    assert len(tree.ends) == len({layer_variants(plan, DEPTH) for plan in plans})
    for plan, end in zip(plans, tree.end_of, strict=True):
        assert layer_variants(tree.ends[end], DEPTH) == layer_variants(plan, DEPTH)


def test_the_norm_rule_counts_only_where_a_sublayer_goes():
    assert layer_variants(PruningPlan.parse("layer:1 norm=skip"), 2) == layer_variants(PruningPlan.parse("layer:1"), 2)
    keep, skip = (layer_variants(PruningPlan.parse(f"ffn:1 norm={norm}"), 2) for norm in ("keep", "skip"))
    assert keep[0] == skip[0]
    assert keep[1] != skip[1]


def test_a_layer_that_is_not_there_is_named():
    plans = [PruningPlan.parse("layer:1 ffn:4")]
    for call in (lambda: count_layer_passes(plans, 4), lambda: evaluate_plans(make_tiny_bert(), plans, None)):
        with pytest.raises(PlanError, match="ffn:4: the model has 4 layers, numbered 0 to 3"):
            call()


# Bit for bit


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_logits_are_those_of_each_plan_alone(family, attention):
    if attention == "sdpa" and family in ("mpnet", "deberta-v2"):
        pytest.skip("this family has eager attention only")
    try:
        model = build(family, attention)
    except ValueError as error:
        pytest.skip(f"this version of transformers: {str(error)[:60]}")
    plans = random_plans(14, sublayers=family in FAMILIES)
    together = logits_together(model, plans, family_batch())
    assert_equal_bits(together, logits_alone(model, plans, family_batch()))
    different = {tuple(logits.flatten().tolist()) for logits in together}
    assert len(different) > len(plan_tree(plans, DEPTH).ends) / 2  # both sublayers skipped are the layer skipped


# The first of these to run returns what the encoder gave it, which the encoder may use once more itself.
ALIASING_PLANS = ("attention:0 ffn:0 norm=skip", "ffn:0", "ffn:0 layer:2")


@pytest.mark.parametrize(
    ("family", "settings_"),
    [("deberta-v2", {"conv_kernel_size": 3}), ("modernbert", {"classifier_pooling": "mean"})],
)
def test_what_a_family_does_between_and_after_its_layers_is_done(family, settings_):
    model = build(family, **settings_)
    for plans in (layer_subsets(), [PruningPlan.parse(text) for text in ALIASING_PLANS]):
        if family in FAMILIES or not any(plan.sublayers() for plan in plans):
            together = logits_together(model, plans, family_batch())
            assert_equal_bits(together, logits_alone(model, plans, family_batch()))


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "deberta-v2", "modernbert"])
def test_autocast_casts_as_the_model_would(family):
    model = build(family)
    plans = random_plans(8, sublayers=family in FAMILIES, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        together = logits_together(model, plans, family_batch())
        assert_equal_bits(together, logits_alone(model, plans, family_batch()))
    assert {logits.dtype for logits in together} == {torch.bfloat16}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=plan_lists, order=st.randoms(use_true_random=False))
def test_any_list_of_plans_in_any_order(tiny_bert, plans, order):
    if not plans:
        return
    shuffled = plans + plans[:2]
    order.shuffle(shuffled)
    found = dict(zip(shuffled, logits_together(tiny_bert, shuffled, family_batch()), strict=True))
    assert_equal_bits([found[plan] for plan in plans], logits_alone(tiny_bert, plans, family_batch()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_equal_on_a_gpu(dtype):
    model = build("bert", "sdpa").cuda()
    inputs = {name: tensor.cuda() for name, tensor in family_batch().items()}
    plans = random_plans(14)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        assert_equal_bits(logits_together(model, plans, inputs), logits_alone(model, plans, inputs))


# Scores


def test_scores_are_those_of_evaluate_under_bypass(tiny_bert, encoded):
    plans = [*random_plans(5), *random_plans(2)]
    scores = evaluate_plans(tiny_bert, plans, encoded, batch_size=4, n_resamples=100)
    for plan, score in zip(plans, scores, strict=True):
        with bypass(tiny_bert, plan):
            alone = evaluate(tiny_bert, encoded, batch_size=4, n_resamples=100)
        assert score.to_dict() | {"seconds": 0} == alone.to_dict() | {"seconds": 0}


def test_regression_and_pairs_of_texts_are_scored(tiny_tokenizer):
    model = make_tiny_bert(num_labels=1, id2label=None, label2id=None)
    data, plan = make_data(9, "stsb"), PruningPlan.parse("ffn:1")
    (score,) = evaluate_plans(model, [plan], data, tiny_tokenizer, max_seq_length=64, n_resamples=20)
    with bypass(model, plan):
        alone = evaluate(model, data, tiny_tokenizer, max_seq_length=64, n_resamples=20)
    assert score.to_dict() | {"seconds": 0} == alone.to_dict() | {"seconds": 0}


def test_intervals_are_left_out_unless_asked_for(tiny_bert, encoded):
    (score,) = evaluate_plans(tiny_bert, [PruningPlan()], encoded)
    assert np.isnan(score.metrics["accuracy"].ci95).all()
    assert 0 <= score.metrics["accuracy"].value <= 1


def test_no_plans_give_no_scores(tiny_bert, encoded):
    assert evaluate_plans(tiny_bert, [], encoded) == []


def test_the_accelerators_precision_is_used(tiny_bert, encoded):
    plans = random_plans(4)
    AcceleratorState._reset_state(True)
    try:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        scores = evaluate_plans(tiny_bert, plans, encoded, accelerator=accelerator)
        for plan, score in zip(plans, scores, strict=True):
            with bypass(tiny_bert, plan):
                alone = evaluate(tiny_bert, encoded, accelerator=accelerator, n_resamples=0)
            np.testing.assert_array_equal(score.logits, alone.logits)
    finally:
        AcceleratorState._reset_state(True)


def test_a_plan_that_gives_no_finite_numbers_is_named(tiny_bert, encoded):
    tiny_bert.bert.encoder.layer[3].output.dense.bias.data[:] = torch.nan
    with pytest.raises(EvaluationError, match="under plan 'layer:1' gives nan or infinite outputs for 11 of 11"):
        evaluate_plans(tiny_bert, [PruningPlan.parse("layer:1"), PruningPlan.parse("layer:3")], encoded)


TWO_PROCESSES = """
import json, sys
import torch
from accelerate import Accelerator, debug_launcher
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from prune_bert.evaluation import encode, evaluate_plans
from prune_bert.plan import PruningPlan
from prune_bert.tasks import load_task

def work(checkpoint, data, plans, out):
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    plans = [PruningPlan.parse(text) for text in json.loads(plans)]
    results = []
    for n in (11, 3):  # 3 batches and 1, so that one process has none
        task = load_task("sst2", validation_file=data, max_samples={"validation": n})["validation"]
        encoded = encode(tokenizer, task, 64)
        scores = evaluate_plans(model, plans, encoded, accelerator=accelerator, batch_size=4)
        results.append([score.to_dict() | {"seconds": 0} for score in scores])
    with open(f"{out}/{accelerator.process_index}.json", "w") as file:
        json.dump([accelerator.num_processes, results], file)

if __name__ == "__main__":
    debug_launcher(work, args=tuple(sys.argv[1:]), num_processes=2)
"""


def test_two_processes_equal_one(tiny_checkpoint, tiny_bert, tiny_tokenizer, tmp_path):
    from prune_bert.tasks import load_task

    file, script = tmp_path / "data.jsonl", tmp_path / "two_processes.py"
    make_data(11).dataset.to_json(file)
    script.write_text(TWO_PROCESSES)
    plans = random_plans(5)
    arguments = [str(tiny_checkpoint), str(file), json.dumps([str(plan) for plan in plans]), str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [processes for processes, _ in results] == [2, 2]
    assert results[0][1] == results[1][1]
    for n, scores in zip((11, 3), results[0][1], strict=True):
        part = load_task("sst2", validation_file=file, max_samples={"validation": n})["validation"]
        alone = evaluate_plans(tiny_bert, plans, part, tiny_tokenizer, batch_size=4, max_seq_length=64)
        for score, one in zip(scores, alone, strict=True):
            np.testing.assert_allclose(score["logits"], one.logits, atol=1e-5)
            assert score["predictions"] == one.predictions.tolist()
            assert score["metrics"] == one.to_dict()["metrics"]


# Work and memory


def count_runs(modules):
    runs = [0]
    handles = [module.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1)) for module in modules]
    return runs, handles


def test_each_prefix_runs_once_a_batch_and_embedding_and_masks_once(tiny_bert, encoded):
    plans = layer_subsets()
    model_runs, _ = count_runs([tiny_bert.bert.embeddings])
    attention_runs, _ = count_runs([layer.attention for layer in tiny_bert.bert.encoder.layer])
    shared, separate = count_layer_passes(plans, DEPTH)
    tree = plan_tree(plans, DEPTH)
    with torch.inference_mode(), plan_forward(tiny_bert, tree) as forward:
        forward(encoded.batch(range(4)))  # rehearses, too
        model_runs[0] = attention_runs[0] = 0
        forward(encoded.batch(range(4, 8)))
    assert model_runs[0] == 1
    assert attention_runs[0] == shared == 15
    assert separate == 32


def test_plans_that_differ_in_the_feed_forward_share_the_attention(tiny_bert):
    plans = [PruningPlan.parse(text) for text in ("", "ffn:1", "ffn:1 norm=skip", "ffn:3")]
    attention_runs, _ = count_runs([layer.attention for layer in tiny_bert.bert.encoder.layer])
    with torch.inference_mode(), plan_forward(tiny_bert, plan_tree(plans, DEPTH)) as forward:
        forward(family_batch())
        attention_runs[0] = 0
        forward(family_batch())
    assert attention_runs[0] == 2 + 3 * 2


def live_states(shape):
    """Count the hidden states alive: storages of that shape, however many names they have."""
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.shape == shape]
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors})


@pytest.mark.parametrize(("sublayers", "bound"), [(False, DEPTH + 1), (True, 2 * DEPTH + 1)])
def test_memory_is_bounded_by_the_depth_not_by_the_plans(tiny_bert, sublayers, bound):
    inputs = family_batch()
    shape = (*inputs["input_ids"].shape, 32)
    counts = []
    tiny_bert.bert.encoder.layer[-1].register_forward_pre_hook(lambda *_: counts.append(live_states(shape)))
    plans = random_plans(16) if sublayers else layer_subsets()
    gc.collect()
    logits_together(tiny_bert, plans, inputs)
    assert len(counts) > 8
    assert max(counts) <= bound
    assert live_states(shape) == 0


class Waits(TorchDispatchMode):
    """Notes the calls for which the host would wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_the_host_does_not_wait_within_the_tree(family, attention, monkeypatch):
    waits, walk = Waits(), _PlanForward._walk

    def watched(self, level, branches, hidden):
        with waits:
            walk(self, level, branches, hidden)

    monkeypatch.setattr(_PlanForward, "_walk", watched)
    logits_together(build(family, attention), layer_subsets(), family_batch())
    assert waits.seen == []
    with waits:
        assert bool(torch.ones(1))
    assert waits.seen


# The model afterwards


def test_the_model_is_as_before(tiny_bert, encoded):
    tiny_bert.train()
    tiny_bert.bert.encoder.layer[2].eval()
    before = snapshot(tiny_bert)
    plans = random_plans(6)
    first, second = (evaluate_plans(tiny_bert, plans, encoded, batch_size=4) for _ in range(2))
    assert_as_before(tiny_bert, before)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)  # no dropout


@pytest.mark.parametrize("when", [1, 2, 5, 9, 14])
@pytest.mark.parametrize("where", ["layer", "attention", "classifier"])
def test_the_model_is_as_before_also_after_an_error(tiny_bert, encoded, when, where):
    layer = tiny_bert.bert.encoder.layer[2]
    module = {"layer": layer, "attention": layer.attention, "classifier": tiny_bert.classifier}[where]
    calls = accumulate(iter(lambda: 1, 0))

    def fail(*_):
        if where == "classifier" or next(calls) == when:
            raise ZeroDivisionError

    handle = module.register_forward_pre_hook(fail)
    before = snapshot(tiny_bert)
    with pytest.raises(ZeroDivisionError):
        evaluate_plans(tiny_bert, random_plans(20), encoded, batch_size=4)
    assert_as_before(tiny_bert, before)
    handle.remove()
    assert len(evaluate_plans(tiny_bert, random_plans(3), encoded)) == 5


def test_a_model_that_is_bypassed_or_dropped_already_is_evaluated_as_it_is(tiny_bert, encoded):
    plans = [PruningPlan(), PruningPlan.parse("layer:0 ffn:2"), PruningPlan.parse("attention:2")]
    outer = PruningPlan.parse("layer:1 ffn:3")
    with bypass(tiny_bert, outer):
        scores = evaluate_plans(tiny_bert, plans, encoded)
        with pytest.raises(SurgeryError, match="layer 1 is bypassed already"):
            evaluate_plans(tiny_bert, [PruningPlan.parse("layer:1")], encoded)
    for plan, score in zip(plans, scores, strict=True):
        with bypass(tiny_bert, outer | plan):
            np.testing.assert_array_equal(score.logits, evaluate(tiny_bert, encoded, n_resamples=0).logits)
    drop(tiny_bert, outer)
    (whole,) = evaluate_plans(tiny_bert, [PruningPlan()], encoded)
    np.testing.assert_allclose(whole.logits, scores[0].logits, atol=1e-6)


def test_hooks_of_the_users_are_honoured(tiny_bert):
    layer = tiny_bert.bert.encoder.layer[1]
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 1.5, *args[1:]))
    layer.output.register_forward_hook(lambda module, args, output: output + 1)
    plans = random_plans(6)
    assert_equal_bits(logits_together(tiny_bert, plans, family_batch()), logits_alone(tiny_bert, plans, family_batch()))


# Models whose plans cannot share


class SumOfStates(torch.nn.Module):
    """Adds up all layers' outputs, as a weighted sum of layers does."""

    def __init__(self, encoder):
        super().__init__()
        self.layer, self.reverse = encoder.layer, False

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        total = hidden_states
        for layer in reversed(self.layer) if self.reverse else self.layer:
            output = layer(hidden_states, attention_mask)
            hidden_states = output[0] if isinstance(output, tuple) else output
            total = total + hidden_states
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=total)


def test_a_head_that_sees_every_layer_is_refused(tiny_bert, encoded):
    tiny_bert.bert.encoder = SumOfStates(tiny_bert.bert.encoder)
    evaluate_plans(tiny_bert, [PruningPlan.parse("layer:1")], encoded)
    before = snapshot(tiny_bert)
    with pytest.raises(EvaluationError, match="plan 'layer:1' evaluated together with others gives other logits"):
        evaluate_plans(tiny_bert, [PruningPlan(), PruningPlan.parse("layer:1")], encoded)
    assert_as_before(tiny_bert, before)


def test_layers_that_run_in_another_order_are_refused(tiny_bert, encoded):
    tiny_bert.bert.encoder = SumOfStates(tiny_bert.bert.encoder)
    tiny_bert.bert.encoder.reverse = True
    before = snapshot(tiny_bert)
    with pytest.raises(EvaluationError, match="do not run one after the other"):
        evaluate_plans(tiny_bert, [PruningPlan.parse("layer:1")], encoded)
    assert_as_before(tiny_bert, before)


# Replays


def test_a_replay_does_what_was_done_with_another_tensor():
    start, constant = torch.arange(6.0).reshape(2, 3), torch.ones(3)
    tape = Tape(start)
    with tape:
        scratch = torch.zeros(2, 3)
        scratch[:, 1] = start[:, 0]
        assert start.sum() > 0
        parts = torch.cat([scratch, start.mul(2).add_(constant)], dim=start.dim() - 1).chunk(2, dim=1)
        end = torch.stack(tensors=parts).sum(0)
    replay = tape.replay(end)
    torch.testing.assert_close(replay(start), end)
    other = torch.randn(2, 3)
    expected = torch.zeros(2, 3)
    expected[:, 1] = other[:, 0]
    torch.testing.assert_close(replay(other), expected + other * 2 + 1)
    torch.testing.assert_close(replay(start), end)
    assert tape.replay(start)(other) is other
    with pytest.raises(ReplayError):
        tape.replay(constant)
