"""What a checkpoint's config says is believed: its head, its shapes, which of its layers attend globally."""

import json

import numpy as np
import pytest
import torch
import transformers
from families import build_foreign, long_padded

from prune_bert import PruningPlan, bypass, load_model
from prune_bert.checkpoint import CheckpointError
from prune_bert.cli import main
from prune_bert.evaluation.inference import scoring_mode
from prune_bert.evaluation.plan_forward import plan_forward
from prune_bert.evaluation.plan_tree import plan_tree
from prune_bert.pipeline import comparing, searching
from prune_bert.profiling import plain_outputs
from prune_bert.search import beam, exhaustive, greedy, layer_sites, one_shot
from prune_bert.surgery import Rebuilding

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}, "vocab_size": 256}
HEADS = [
    ("ModernBertForTokenClassification", "modernbert"),
    ("LlamaForTokenClassification", "llama"),
    ("BertForTokenClassification", "bert"),
    ("BertForQuestionAnswering", "bert"),
    ("BertForMaskedLM", "bert"),
    ("GPT2LMHeadModel", "gpt2"),
]


@pytest.fixture
def save(tmp_path, tiny_tokenizer):
    """Save a tiny model of a family with the tokenizer, and other entries in its config."""

    def saved(family, name="model", config=None, **overrides):
        directory = tmp_path / name
        build_foreign(family, **(LABELS | overrides)).save_pretrained(directory)
        tiny_tokenizer.save_pretrained(directory)
        change_config(directory, config or {})
        return directory

    return saved


def change_config(directory, changes):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Heads and shapes


@pytest.mark.parametrize(("head", "family"), HEADS)
def test_a_checkpoint_with_another_head_is_no_classifier(head, family, tmp_path, tiny_tokenizer):
    own = build_foreign(family, **LABELS).config
    directory = tmp_path / "model"
    getattr(transformers, head)(own).save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    with pytest.raises(CheckpointError, match=rf"has no trained classification head: .* {head}, .*prune-bert train"):
        load_model(str(directory))
    assert load_model(str(directory), new_head=("a", "b", "c")).model.num_labels == 3


def test_a_checkpoint_that_names_no_class_goes_by_its_weights(save):
    assert load_model(str(save("modernbert", config={"architectures": None}))).model.num_labels == 2


@pytest.mark.parametrize("family", ["bert", "esm"])
def test_a_shape_that_does_not_fit_is_named_with_both(family, save):
    directory = save(family, config={"intermediate_size": 48})
    with pytest.raises(
        CheckpointError, match=r"intermediate.dense.bias is \(64,\), and the model needs \(48,\)"
    ) as told:
        load_model(str(directory))
    assert "report" not in str(told.value)
    with pytest.raises(CheckpointError, match=r"is \(64,\), and the model needs \(48,\)"):
        load_model(str(directory), new_head=("a", "b", "c"))


# What a config asks of outputs


ASKED = [
    {"output_attentions": True},
    {"output_hidden_states": True},
    {"return_dict": False},
    {"chunk_size_feed_forward": 4},
]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize(
    "asked",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"chunk_size_feed_forward": 4},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_checkpoint_that_asks_for_more_is_pruned_all_the_same(family, asked, save, data_dir, tmp_path, capsys):
    directory = save(family, config=asked)
    code = main(prune_words(directory, data_dir, tmp_path / "out", "layer:3", profile="false"))
    assert (code, "Traceback" in capsys.readouterr().err) == (0, False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["baseline", "pruned"]


def test_flags_of_a_config_are_restored_also_after_an_exception():
    config = build_foreign("bert", output_attentions=True, return_dict=False).config
    config._attn_implementation = "sdpa"
    before = dict(vars(config))

    def fail():
        with plain_outputs(config, use_cache=False):
            assert (config.output_attentions, config.return_dict, config.use_cache) == (False, True, False)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert dict(vars(config)) == before


def test_operations_are_counted_whatever_runs_the_attention():
    counted = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        try:
            model = build_foreign("bert", attention)
        except (ValueError, ImportError) as error:
            pytest.skip(str(error)[:80])
        with plain_outputs(model.config):
            counted[attention] = measured(model)
        assert model.config._attn_implementation == attention
    assert len(set(counted.values())) == 1


def measured(model):
    from prune_bert.profiling.inputs import random_inputs
    from prune_bert.profiling.size import count_flops

    return count_flops(model.eval(), random_inputs(model, 1, 16, device=torch.device("cpu")))


# Decoders: no cache is shared between plans


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gpt-neo"])
def test_plans_of_a_decoders_classifier_share_work_and_no_cache(family):
    model = build_foreign(family)
    plans = [PruningPlan.parse(text) for text in ("", "layer:1", "layer:2", "layer:1,2", "layer:0")]
    inputs = long_padded(model)
    tree = plan_tree(plans, 4)
    with torch.inference_mode(), scoring_mode(model), plan_forward(model, tree) as forward:
        together = forward(inputs)[:, list(tree.end_of)].unbind(1)
    with torch.inference_mode():
        for plan, logits in zip(plans, together, strict=True):
            with bypass(model, plan):
                np.testing.assert_allclose(logits, model(**inputs, use_cache=False).logits, rtol=1e-4, atol=1e-5)


# Layers of several kinds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layer:1-3", ""),
        ("layer:2-4", ""),
        ("layer:5,6", ""),
        ("ffn:1", ""),
        ("layer:1", "remove layers 3 neighbours at a time, such as layer:1-3, or the last ones"),
        ("layer:0", "layer 1 of this modernbert would become its layer 0"),
        ("layer:0-2", "layer 3 of this modernbert would become its layer 0"),
    ],
)
def test_which_layers_of_modernbert_can_go(text, says):
    found = Rebuilding(build_foreign("modernbert-deep")).obstacle(PruningPlan.parse(text))
    assert bool(found) == bool(says)
    assert says in found


def threes(plan):
    """As ModernBERT is: what remains of 9 layers must be global in every third place."""
    kept = [layer for layer in range(9) if layer not in plan.layers()]
    return bool(kept) and kept[0] == 0 and all((layer % 3 == 0) == (place % 3 == 0) for place, layer in enumerate(kept))


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (greedy, {}),
        (beam, {"width": 2}),
        (exhaustive, {}),
        (one_shot, {"scores": {site: float(site.layer) for site in layer_sites(9)}}),
    ],
)
def test_a_search_evaluates_no_plan_that_is_not_allowed(strategy, options):
    met = []

    def objective(plans):
        met.extend(plans)
        return [float(len(plan)) for plan in plans]

    result = strategy(objective, layer_sites(9), allowed=threes, **options)
    assert met
    assert all(threes(plan) for plan in met)
    assert any(set(found.plan.layers()) & {1, 2, 3, 4, 5} for found in result.evaluated)
    assert max(len(found.plan) for found in result.path) >= 6


def test_a_run_of_neighbours_counts_as_many_sites_as_it_has():
    result = greedy(lambda plans: [0.0] * len(plans), layer_sites(9), allowed=threes, max_removed=4)
    assert max(len(found.plan) for found in result.evaluated) <= 4


def prune_words(model, data_dir, output, plan, **further):
    given = {
        "model_name_or_path": model,
        "task_name": "sst2",
        "data_dir": data_dir,
        "plan": plan,
        "output_dir": output,
        "max_seq_length": 32,
        "max_eval_samples": 16,
        "n_resamples": 20,
        "device": "cpu",
        "measure_site_costs": "false",
    } | further
    return ["prune", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def test_a_plan_that_cannot_be_saved_is_refused_before_anything_is_scored(
    save, data_dir, tmp_path, capsys, monkeypatch
):
    def scored(*args, **kwargs):
        raise AssertionError("work has begun")

    monkeypatch.setattr(comparing, "score_model", scored)
    code = main(prune_words(save("modernbert-deep"), data_dir, tmp_path / "out", "layer:1"))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert "the model cannot be saved without layer:1" in said
    assert "such as layer:1-3" in said
    assert len(said) < 600
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "fixed"), [("modernbert-deep", None), ("deberta-v2-conv", 0)])
def test_search_chooses_only_what_prune_can_save(family, fixed, save, data_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(searching, "write_search", lambda report, directory: reports.append(report))
    reports = []
    words = prune_words(save(family), data_dir, tmp_path / "out", "", max_calibration_samples=16, strategy="greedy")
    words = [word for at, word in enumerate(words) if "--plan" not in words[max(0, at - 1) : at + 1]]
    words = [word for at, word in enumerate(words) if "--measure_site_costs" not in words[max(0, at - 1) : at + 1]]
    timing = {"components": "layer", "sequence_length": 16, "profile_rounds": 2, "profile_warmup": 1}
    timing["max_accuracy_drop"] = 100
    code = main(["search", *words[1:], *(word for name, value in timing.items() for word in (f"--{name}", str(value)))])
    assert code == 0, capsys.readouterr().err
    plans = [PruningPlan.parse(one["plan"]) for one in reports[0].search["plans"]]
    rebuilding = Rebuilding(build_foreign(family))
    assert any(plan for plan in plans)
    assert not [plan for plan in plans if rebuilding.obstacle(plan)]
    assert all(fixed not in plan.layers() for plan in plans)
