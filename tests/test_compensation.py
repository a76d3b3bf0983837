"""Compensation: exact where the truth is linear, never worse with more rank, portable, and leaving the model alone."""

import copy
import dataclasses
import itertools
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from conftest import make_tiny_bert
from families import FAMILIES, build
from processes import torchrun
from torch import nn
from transformers import AutoModelForSequenceClassification, BertTokenizerFast

from prune_bert import PruningPlan, Site, bypass, drop, load_pruned, save_pruned
from prune_bert.architectures import find_encoder
from prune_bert.checkpoint import CheckpointError
from prune_bert.compensation import Compensation, CompensationError, CompensationSettings, compensate, measure_sites
from prune_bert.compensation import fitting as fitting_module
from prune_bert.compensation.fitting import runs_of
from prune_bert.compensation.moments import Moments
from prune_bert.compensation.reading import behind_attention, reads_first_token_alone
from prune_bert.compensation.site_fit import rounded
from prune_bert.compensation.solving import cross_validate, solve
from prune_bert.corrections import Correction, CorrectionError, CorrectionSpec, FittedSite
from prune_bert.evaluation import EncodedTask, encode
from prune_bert.stand_ins import Identity
from prune_bert.tasks import TaskData, load_task

PLANS = ("ffn:1", "attention:0 ffn:0,2", "layer:1-2", "attention:1 ffn:3 norm=skip")

# What comes out of a LayerNorm has no mean, so a map is determined only there.
CENTRED = torch.randn(50, 32, generator=torch.Generator().manual_seed(9)) @ (torch.eye(32) - 1 / 32)


@pytest.fixture
def examples(tiny_tokenizer) -> EncodedTask:
    """Sixty-four sentences of unlike length."""
    data = load_task("reviews", splits=("train",), max_samples={"train": 64})["train"]
    return encode(tiny_tokenizer, data, 32)


def plan(text):
    return PruningPlan.parse(text)


def hidden_states(model, examples):
    batch = examples.batch(range(16))
    with torch.no_grad():
        return model.base_model(**batch)[0][batch["attention_mask"].bool()]


def distance(model, examples, plan, fitted=None):
    """The mean squared distance of the last hidden states from the unpruned model's."""
    expected = hidden_states(model, examples)
    with bypass(model, plan, fitted):
        return float((hidden_states(model, examples) - expected).pow(2).mean())


class LinearFeedForward(nn.Module):
    """An FFN's second half that computes ``LN(x + x W + b)``, whatever comes from the first."""

    def __init__(self, original: nn.Module, rank: int | None = None) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = original.dense, original.LayerNorm, original.dropout
        width = self.LayerNorm.weight.numel()
        draw = torch.Generator().manual_seed(3)
        matrix = torch.randn(width, rank or width, generator=draw) @ torch.randn(rank or width, width, generator=draw)
        self.register_buffer("matrix", matrix / width)
        self.register_buffer("shift", torch.randn(width, generator=draw))

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(input_tensor + input_tensor @ self.matrix + self.shift)


def with_linear_ffn(model, layer, rank=None):
    module = model.bert.encoder.layer[layer]
    module.output = LinearFeedForward(module.output, rank)
    return model


# -- the fits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "rank"), [("affine", None), ("low_rank", 5)])
def test_a_linear_sublayer_is_recovered_exactly(tiny_bert, examples, form, rank):
    model = with_linear_ffn(tiny_bert, 1, rank)
    settings = CompensationSettings(form=form, rank=rank or 1, ridge=0, refit_norm=False)
    fitted = compensate(model, plan("ffn:1"), examples, settings=settings)
    assert distance(model, examples, plan("ffn:1")) > 0.1
    assert distance(model, examples, plan("ffn:1"), fitted) < 1e-8
    matrix = model.bert.encoder.layer[1].output.matrix
    correction = fitted[Site(1, "ffn")].correction
    found = correction.map.weight if form == "affine" else correction.up.weight @ correction.down.weight
    assert torch.allclose(CENTRED @ found.T, CENTRED @ matrix, atol=1e-3)


def test_a_refit_of_the_norm_changes_nothing_where_the_map_is_exact(tiny_bert, examples):
    model = with_linear_ffn(tiny_bert, 1)
    settings = CompensationSettings(form="affine", ridge=0)
    fitted = compensate(model, plan("ffn:1"), examples, settings=settings)[Site(1, "ffn")]
    norm = model.bert.encoder.layer[1].output.LayerNorm
    assert torch.allclose(fitted.norm_weight, norm.weight, atol=1e-4)
    assert torch.allclose(fitted.norm_bias, norm.bias, atol=1e-4)


def test_the_error_never_rises_with_the_rank_on_the_calibration_slice():
    draw = torch.Generator().manual_seed(0)
    inputs, mixing = torch.randn(500, 12, generator=draw), torch.randn(12, 12, generator=draw)
    targets = torch.tanh(inputs @ mixing) + torch.randn(500, 12, generator=draw)
    moments, metric = Moments.of(inputs, targets, torch.ones(500)), torch.rand(12, generator=draw).double() + 0.1
    errors = []
    for rank in range(1, 13):
        fit = solve(moments, rank, 0.0, metric)
        errors.append(float((((targets - inputs @ fit.matrix.T.float() - fit.bias.float()) * metric) ** 2).sum()))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))
    full, *_ = torch.linalg.lstsq(torch.cat((inputs, torch.ones(500, 1)), 1).double(), targets.double())
    assert torch.allclose(solve(moments, 12, 0.0, metric).matrix, full[:12].T, atol=1e-6)


def test_reduced_rank_is_no_worse_than_cutting_the_full_map():
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(400, 8, generator=draw) * torch.logspace(0, 2, 8)
    targets = inputs @ torch.randn(8, 8, generator=draw) + torch.randn(400, 8, generator=draw)
    moments, metric = Moments.of(inputs, targets, torch.ones(400)), torch.ones(8, dtype=torch.float64)

    def error(matrix):
        centred = (inputs - inputs.mean(0)).double()
        return float(((targets - targets.mean(0)).double() - centred @ matrix.T).pow(2).sum())

    left, values, right = torch.linalg.svd(solve(moments, 8, 0.0, metric).matrix)
    cut = (left[:, :2] * values[:2]) @ right[:2]
    assert error(solve(moments, 2, 0.0, metric).matrix) < error(cut)


def test_kept_neurons_are_partialled_out():
    """With the true neuron among the inputs, the low-rank part finds the rest exactly."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(600, 6, generator=draw)
    fired = torch.relu(x @ torch.randn(6, 2, generator=draw))
    low = torch.randn(6, 1, generator=draw) @ torch.randn(1, 6, generator=draw)
    readout = torch.randn(2, 6, generator=draw)
    moments = Moments.of(torch.cat((x, fired), 1), x @ low + fired @ readout + 0.5, torch.ones(600))
    fit = solve(moments, 1, 0.0, torch.ones(6, dtype=torch.float64))
    assert torch.allclose(fit.matrix.T, low.double(), atol=1e-5)
    assert torch.allclose(fit.beside.T, readout.double(), atol=1e-5)
    assert torch.allclose(fit.bias, torch.full((6,), 0.5, dtype=torch.float64), atol=1e-5)


def test_cross_validation_counts_the_error_on_what_was_left_out():
    """Against the plain computation: fit to the other folds, predict, square."""
    draw = torch.Generator().manual_seed(4)
    parts = [(torch.randn(40, 5, generator=draw), torch.randn(40, 5, generator=draw)) for _ in range(3)]
    folds, metric = [Moments.of(x, y, torch.ones(40)) for x, y in parts], torch.rand(5, generator=draw).double() + 0.5
    choice = cross_validate(folds, (2,), (0.3,), metric)
    wrong = baseline = 0.0
    for held, (x, y) in enumerate(parts):
        others = [fold for number, fold in enumerate(folds) if number != held]
        fit = solve(others[0] + others[1], 2, 0.3, metric)
        mean = torch.cat([p[1] for number, p in enumerate(parts) if number != held]).double().mean(0)
        wrong += float((((y.double() - x.double() @ fit.matrix.T - fit.bias) * metric) ** 2).sum())
        baseline += float((((y.double() - mean) * metric) ** 2).sum())
    assert choice.error == pytest.approx(wrong / baseline, rel=1e-9)


def test_cross_validation_shrinks_noise_and_keeps_what_is_there():
    draw = torch.Generator().manual_seed(5)
    x, matrix = torch.randn(800, 10, generator=draw), torch.randn(10, 10, generator=draw)
    noise = torch.randn(800, 10, generator=draw)
    metric, ones = torch.ones(10, dtype=torch.float64), torch.ones(200)

    def chosen(targets):
        folds = [Moments.of(x[k::4], targets[k::4], ones) for k in range(4)]
        return cross_validate(folds, (2, 10), (0.01, 0.1, 1.0, 10.0), metric)

    assert chosen(noise).ridge == 10.0
    assert chosen(noise).error > 0.95
    assert chosen(x @ matrix).ridge == 0.01
    assert chosen(x @ matrix).rank == 10
    assert chosen(x @ matrix).error < 0.01


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_inputs_that_depend_on_each_other_do_no_harm(ridge):
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(6))
    x = torch.cat((x, x, torch.zeros(100, 2)), 1)  # rank 3 of 8, two of them constant
    fit = solve(Moments.of(x, x * 2, torch.ones(100)), 8, ridge, torch.ones(8, dtype=torch.float64))
    assert torch.isfinite(fit.matrix).all()
    assert float((x.double() @ fit.matrix.T + fit.bias - 2 * x).abs().max()) < (1e-4 if not ridge else 1.0)


def test_a_site_of_constant_output_gets_that_constant(tiny_bert, examples):
    model = with_linear_ffn(tiny_bert, 2)
    model.bert.encoder.layer[2].output.LayerNorm.weight.data.zero_()
    fitted = compensate(model, plan("ffn:2"), examples)
    assert torch.isfinite(fitted[Site(2, "ffn")].correction.up.weight).all()
    assert distance(model, examples, plan("ffn:2"), fitted) < 1e-6


# -- compensate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
@pytest.mark.parametrize("text", PLANS)
def test_every_family_comes_nearer_to_the_unpruned_model(family, text, examples):
    model = build(family).eval()
    examples = fitting(model, examples)
    removed = plan(text)
    fitted = compensate(model, removed, examples, settings=CompensationSettings(rank=8))
    assert distance(model, examples, removed, fitted) < distance(model, examples, removed)


def fitting(model, examples):
    """The examples with token ids that the model has."""
    size = model.config.vocab_size
    features = {
        name: [[token % size for token in row] for row in rows]
        for name, rows in examples.features.items()
        if name != "token_type_ids" or getattr(model.config, "type_vocab_size", 0) > 1
    }
    return dataclasses.replace(examples, features=features)


@pytest.mark.parametrize("settings", [{"form": "neurons", "neurons": 6}, {"placement": "after"}, {"rank": None}])
def test_every_form_comes_nearer(tiny_bert, examples, settings):
    removed = plan("attention:1 ffn:1,3")
    fitted = compensate(tiny_bert, removed, examples, settings=CompensationSettings(**{"rank": 8} | settings))
    assert distance(tiny_bert, examples, removed, fitted) < distance(tiny_bert, examples, removed)


def test_the_unpruned_model_is_left_bit_exact(tiny_bert, examples):
    before = copy.deepcopy(tiny_bert.state_dict())
    modules = dict(tiny_bert.named_modules())
    compensate(tiny_bert, plan("attention:1 ffn:1-2"), examples, settings=CompensationSettings(form="neurons"))
    assert dict(tiny_bert.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_bert.state_dict().items())


def test_the_same_slice_gives_the_same_fit_bit_for_bit(tiny_bert, examples):
    first, second = (compensate(tiny_bert, plan("attention:1 ffn:2"), examples) for _ in range(2))
    for site in first:
        for name, tensor in first[site].correction.state_dict().items():
            assert torch.equal(tensor, second[site].correction.state_dict()[name])


def test_batches_do_not_matter(tiny_bert, examples):
    small, large = (compensate(tiny_bert, plan("ffn:2"), examples, batch_size=size) for size in (3, 64))
    inputs = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    site = Site(2, "ffn")
    assert torch.allclose(small[site].correction(inputs), large[site].correction(inputs), atol=1e-4)


def test_a_slice_too_large_to_remember_is_gone_over_again(tiny_bert, examples, monkeypatch):
    from prune_bert.compensation import passes

    remembered = compensate(tiny_bert, plan("ffn:2"), examples)
    monkeypatch.setattr(passes, "_KEPT_BYTES", 1000)
    again = compensate(tiny_bert, plan("ffn:2"), examples)
    site = Site(2, "ffn")
    assert torch.equal(remembered[site].correction.up.weight, again[site].correction.up.weight)
    assert torch.equal(remembered[site].norm_bias, again[site].norm_bias)


def test_padding_is_no_token(tiny_bert, examples):
    fits = compensate(tiny_bert, plan("ffn:2"), examples, batch_size=64).fits
    assert fits[Site(2, "ffn")].tokens == int(examples.lengths.sum())


def test_a_head_that_reads_the_first_token_alone_is_known(tiny_bert):
    assert reads_first_token_alone(tiny_bert)
    assert not reads_first_token_alone(tiny_bert.bert)

    assert {family for family in FAMILIES if reads_first_token_alone(build(family).eval())} >= {"bert", "distilbert"}


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ("ffn:2-3 attention:3", {"attention:3": True, "ffn:2": True, "ffn:3": True}),
        ("ffn:2-3", {"ffn:2": False, "ffn:3": True}),
        ("layer:3 ffn:2 attention:0", {"layer:3": True, "ffn:2": True, "attention:0": False}),
        ("layer:0-1", {"layer:1": False}),
        ("attention:0-3 ffn:0", {f"attention:{k}": True for k in range(4)} | {"ffn:0": True}),
    ],
)
def test_which_sites_are_behind_the_last_attention(tiny_bert, text, behind):
    encoder = find_encoder(tiny_bert)
    found = {str(run[-1]): behind_attention(encoder, plan(text), run) for run in runs_of(plan(text))}
    assert found == behind


def test_behind_the_last_attention_only_the_first_token_counts(tiny_bert, examples):
    """The logits come nearer than with a fit to all tokens, though most of those come less near."""
    removed = plan("attention:3 ffn:3")
    settings = CompensationSettings(rank=4, ridge=0.01)
    fitted = compensate(tiny_bert, removed, examples, settings=settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting_module, "reads_first_token_alone", lambda model: False)
        of_all = compensate(tiny_bert, removed, examples, settings=settings)
    batch = examples.batch(range(len(examples)))
    mask = batch["attention_mask"].bool()

    def distances(corrections):
        with torch.no_grad():
            expected = tiny_bert.bert(**batch)[0]
            with bypass(tiny_bert, removed, corrections):
                wrong = (tiny_bert.bert(**batch)[0] - expected).pow(2).mean(-1)
        return float(wrong[:, 0].mean()), float(wrong[mask].mean())

    assert distances(fitted)[0] < distances(of_all)[0]
    assert distances(fitted)[1] > distances(of_all)[1]


def test_adjacent_layers_are_one_map_and_folding_changes_nothing(tiny_bert, examples):
    """For linear layers the one map of a run is the product of the maps of its layers."""

    class LinearLayer(nn.Module):
        def __init__(self, seed):
            super().__init__()
            draw = torch.Generator().manual_seed(seed)
            self.register_buffer("matrix", torch.eye(32) + torch.randn(32, 32, generator=draw) / 32)

        def forward(self, hidden_states, *args, **kwargs):
            moved = hidden_states @ self.matrix
            return moved if transformers.__version__ >= "5" else (moved,)

    layers = tiny_bert.bert.encoder.layer
    layers[1], layers[2] = LinearLayer(1), LinearLayer(2)
    settings = CompensationSettings(form="affine", ridge=0)
    run = compensate(tiny_bert, plan("layer:1-2"), examples, settings=settings)
    assert list(run) == [Site(2, "layer")]
    apart = [compensate(tiny_bert, plan(f"layer:{k}"), examples, settings=settings)[Site(k, "layer")] for k in (1, 2)]
    maps = [torch.eye(32) + one.correction.map.weight for one in (*apart, run[Site(2, "layer")])]
    assert torch.allclose(CENTRED @ maps[0].T @ maps[1].T, CENTRED @ maps[2].T, atol=1e-3)
    assert distance(tiny_bert, examples, plan("layer:1-2"), run) < 1e-7


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("layer:1-2,4 attention:5 ffn:5", [2, 1, 1, 1]),
        ("layer:1 attention:2 ffn:2 attention:4 norm=skip", [3, 1]),
        ("ffn:1 attention:2 ffn:3 norm=skip", [2, 1]),
    ],
)
def test_sites_without_a_layernorm_between_them_are_one_run(text, lengths):
    assert [len(run) for run in runs_of(plan(text))] == lengths


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_run_of_sublayers_carries_one_correction(family, examples, tmp_path):
    model = build(family).eval()
    examples, removed = fitting(model, examples), plan("ffn:1 attention:2 norm=skip")
    fitted = compensate(model, removed, examples, settings=CompensationSettings(rank=8))
    assert list(fitted) == [Site(2, "attention")]
    assert distance(model, examples, removed, fitted) < distance(model, examples, removed)
    with bypass(model, removed, fitted):
        expected = logits(model, examples)
    save_pruned(drop(model, removed, fitted), tmp_path / "out", format="compact")
    assert torch.allclose(logits(load_pruned(tmp_path / "out"), examples), expected, atol=1e-5)


# -- what is refused ----------------------------------------------------------------------------------------------


def test_a_rank_over_the_width_is_refused(tiny_bert, examples):
    with pytest.raises(CompensationError, match="compensation_rank 33 is over the model's width of 32"):
        compensate(tiny_bert, plan("ffn:1"), examples, settings=CompensationSettings(rank=33))


def test_an_empty_plan_and_a_tiny_slice_are_refused(tiny_bert, examples):
    with pytest.raises(CompensationError, match="nothing to compensate"):
        compensate(tiny_bert, PruningPlan(), examples)
    with pytest.raises(CompensationError, match="has 2 examples; at least 4"):
        compensate(tiny_bert, plan("ffn:1"), part(examples, 2))


def test_a_rank_that_the_slice_does_not_determine_is_lowered_and_said(tiny_bert, examples):
    few = part(examples, 4, longest=4)
    fitted = compensate(tiny_bert, plan("ffn:1"), few, settings=CompensationSettings(rank=30))
    assert fitted.fits[Site(1, "ffn")].rank < 30
    assert "rank 30 lowered to" in fitted.notes[0]


def part(examples, n, longest=99):
    features = {name: [row[:longest] for row in rows[:n]] for name, rows in examples.features.items()}
    data = dataclasses.replace(examples.data, dataset=examples.data.dataset.select(range(n)))
    lengths = examples.lengths[:n].clip(max=longest)
    return dataclasses.replace(examples, data=data, features=features, lengths=lengths)


def test_overflow_is_said(tiny_bert, examples):
    tiny_bert.bert.encoder.layer[0].output.dense.bias.data[0] = float("inf")
    with pytest.raises(CompensationError, match="not all finite"):
        compensate(tiny_bert, plan("ffn:1"), examples)


def test_a_fit_too_large_for_the_stored_type_is_refused():
    correction = Correction(4, CorrectionSpec(0))
    correction.bias.data.fill_(1e6)
    with pytest.raises(CompensationError, match=r"too large for the torch\.float16"):
        rounded(FittedSite(correction), torch.float16, Site(1, "ffn"))


def test_faulty_settings_are_listed_together():
    with pytest.raises(CompensationError, match=r"compensation_rank must be.*compensation_ridge must be"):
        CompensationSettings(rank=0, ridge=-1)
    with pytest.raises(CompensationError, match="before, for the form neurons"):
        CompensationSettings(form="neurons", placement="after")


def test_a_correction_is_checked():
    with pytest.raises(CorrectionError, match="rank 9 is over the model's width 8"):
        Correction(8, CorrectionSpec(9))
    with pytest.raises(CorrectionError, match="unknown placement"):
        CorrectionSpec(1, "beside")
    with pytest.raises(CorrectionError, match="no activation 'gellu'"):
        Correction(8, CorrectionSpec(1, neurons=2, activation="gellu"))


# -- checkpoints --------------------------------------------------------------------------------------------------


def logits(model, examples):
    with torch.no_grad():
        return model(**examples.batch(range(8))).logits


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "electra", "deberta-v2"])
@pytest.mark.parametrize("settings", [{"rank": 5}, {"form": "neurons", "rank": 3, "neurons": 4}])
def test_an_ffn_plan_loads_in_plain_transformers_with_equal_logits(family, settings, examples, tmp_path):
    model = build(family).eval()
    examples, removed = fitting(model, examples), plan("ffn:1-2")
    fitted = compensate(model, removed, examples, settings=CompensationSettings(**settings))
    with bypass(model, removed, fitted):
        expected = logits(model, examples)
    drop(model, removed, fitted)
    assert torch.equal(logits(model, examples), expected)
    save_pruned(model, tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert not any(isinstance(module, Identity) for module in plain.modules())
    assert torch.allclose(logits(plain, examples), expected, atol=1e-5)
    again = load_pruned(tmp_path / "out")
    assert any(isinstance(module, Correction) for module in again.modules())
    assert torch.allclose(logits(again, examples), expected, atol=1e-5)


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.parametrize("settings", [{"rank": 5}, {"placement": "after", "rank": 5}, {"form": "affine"}])
def test_any_plan_loads_compact_with_equal_logits(text, settings, tiny_bert, examples, tmp_path):
    removed = plan(text)
    fitted = compensate(tiny_bert, removed, examples, settings=CompensationSettings(**settings))
    with bypass(tiny_bert, removed, fitted):
        expected = logits(tiny_bert, examples)
    drop(tiny_bert, removed, fitted)
    assert torch.allclose(logits(tiny_bert, examples), expected, atol=1e-6)
    save_pruned(tiny_bert, tmp_path / "out", format="compact")
    assert torch.equal(logits(load_pruned(tmp_path / "out"), examples), logits(tiny_bert, examples))


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        ("attention:1", {"rank": 2}, "attention:1 has no portable form: plain attention is no map of single tokens"),
        ("ffn:1", {"rank": 2, "placement": "after"}, "after the LayerNorm"),
        ("ffn:1", {"form": "affine"}, "a full map is not of low rank"),
        ("layer:1", {"rank": 2}, "a plain layer is no linear map"),
        ("ffn:1", {"form": "neurons", "rank": 32, "neurons": 64}, "takes 128 neurons, and an FFN here has 64"),
    ],
)
def test_what_has_no_portable_form_is_refused(tiny_bert, examples, tmp_path, text, settings, reason):
    fitted = compensate(tiny_bert, plan(text), examples, settings=CompensationSettings(**settings))
    drop(tiny_bert, plan(text), fitted)
    with pytest.raises(CheckpointError, match=reason):
        save_pruned(tiny_bert, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_fit_rounded_to_half_precision_is_what_is_saved(tiny_bert, examples, tmp_path):
    fitted = compensate(tiny_bert, plan("ffn:1"), examples, dtype=torch.float16)
    for tensor in fitted[Site(1, "ffn")].correction.state_dict().values():
        assert torch.equal(tensor, tensor.half().float())
    drop(tiny_bert, plan("ffn:1"), fitted)
    tiny_bert.half()
    save_pruned(tiny_bert, tmp_path / "out")
    again = load_pruned(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(logits(again, examples), logits(tiny_bert.float(), examples))


def test_training_a_portable_checkpoint_shows(tiny_bert, examples, tmp_path):
    fitted = compensate(tiny_bert, plan("ffn:1"), examples, settings=CompensationSettings(rank=5))
    save_pruned(drop(tiny_bert, plan("ffn:1"), fitted), tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    plain.bert.encoder.layer[1].intermediate.dense.weight.data += 0.01
    plain.save_pretrained(tmp_path / "trained")
    with pytest.raises(CheckpointError, match="is not zero"):
        load_pruned(tmp_path / "trained")


def test_a_compensation_survives_its_file(tiny_bert, examples, tmp_path):
    fitted = compensate(tiny_bert, plan("attention:1 ffn:2"), examples, settings=CompensationSettings(form="neurons"))
    found = Compensation.load(fitted.save(tmp_path / "compensation.safetensors"))
    assert (found.plan, found.fits, found.notes) == (fitted.plan, fitted.fits, fitted.notes)
    with bypass(tiny_bert, found.plan, fitted):
        expected = logits(tiny_bert, examples)
    with bypass(tiny_bert, found.plan, found):
        assert torch.equal(logits(tiny_bert, examples), expected)
    (tmp_path / "other").write_text("{}")
    with pytest.raises(CompensationError, match="holds no compensation"):
        Compensation.load(tmp_path / "other")


def test_the_cost_of_a_site_is_counted(tiny_bert, examples):
    removed = plan("ffn:1")
    fitted = compensate(tiny_bert, removed, examples, settings=CompensationSettings(rank=4))
    measured = measure_sites(tiny_bert, removed, fitted, batch_size=2, sequence_length=8, rounds=3)[Site(1, "ffn")]
    width, inner, tokens = 32, tiny_bert.config.intermediate_size, 16
    assert measured.parameters == 2 * 4 * width + width + 2 * width
    assert measured.replaced_parameters == 2 * width * inner + inner + width + 2 * width
    assert measured.flops == 2 * tokens * 2 * 4 * width
    assert measured.replaced_flops == 2 * tokens * 2 * width * inner
    assert measured.latency_ms > 0
    assert measured.replaced_latency_ms > 0


def test_a_task_and_its_tokenizer_will_do(tiny_bert, tiny_tokenizer, examples):
    data: TaskData = examples.data
    one = compensate(tiny_bert, plan("ffn:1"), data, tiny_tokenizer, max_seq_length=32)
    two = compensate(tiny_bert, plan("ffn:1"), examples)
    assert one.fits == two.fits


def test_a_model_that_is_pruned_can_be_compensated_for_more(tiny_bert, examples):
    drop(tiny_bert, plan("layer:0"))
    fitted = compensate(tiny_bert, plan("ffn:1"), examples)
    drop(tiny_bert, plan("ffn:1"), fitted)
    assert tiny_bert.config.prune_bert["plan"] == "layer:0 ffn:2"
    assert list(tiny_bert.config.prune_bert["corrections"]) == ["ffn:2"]


# -- several processes --------------------------------------------------------------------------------------------

PROCESS = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from accelerate import Accelerator
from conftest import make_tiny_bert
from test_compensation import compensation_of
from transformers import BertTokenizerFast

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
fitted = compensation_of(make_tiny_bert(), BertTokenizerFast.from_pretrained({vocab!r}), accelerator)
if accelerator.is_main_process:
    fitted.save({out!r})
accelerator.wait_for_everyone()
accelerator.end_training()  # an exit with the group still there can end in "terminate called"
"""


def compensation_of(model, tokenizer, accelerator=None):
    data = load_task("reviews", splits=("train",), max_samples={"train": 30})["train"]
    settings = CompensationSettings(form="neurons", rank=4, neurons=4)
    examples = encode(tokenizer, data, 32)
    removed = plan("attention:1 ffn:1,3")
    return compensate(model, removed, examples, settings=settings, accelerator=accelerator, batch_size=16)


@pytest.mark.slow
def test_two_processes_equal_one(tiny_tokenizer, tmp_path):
    """Sixteen examples a batch and thirty examples: two batches, one for each process."""
    vocab, out, script = tmp_path / "tokenizer", tmp_path / "fitted", tmp_path / "process.py"
    tiny_tokenizer.save_pretrained(vocab)
    tests = Path(__file__).parent
    script.write_text(PROCESS.format(tests=str(tests), root=str(tests.parent), vocab=str(vocab), out=str(out)))
    launch = torchrun(script)
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    model = make_tiny_bert()
    one, two = compensation_of(model, BertTokenizerFast.from_pretrained(vocab)), Compensation.load(out)
    inputs = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    assert [(fit.rank, fit.ridge, fit.tokens) for fit in one.fits.values()] == [
        (fit.rank, fit.ridge, fit.tokens) for fit in two.fits.values()
    ]
    for site in one:
        assert torch.allclose(one[site].correction(inputs), two[site].correction(inputs), atol=1e-5)
        assert torch.allclose(one[site].norm_weight, two[site].norm_weight, atol=1e-5)
