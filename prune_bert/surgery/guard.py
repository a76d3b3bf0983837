"""The guard of ``PreTrainedModel.save_pretrained``: no model with stand-ins is saved with holes in it.

A stand-in has no weights. Without them transformers writes a checkpoint that reloads with random ones, and a warning is
all that it says. A model that `drop` returned has a ``save_pretrained`` of its own, but a model around it has not, nor
has one that is bypassed, or in which `replace_with_identity` replaced something.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from prune_bert.stand_ins import Identity
from prune_bert.surgery.probe import SurgeryError, quiet_transformers
from prune_bert.surgery.record import pruning_record

Save = Callable[..., Any]


def guard_saving() -> None:
    """Let ``save_pretrained`` of every model of transformers look for stand-ins first; once for each process.

    Models without stand-ins are saved as before.
    """
    original: Any = PreTrainedModel.save_pretrained
    if hasattr(original, "prune_bert_unguarded"):
        return

    @functools.wraps(original)
    def save_pretrained(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        return _saving(self)(self, *args, **kwargs)

    guarded: Any = save_pretrained
    guarded.prune_bert_unguarded = original
    untyped: Any = PreTrainedModel
    untyped.save_pretrained = guarded


def unguarded(kind: type[PreTrainedModel]) -> Save:
    """Return the ``save_pretrained`` of a class without the guard."""
    save: Any = kind.save_pretrained
    found: Save = getattr(save, "prune_bert_unguarded", save)
    return found


def _saving(model: PreTrainedModel) -> Save:
    """Return the function that saves a model whole.

    Raises:
        SurgeryError: There is none: the model is bypassed, or a module was replaced that `drop` knows nothing of.
    """
    from prune_bert.surgery.saving_whole import save_whole

    stand_ins = [module for module in model.modules() if isinstance(module, Identity)]
    if not stand_ins:
        return unguarded(type(model))
    if any(module.identity_temporary for module in stand_ins):
        raise SurgeryError("the model is bypassed at the moment; leave the `with bypass(...)` block before saving it")
    if hasattr(model.config, "num_hidden_layers") and pruning_record(model.config).current_stand_ins():
        return save_whole
    lost = _lost_weights(model)
    if lost:
        raise SurgeryError(
            f"{len(lost)} weights that a {type(model).__name__} has were replaced by identities ({lost[0]}), and would "
            "be random when it is loaded: remove sites with prune_bert.drop, or save the state_dict with torch.save"
        )
    return unguarded(type(model))


def _lost_weights(model: PreTrainedModel) -> list[str]:
    """Name the weights that a model of this class and config has, and this one has not."""
    with torch.device("meta"), quiet_transformers():
        whole: Any = type(model)(model.config)
    return sorted(whole.state_dict().keys() - model.state_dict().keys())
