"""Importance: known answers on models built for them, and indifference to batches, padding, order and processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import datasets
import families
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import WORDS, make_tiny_bert

from prune_bert.architectures import ArchitectureError, find_encoder
from prune_bert.errors import UserError
from prune_bert.evaluation import encode
from prune_bert.evaluation import plans as plan_evaluation
from prune_bert.evaluation.encoding import SharedWorkError
from prune_bert.importance import (
    SCORERS,
    BlockScores,
    ImportanceError,
    Score,
    SiteScores,
    score_blocks,
    score_sites,
)
from prune_bert.importance.scores import mean_scores
from prune_bert.importance.similarity import angular_distance, cosine_distance
from prune_bert.plan import PruningPlan, Site
from prune_bert.search import POSITIONAL_ORDERS, layer_sites, one_shot, sites_of, sublayer_sites
from prune_bert.surgery import bypass
from prune_bert.tasks import GLUE_TASKS, TaskData, load_task

WITH_DATA = [name for name, scorer in SCORERS.items() if scorer.needs_data]
WITH_LABELS = [name for name, scorer in SCORERS.items() if scorer.needs_labels]
SUBLAYERS = ("attention", "ffn")


def make_data(n=23, task="sst2", seed=0, **columns):
    """Sentences of 1 to 20 of the tiny tokenizer's words, with random labels."""
    generator = np.random.default_rng(seed)
    spec = GLUE_TASKS[task]
    texts = {
        name: [" ".join(generator.choice(WORDS, generator.integers(1, 21))) for _ in range(n)]
        for name in spec.text_columns
    }
    labels = generator.random(n).astype(np.float32) if spec.regression else generator.integers(0, len(spec.labels), n)
    dataset = datasets.Dataset.from_dict(texts | {"label": labels.tolist(), "idx": list(range(n))} | columns)
    return TaskData(spec, "train", dataset, "made for the test")


@pytest.fixture(scope="module")
def encoded(tiny_tokenizer):
    return encode(tiny_tokenizer, make_data(), 32)


def silence(layer, *components):
    """Make sublayers of a BERT layer add nothing: what is left is a LayerNorm of what is normal already."""
    for component in components or SUBLAYERS:
        dense = layer.attention.output.dense if component == "attention" else layer.output.dense
        torch.nn.init.zeros_(dense.weight)
        torch.nn.init.zeros_(dense.bias)


def as_predicted(model, encoded):
    """The same examples with the model's own predictions for labels, so that what it does is never wrong."""
    with torch.no_grad():
        predicted = [int(model(**encoded.batch([index])).logits.argmax()) for index in range(len(encoded))]
    dataset = encoded.data.dataset.remove_columns("label").add_column("label", predicted)
    return replace(encoded, data=replace(encoded.data, dataset=dataset))


def values(scores):
    return np.array(list(scores.values.values()))


# Known answers


@pytest.mark.parametrize("scorer", [*WITH_DATA, "magnitude"])
def test_a_layer_that_is_an_identity_in_effect_scores_lowest(scorer, encoded, tiny_bert):
    silence(tiny_bert.bert.encoder.layer[2])
    result = score_sites(tiny_bert, as_predicted(tiny_bert, encoded), scorer=scorer)
    assert result.ranking()[0] == Site(2)
    if scorer in WITH_DATA:
        lowest, *others = sorted(abs(values(result)))
        assert lowest < 1e-5
        assert min(others) > 50 * lowest


@pytest.mark.parametrize("scorer", [*WITH_DATA, "magnitude"])
def test_a_layer_that_carries_everything_scores_highest(scorer, encoded, tiny_bert):
    for index in (0, 2, 3):
        silence(tiny_bert.bert.encoder.layer[index])
    result = score_sites(tiny_bert, as_predicted(tiny_bert, encoded), scorer=scorer)
    assert result.ranking()[-1] == Site(1)


@pytest.mark.parametrize("scorer", WITH_DATA)
@pytest.mark.parametrize("component", SUBLAYERS)
@pytest.mark.parametrize("norm", ["keep", "skip"])
def test_a_sublayer_that_adds_nothing_scores_lowest_of_its_kind(scorer, component, norm, encoded, tiny_bert):
    silence(tiny_bert.bert.encoder.layer[1], component)
    result = score_sites(tiny_bert, encoded, scorer=scorer, components=(component,), norm=norm)
    sizes = {site: abs(score.value) for site, score in result.scores.items()}
    assert min(sizes, key=sizes.__getitem__) == Site(1, component)
    assert sizes[Site(1, component)] < 1e-5


def test_magnitude_is_the_norm_of_the_matrices(tiny_bert):
    result = score_sites(tiny_bert, scorer="magnitude", components=("layer", *SUBLAYERS)).values
    layer = tiny_bert.bert.encoder.layer[3]
    matrices = [weight.detach().flatten() for weight in layer.attention.parameters() if weight.dim() == 2]
    assert len(matrices) == 4
    assert result[Site(3, "attention")] == pytest.approx(float(torch.cat(matrices).norm()), rel=1e-6)
    parts = result[Site(3, "attention")] ** 2 + result[Site(3, "ffn")] ** 2
    assert result[Site(3)] ** 2 == pytest.approx(parts, rel=1e-6)


@pytest.mark.parametrize("name", sorted(POSITIONAL_ORDERS))
def test_positional_scores_remove_in_the_order_of_the_paper(name, tiny_bert):
    result = score_sites(tiny_bert, scorer=name)
    assert [site.layer for site in result.ranking()] == list(POSITIONAL_ORDERS[name](4))
    assert (result.n, {score.spread for score in result.scores.values()}) == (0, {0.0})
    plans = one_shot(lambda plans: [0.0] * len(plans), layer_sites(4), scores=result.values, max_removed=2).path
    assert set(plans[-1].plan.layers()) == set(POSITIONAL_ORDERS[name](4)[:2])


# The scorers against plain transformers, one example at a time


def hidden_states(model, encoded, index):
    with torch.no_grad():
        output = model(**encoded.batch([index]), output_hidden_states=True)
    return [hidden[0] for hidden in output.hidden_states]


def test_the_similarity_scorers_are_what_their_papers_say(encoded, tiny_bert):
    cosines, firsts, angles = [], [], []
    for index in range(len(encoded)):
        states = hidden_states(tiny_bert, encoded, index)
        cosine = torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in pairwise(states)])
        cosines.append(cosine)
        angles.append(torch.arccos(cosine.clamp(-1, 1)) / math.pi)
        firsts.append(cosine[:, :1])
    for scorer, expected in (
        ("block_influence", 1 - torch.cat(cosines, 1).mean(1)),
        ("angular", torch.cat(angles, 1).mean(1)),
        ("contribution", 1 - torch.cat(firsts, 1).mean(1)),
    ):
        result = score_sites(tiny_bert, encoded, scorer=scorer, batch_size=5)
        np.testing.assert_allclose(values(result), expected.numpy(), atol=1e-5)
        assert result.n == 23


def example_losses(model, encoded):
    labels = torch.tensor(encoded.data.dataset["label"][:])
    with torch.no_grad():
        logits = torch.cat([model(**encoded.batch([index])).logits for index in range(len(encoded))])
    return F.cross_entropy(logits.double(), labels, reduction="none")


def test_the_loss_increase_is_that_of_leaving_one_out(encoded, tiny_bert):
    result = score_sites(tiny_bert, encoded, scorer="loss_increase", components=("layer", "ffn"), norm="skip")
    whole = example_losses(tiny_bert, encoded)
    for site, score in result.scores.items():
        with bypass(tiny_bert, PruningPlan((site,), "skip")):
            difference = example_losses(tiny_bert, encoded) - whole
        assert score.value == pytest.approx(float(difference.mean()), abs=1e-5)
        half = 1.96 * float(difference.std()) / math.sqrt(len(encoded))
        assert score.ci95 == pytest.approx((score.value - half, score.value + half), abs=1e-4)


def test_where_plans_cannot_share_work_the_loss_increase_takes_them_one_by_one(encoded, tiny_bert, monkeypatch):
    shared = score_sites(tiny_bert, encoded, scorer="loss_increase")

    def refuse(*args, **kwargs):
        raise SharedWorkError("not this one")

    monkeypatch.setattr(plan_evaluation, "evaluate_plans", refuse)
    np.testing.assert_allclose(
        values(score_sites(tiny_bert, encoded, scorer="loss_increase")), values(shared), atol=1e-6
    )


class Gate:
    """Multiplies what a site adds beside its stand-in, by hooks of its own, to differentiate by it numerically."""

    def __init__(self, module, replacement, argument):
        self.module, self.replacement, self.argument, self.gate = module, replacement, argument, 1.0

    def __enter__(self):
        self.handles = [
            self.module.register_forward_pre_hook(self.enter),
            self.module.register_forward_hook(self.leave),
        ]
        return self

    def __exit__(self, *exc):
        for handle in self.handles:
            handle.remove()

    def enter(self, module, args):
        self.before = args[self.argument]

    def leave(self, module, args, output):
        after = output if isinstance(output, torch.Tensor) else output[0]
        base = self.replacement(self.before)
        mixed = base + self.gate * (after - base)
        return mixed if isinstance(output, torch.Tensor) else (mixed, *output[1:])


@pytest.mark.parametrize("norm", ["keep", "skip"])
def test_taylor_and_fisher_come_from_the_derivative_by_the_sites_gate(norm, encoded, tiny_bert):
    model = tiny_bert.double()
    layer = model.bert.encoder.layer[1]
    norms = {"keep": layer.output.LayerNorm, "skip": lambda hidden: hidden}
    taylor = score_sites(model, encoded, scorer="taylor", components=("layer", "ffn"), norm=norm)
    fisher = score_sites(model, encoded, scorer="fisher", components=("layer", "ffn"), norm=norm)
    for site, module, replacement, argument in (
        (Site(1, "ffn"), layer.output, norms[norm], 1),  # the residual is its second argument
        (Site(1), layer, lambda hidden: hidden, 0),
    ):
        step, losses = 1e-4, []
        with Gate(module, replacement, argument) as gate:
            for value in (1 - step, 1 + step):
                gate.gate = value
                losses.append(example_losses(model, encoded))
        derivatives = (losses[1] - losses[0]) / (2 * step)
        assert taylor.values[site] == pytest.approx(float(derivatives.abs().mean()), rel=1e-3)
        assert fisher.values[site] == pytest.approx(float(derivatives.square().mean() / 2), rel=1e-3)


def test_taylor_needs_no_weight_that_trains_and_leaves_gradients_alone(encoded, tiny_bert):
    expected = score_sites(tiny_bert, encoded, scorer="taylor").values
    tiny_bert.requires_grad_(False)
    tiny_bert.classifier.weight.grad = marker = torch.ones_like(tiny_bert.classifier.weight)
    assert score_sites(tiny_bert, encoded, scorer="taylor").values == pytest.approx(expected, rel=1e-5)
    assert tiny_bert.classifier.weight.grad is marker
    assert not any(parameter.requires_grad for parameter in tiny_bert.parameters())
    assert all(
        parameter.grad is None for name, parameter in tiny_bert.named_parameters() if name != "classifier.weight"
    )


def test_a_regression_is_scored_by_its_squared_error(tiny_tokenizer):
    data = encode(tiny_tokenizer, make_data(8, "stsb"), 32)
    model = make_tiny_bert(num_labels=1, id2label=None, label2id=None)
    silence(model.bert.encoder.layer[0])
    for scorer in WITH_LABELS:
        sizes = abs(values(score_sites(model, data, scorer=scorer)))
        assert sizes.argmin() == 0


# What must not matter


@pytest.mark.parametrize("scorer", WITH_DATA)
def test_scores_ignore_batch_size_padding_and_order(scorer, encoded, tiny_bert, tiny_tokenizer):
    def score(data, batch_size):
        return score_sites(tiny_bert, data, scorer=scorer, components=("layer", *SUBLAYERS), batch_size=batch_size)

    alone = score(encoded, 1)  # no padding at all
    together = score(encoded, 23)
    order = np.random.default_rng(1).permutation(23)
    shuffled = replace(encoded.data, dataset=encoded.data.dataset.select(order))
    moved = score(encode(tiny_tokenizer, shuffled, 32), 7)
    assert list(alone.scores) == list(sites_of(4, ("layer", *SUBLAYERS)))
    for other in (together, moved):
        np.testing.assert_allclose(values(other), values(alone), rtol=1e-4, atol=1e-6)
        for one, two in zip(alone.scores.values(), other.scores.values(), strict=True):
            assert two.ci95 == pytest.approx(one.ci95, rel=1e-3, abs=1e-6)
    for one, two in zip(alone.scores.values(), together.scores.values(), strict=True):
        assert two.spread == pytest.approx(one.spread, rel=1e-3, abs=1e-6)


def test_more_padding_changes_nothing(encoded, tiny_bert, tiny_tokenizer):
    expected = {scorer: values(score_sites(tiny_bert, encoded, scorer=scorer)) for scorer in WITH_DATA}

    class Wide(type(encoded)):
        def batch(self, indices):
            batch = super().batch(indices)
            return {name: F.pad(rows, (0, 9), value=0) for name, rows in batch.items()}

    wide = Wide(**vars(encoded))
    for scorer in set(WITH_DATA) - {"loss_increase"}:
        found = values(score_sites(tiny_bert, wide, scorer=scorer))
        np.testing.assert_allclose(found, expected[scorer], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [*families.FAMILIES, "modernbert"])
def test_every_family_is_scored(family, tiny_tokenizer):
    model = families.build(family, vocab_size=256)
    data = encode(tiny_tokenizer, make_data(6), 24)
    components = ("layer",) if family == "modernbert" else ("layer", *SUBLAYERS)
    for scorer in SCORERS:
        one = score_sites(model, data, scorer=scorer, components=components, batch_size=1)
        two = score_sites(model, data, scorer=scorer, components=components, batch_size=4)
        assert np.isfinite(values(one)).all()
        np.testing.assert_allclose(values(one), values(two), rtol=2e-3, atol=2e-5)
    assert len(one.scores) == 4 * len(components)


def test_the_sublayers_of_an_unknown_family_are_refused():
    with pytest.raises(ArchitectureError, match="not known, only its whole layers"):
        score_sites(families.build("modernbert"), scorer="magnitude", components=("ffn",))


def test_the_model_is_left_as_it_was(encoded, tiny_bert):
    tiny_bert.train()
    tiny_bert.bert.embeddings.eval()
    before = {name: tensor.clone() for name, tensor in tiny_bert.state_dict().items()}
    for scorer in SCORERS:
        score_sites(tiny_bert, encoded, scorer=scorer, components=("layer", *SUBLAYERS))
    score_blocks(tiny_bert, encoded)
    assert tiny_bert.training
    assert not tiny_bert.bert.embeddings.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_bert.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_bert.modules())


def test_the_hooks_go_also_after_an_exception(encoded, tiny_bert, monkeypatch):
    def explode(*args, **kwargs):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(tiny_bert.classifier, "forward", explode)
    for scorer in ("block_influence", "taylor"):
        with pytest.raises(RuntimeError, match="in the middle"):
            score_sites(tiny_bert, encoded, scorer=scorer)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_bert.modules())


TWO_PROCESSES = """
import json, sys

def work(checkpoint, data, out):
    from accelerate import Accelerator
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from prune_bert.evaluation import encode
    from prune_bert.importance import score_sites
    from prune_bert.tasks import load_task

    accelerator = Accelerator(cpu=True)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    task = load_task("sst2", validation_file=data)["validation"]
    encoded = encode(AutoTokenizer.from_pretrained(checkpoint), task, 32)
    options = {"accelerator": accelerator, "batch_size": 4, "components": ("layer", "ffn")}
    found = [
        score_sites(model, encoded, scorer=scorer, **options).to_dict()
        for scorer in ("block_influence", "taylor", "loss_increase")
    ]
    with open(f"{out}/{accelerator.process_index}.json", "w") as file:
        json.dump([accelerator.num_processes, found], file)

if __name__ == "__main__":
    from accelerate import debug_launcher
    debug_launcher(work, args=tuple(sys.argv[1:]), num_processes=2)
"""


def test_two_processes_give_what_one_gives(tiny_checkpoint, tiny_bert, tiny_tokenizer, tmp_path):
    data = tmp_path / "data.jsonl"
    make_data(13).dataset.to_json(data)
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, str(script), str(tiny_checkpoint), str(data), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (count, first), (_, second) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert count == 2
    task = encode(tiny_tokenizer, load_task("sst2", validation_file=str(data))["validation"], 32)
    for of_0, of_1 in zip(first, second, strict=True):
        assert of_0 | {"seconds": 0} == of_1 | {"seconds": 0}
        alone = score_sites(tiny_bert, task, scorer=of_0["scorer"], components=("layer", "ffn"))
        np.testing.assert_allclose(values(SiteScores.from_dict(of_0)), values(alone), rtol=1e-4, atol=1e-6)


# Blocks


def test_blocks_are_scored_by_the_angle_between_their_ends(encoded, tiny_bert):
    silence(tiny_bert.bert.encoder.layer[1])
    silence(tiny_bert.bert.encoder.layer[2])
    result = score_blocks(tiny_bert, encoded)
    assert set(result.scores) == {(start, length) for length in range(1, 5) for start in range(5 - length)}
    assert str(result.best(2)) == "layer:1-2"
    assert result.scores[1, 2].value < 1e-3
    layers = score_sites(tiny_bert, encoded, scorer="angular")
    for site, score in layers.scores.items():
        assert result.scores[site.layer, 1].value == pytest.approx(score.value, abs=1e-6)
    states = [hidden_states(tiny_bert, encoded, index) for index in range(len(encoded))]
    expected = torch.cat([angular_distance(each[0], each[4]) for each in states]).mean()
    assert result.scores[0, 4].value == pytest.approx(float(expected), abs=1e-5)
    assert BlockScores.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_blocks_that_the_model_does_not_have_are_refused(encoded, tiny_bert):
    with pytest.raises(ImportanceError, match=r"blocks of \[5\] layers: a model of 4 layers has blocks of 1 to 4"):
        score_blocks(tiny_bert, encoded, lengths=[5])
    with pytest.raises(ImportanceError, match=r"no block of 3 layers was scored; the lengths scored are \[2\]"):
        score_blocks(tiny_bert, encoded, lengths=[2]).best(3)


# Distances and spreads


def test_distances_are_exact_where_vectors_hardly_differ():
    one = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    other = one + 1e-4 * torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    cosine = F.cosine_similarity(one.double(), other.double(), dim=-1)
    torch.testing.assert_close(cosine_distance(one, other).double(), 1 - cosine, rtol=1e-2, atol=0)
    torch.testing.assert_close(angular_distance(one, other).double(), torch.arccos(cosine) / math.pi, rtol=1e-2, atol=0)
    assert float(angular_distance(one, -one).min()) == pytest.approx(1)
    assert float(cosine_distance(one, one).max()) == 0


def test_the_interval_of_a_ratio_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        weights = generator.integers(1, 30, 80)
        sums = weights * (0.5 + 0.3 * generator.standard_normal(80))
        (score,) = mean_scores(sums[:, None], weights)
        covered += score.ci95[0] <= 0.5 <= score.ci95[1]
    assert 0.9 <= covered / 300 <= 0.98


def test_spreads_are_those_of_ten_parts():
    sums = np.arange(40.0)[:, None]
    (score,) = mean_scores(sums, np.ones(40))
    assert score.value == 19.5
    assert score.spread == pytest.approx(np.std([sums[part::10].mean() for part in range(10)], ddof=1))
    (single,) = mean_scores(sums[3:4], np.ones(1))
    assert (single.value, single.spread) == (3, 0)
    assert all(map(math.isnan, single.ci95))
    assert json.loads(json.dumps(single.to_dict(), allow_nan=False))["ci95"] == [None, None]


def test_scores_survive_json(encoded, tiny_bert):
    result = score_sites(tiny_bert, encoded, scorer="taylor", components=SUBLAYERS)
    again = SiteScores.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again == result
    assert list(again.scores) == list(sublayer_sites(4))


def test_ties_are_removed_from_the_top():
    scores = {Site(0): Score(1.0), Site(1): Score(0.5), Site(2): Score(0.5)}
    assert SiteScores("x", scores, 0, 0.0).ranking() == (Site(2), Site(1), Site(0))


# What is refused


def test_unknown_names_come_with_the_nearest(encoded, tiny_bert):
    with pytest.raises(ImportanceError, match="unknown scorer 'block_inflence', did you mean 'block_influence'"):
        score_sites(tiny_bert, encoded, scorer="block_inflence")
    with pytest.raises(ImportanceError, match="unknown component 'atention', did you mean 'attention'"):
        score_sites(tiny_bert, encoded, components=("atention",))
    with pytest.raises(ImportanceError, match="unknown norm rule 'kept', did you mean 'keep'"):
        score_sites(tiny_bert, encoded, norm="kept")
    with pytest.raises(ImportanceError, match="no component to score"):
        score_sites(tiny_bert, encoded, components=())
    assert issubclass(ImportanceError, UserError)


@pytest.mark.parametrize("scorer", WITH_LABELS)
def test_missing_labels_are_said_before_the_work(scorer, tiny_bert, tiny_tokenizer):
    data = make_data(6)
    without = replace(data, dataset=data.dataset.remove_columns("label"))
    with pytest.raises(ImportanceError, match=f"'{scorer}' needs labels, and made for the test .train. has none"):
        score_sites(tiny_bert, without, tiny_tokenizer, scorer=scorer, max_seq_length=32)
    hidden = make_data(6, label=[0, 1, -1, 0, 1, 1])
    with pytest.raises(ImportanceError, match=f"'{scorer}' needs a label for every example, and row 2 of .* has -1"):
        score_sites(tiny_bert, hidden, tiny_tokenizer, scorer=scorer, max_seq_length=32)
    assert score_sites(tiny_bert, without, tiny_tokenizer, max_seq_length=32).n == 6


def test_scorers_that_look_at_examples_want_some(encoded, tiny_bert, tiny_tokenizer):
    with pytest.raises(ImportanceError, match="'taylor' looks at examples; give it data"):
        score_sites(tiny_bert, scorer="taylor")
    empty = replace(encoded.data, dataset=encoded.data.dataset.select([]))
    with pytest.raises(ImportanceError, match="give it data with at least one"):
        score_sites(tiny_bert, replace(encoded, data=empty, lengths=encoded.lengths[:0]))
    with pytest.raises(TypeError, match="needs a tokenizer"):
        score_sites(tiny_bert, encoded.data)
    assert score_sites(tiny_bert, encoded.data, tiny_tokenizer, max_seq_length=32).n == 23


def test_a_model_that_is_not_whole_is_refused(encoded, tiny_bert):
    with (
        bypass(tiny_bert, PruningPlan.parse("layer:1")),
        pytest.raises(ImportanceError, match="is bypassed at the mom"),
    ):
        score_sites(tiny_bert, encoded)
    from prune_bert.surgery import drop

    drop(tiny_bert, PruningPlan.parse("attention:1"))
    with pytest.raises(ImportanceError, match="attention:1 is pruned already; sites are scored on the unpruned model"):
        score_sites(tiny_bert, encoded, components=("attention",))
    assert len(score_sites(tiny_bert, encoded).scores) == 4


def test_weights_that_are_damaged_are_said_so(encoded, tiny_bert):
    with torch.no_grad():
        find_encoder(tiny_bert).layers[2].output.dense.weight.fill_(math.nan)
    with pytest.raises(ImportanceError, match="gives nan or infinite values for 23 of 23 examples"):
        score_sites(tiny_bert, encoded)


def test_feed_forward_in_chunks_is_refused(encoded):
    model = make_tiny_bert(chunk_size_feed_forward=1)
    single = replace(encoded, features={name: [row[:4] for row in rows] for name, rows in encoded.features.items()})
    with pytest.raises(ImportanceError, match="ffn:0 runs more than once in a forward pass"):
        score_sites(model, single, components=("ffn",))
    assert score_sites(model, encoded).n == 23


def test_a_head_of_another_size_is_refused(encoded):
    with pytest.raises(ImportanceError, match=r"shape \(23, 3\) where task 'sst2' has 2 for each example"):
        score_sites(make_tiny_bert(num_labels=3, id2label=None, label2id=None), encoded, scorer="taylor")
