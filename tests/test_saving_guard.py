"""No way of calling `save_pretrained` writes a model with holes in it, whichever model around a pruned one is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_tiny_bert
from transformers import BertForSequenceClassification, PreTrainedModel

from prune_bert import bypass, drop, load_pruned, replace_with_identity
from prune_bert.errors import UserError
from prune_bert.surgery import SurgeryError

IDS = torch.randint(5, 200, (2, 9), generator=torch.Generator().manual_seed(3))


def logits_of(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def reloaded(directory):
    model, info = BertForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    return model


@pytest.mark.parametrize("plan", ["ffn:2", "attention:1 ffn:1", "layer:0 ffn:2"])
def test_the_model_around_a_dropped_one_is_saved_whole(plan, tmp_path):
    model = make_tiny_bert()
    drop(model.bert, plan)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(reloaded(tmp_path / "saved")), logits_of(model))
    assert torch.equal(logits_of(load_pruned(tmp_path / "saved")), logits_of(model))


def test_the_method_of_the_class_saves_whole_too(tmp_path):
    model = drop(make_tiny_bert(), "ffn:2")
    PreTrainedModel.save_pretrained(model, tmp_path / "saved")
    assert torch.equal(logits_of(reloaded(tmp_path / "saved")), logits_of(model))


def test_a_bypassed_model_is_not_saved(tmp_path):
    model = make_tiny_bert()
    with bypass(model, "ffn:2"):
        for one in (model, copy.deepcopy(model), model.bert):
            with pytest.raises(SurgeryError, match="bypassed at the moment"):
                one.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(reloaded(tmp_path / "saved")), logits_of(model))


def test_a_module_that_was_replaced_by_hand_is_named(tmp_path):
    model = make_tiny_bert()
    replace_with_identity(model, "bert.encoder.layer.1.attention")
    with pytest.raises(UserError, match=r"weights .* were replaced by identities \(bert\.encoder\.layer\.1\.attention"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_replaced_module_without_weights_is_no_hole(tmp_path):
    model = make_tiny_bert()
    replace_with_identity(model, "dropout")
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(reloaded(tmp_path / "saved")), logits_of(model))
