"""The worked examples of CONTRIBUTING.md do what they say: a family, a scorer and a verb of one's own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from families import SIZES, logits

import prune_bert.pipeline
from prune_bert import PruningPlan, bypass, drop, load_model, save_pruned, score_sites
from prune_bert.architectures import ARCHITECTURES, ArchitectureError
from prune_bert.cli import main
from prune_bert.config import VERBS, Config, ModelOptions
from prune_bert.importance import SCORERS, Scorer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from run_examples import blocks  # noqa: E402

FAMILY, SCORER, VERB = (block.text for block in blocks((ROOT / "CONTRIBUTING.md").read_text(), "python"))


@pytest.mark.parametrize("example", [FAMILY, SCORER, VERB])
def test_an_example_is_short(example):
    assert len(example.splitlines()) <= 15


def run(example, **names):
    exec(compile(example, "CONTRIBUTING.md", "exec"), names)
    return names


def tiny_ernie():
    torch.manual_seed(0)
    return transformers.ErnieForSequenceClassification(transformers.ErnieConfig(**SIZES)).eval()


@pytest.mark.parametrize("plan", ["attention:1", "ffn:0,3", "layer:2 attention:0 ffn:1", "attention:1 ffn:2 norm=skip"])
def test_the_family_is_pruned_like_any_other(plan, monkeypatch, tmp_path):
    plan = PruningPlan.parse(plan)
    monkeypatch.setitem(ARCHITECTURES, "ernie", run(FAMILY)["_ERNIE"])
    model = tiny_ernie()
    before = logits(model)
    with bypass(model, plan):
        bypassed = logits(model)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(bypassed, before, atol=1e-4)
    drop(model, plan)
    torch.testing.assert_close(logits(model), bypassed, rtol=1e-4, atol=1e-5)
    form = "compact" if plan.norm == "skip" else "portable"
    save_pruned(model, tmp_path / "pruned", format=form)  # reloads and compares


def test_without_the_entry_the_family_has_no_sublayers(monkeypatch):
    """The example adds something: else another family has to take its place."""
    monkeypatch.delitem(ARCHITECTURES, "ernie", raising=False)
    with pytest.raises(ArchitectureError, match="sublayers"):
        bypass(tiny_ernie(), PruningPlan.parse("attention:1"))


def test_the_scorer_scores(monkeypatch, tiny_bert):
    names = run(SCORER)
    scorers = {**SCORERS, "largest_weight": Scorer(names["largest_weight"], needs_data=False)}
    monkeypatch.setattr("prune_bert.importance.scoring.SCORERS", scorers)
    with torch.no_grad():
        tiny_bert.bert.encoder.layer[2].output.dense.weight[0, 0] = -99.0
    scores = score_sites(tiny_bert, scorer="largest_weight", components=("layer", "ffn"))
    assert {str(site) for site in scores.ranking()[-2:]} == {"ffn:2", "layer:2"}
    assert max(scores.values.values()) == 99.0


def test_the_verb_runs(monkeypatch, tiny_checkpoint, capsys):
    names = run(
        VERB,
        dataclass=dataclass,
        ModelOptions=ModelOptions,
        Config=Config,
        Sequence=Sequence,
        load_model=load_model,
        sys=sys,
        __name__=__name__,
    )
    verbs = {**VERBS, "count": names["CountConfig"]}
    monkeypatch.setattr("prune_bert.cli.parser.VERBS", verbs)
    monkeypatch.setattr("prune_bert.config.loading.VERBS", verbs)
    monkeypatch.setattr(prune_bert.pipeline, "run_count", names["run_count"], raising=False)
    assert main(["count", "--model_name_or_path", str(tiny_checkpoint)]) == 0
    parameters = load_model(str(tiny_checkpoint)).model.num_parameters()
    assert capsys.readouterr().out == f"{parameters} parameters\n"
    assert main(["count", "--model_name_or_path", str(tiny_checkpoint), "--print_config"]) == 0
    assert capsys.readouterr().out.startswith("# prune-bert count")
