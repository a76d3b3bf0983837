"""Which tokens a fit should go by: all of them, or the first alone where nothing reads the others any more.

A classifier of BERT's kind reads the first token of the last layer. Behind the last attention that stays no token sees
another, so only the first one's way through the sites there matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.evaluation.inference import logits_of
from prune_bert.plan import PruningPlan, Site
from prune_bert.stand_ins import Identity
from prune_bert.surgery.probe import base_model_inputs, probing


def reads_first_token_alone(model: nn.Module) -> bool:
    """Return whether a model's logits depend on the first token of its last layer alone, by changing the others.

    This runs two small forwards. A model without logits, such as a base model, reads every token.
    """
    _, inputs = base_model_inputs(model)
    last = find_encoder(model).layers[-1]

    def change(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return _others_changed(output)
        if isinstance(output, tuple):
            return (_others_changed(output[0]), *output[1:])
        raise TypeError

    with probing(model):
        plain = model(**inputs)
        if not hasattr(plain, "logits") or inputs["input_ids"].shape[1] < 2:
            return False
        handle = last.register_forward_hook(change)
        try:
            changed = model(**inputs)
        except TypeError:
            return False
        finally:
            handle.remove()
    return torch.equal(logits_of(plain), logits_of(changed))


def behind_attention(encoder: Encoder, plan: PruningPlan, run: Sequence[Site]) -> bool:
    """Return whether no attention stays behind a site of a plan, or behind a run of layers."""
    staying = [index for index in range(len(encoder.layers)) if _attention_stays(encoder, plan, index)]
    last, site = max(staying, default=-1), run[-1]
    return site.layer > last or (site.layer == last and site.component == "ffn")


def _attention_stays(encoder: Encoder, plan: PruningPlan, index: int) -> bool:
    layer = encoder.layers[index]
    if isinstance(layer, Identity) or Site(index) in plan or Site(index, "attention") in plan:
        return False
    if encoder.architecture is None:
        return True
    modules = dict(layer.named_modules())
    return not any(isinstance(modules.get(part.path), Identity) for part in encoder.parts("attention", plan.norm))


def _others_changed(hidden: torch.Tensor) -> torch.Tensor:
    """Change every token but the first, ``(batch, seq, hidden)``."""
    changed = hidden.clone()
    changed[:, 1:] = changed[:, 1:] * 2 + 1
    return changed
