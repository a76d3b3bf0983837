"""``save_pretrained`` of a model with stand-ins: what it writes is complete, or refused by plain transformers.

A stand-in has no weights, and what transformers would write without them reloads with random ones. So a model with
stand-ins gets a ``save_pretrained`` of its own, which ``Trainer.save_model``, ``push_to_hub`` and wrappers call, too.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from prune_bert.architectures import find_encoder
from prune_bert.storage import write_text
from prune_bert.surgery.guard import unguarded
from prune_bert.surgery.plain_form import plain_form, portable_obstacle
from prune_bert.surgery.plain_state import accept_plain_state
from prune_bert.surgery.probe import SurgeryError
from prune_bert.surgery.record import pruning_record
from prune_bert.surgery.seal import sealed
from prune_bert.surgery.temporary import is_bypassed

COMPACT_MODEL_TYPE = "prune_bert_compact"
COMPACT_WEIGHTS = "pruned_model.safetensors"


def save_whole_from_now_on(model: Any) -> None:
    """Make ``save_pretrained`` of a model, and of the base model in it, write its stand-ins in a form that reloads.

    ``load_state_dict`` takes that form, too. A model without stand-ins is left as it is.
    """
    if not pruning_record(model.config).current_stand_ins():
        return
    encoder = find_encoder(model).layers
    for module in model.modules():
        known = "save_pretrained" in vars(module)
        if isinstance(module, PreTrainedModel) and not known and any(inner is encoder for inner in module.modules()):
            # an attribute of this one model: it goes along when the model is copied or pickled
            vars(module)["save_pretrained"] = functools.partial(save_whole, module)
            accept_plain_state(module)


def save_whole(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """Save a model as ``save_pretrained`` does, with its stand-ins in the portable form, or in the compact one.

    Args:
        model: A model of transformers.
        *args: What ``save_pretrained`` takes.
        **kwargs: Likewise.

    Returns:
        What ``save_pretrained`` returns.

    Raises:
        SurgeryError: The model is bypassed at the moment, or has to go to the hub in the compact form.
    """
    save = unguarded(type(model))
    if is_bypassed(model):
        raise SurgeryError("the model is bypassed at the moment; leave the `with bypass(...)` block before saving it")
    if getattr(model, "_hf_peft_config_loaded", False) or not pruning_record(model.config).current_stand_ins():
        return save(model, *args, **kwargs)  # an adapter alone, which is whole; or nothing that a plain model lacks
    call = inspect.signature(save).bind(model, *args, **kwargs).arguments
    call = {**call.pop("kwargs", {}), **call}
    model, state = call.pop("self"), call.pop("state_dict", None)
    if portable_obstacle(model) is None:
        plain, tensors = plain_form(model, state)
        return save(plain, **{**call, "state_dict": tensors})
    return _save_compact(model, state, call)


def _save_compact(model: PreTrainedModel, state: Mapping[str, torch.Tensor] | None, call: Mapping[str, Any]) -> None:
    directory = Path(os.fspath(call["save_directory"]))
    if call.get("push_to_hub"):
        raise SurgeryError(
            "this pruned model has no form that plain transformers loads: save it to a directory, which "
            "prune_bert.load_pruned loads, and upload that with huggingface_hub.upload_folder"
        )
    if not call.get("is_main_process", True):
        return
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*"):
        for stale in directory.glob(pattern):  # of an earlier save: plain transformers would load it
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    write_compact(model, directory, state)


def write_compact(model: PreTrainedModel, directory: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a model's tensors as they are, with a config that plain transformers refuses and ``load_pruned`` reads.

    Args:
        model: A model after ``drop``.
        directory: It exists.
        state: The model's tensors where they are kept elsewhere.
    """
    from safetensors.torch import save_file

    config = sealed(model.config)
    tensors, shared = _distinct({**model.state_dict(), **(state or {})})
    save_file(tensors, directory / COMPACT_WEIGHTS, metadata={"format": "pt", **shared})
    data: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    data |= {
        "model_type": COMPACT_MODEL_TYPE,
        "base_model_type": config.model_type,
        "architectures": [type(model).__name__],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    write_text(directory / "config.json", json.dumps(data, indent=2, sort_keys=True) + "\n")


def _distinct(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return each tensor once, and for every other name of a tied one the name under which it is kept."""
    names: dict[tuple[Any, ...], str] = {}
    kept, shared = {}, {}
    for name, tensor in sorted(tensors.items()):
        first = names.setdefault((tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name and tensor.numel():
            shared[name] = first
        else:
            kept[name] = tensor.contiguous()
    return kept, shared
