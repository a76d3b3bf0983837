"""``load_pruned``: a pruned checkpoint with its stand-ins in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint.portable import blank_corrections, read_corrections
from prune_bert.checkpoint.sources import (
    COMPACT_MODEL_TYPE,
    COMPACT_WEIGHTS,
    CheckpointError,
    check_weights,
    read_config,
)
from prune_bert.surgery import CONFIG_KEY, install_stand_ins, pruning_record


def load_pruned(directory: str | Path, *, dtype: torch.dtype | None = None, **settings: Any) -> PreTrainedModel:
    """Load what ``save_pruned`` wrote, in either format, with its stand-ins in place and so at its full speed.

    Args:
        directory: The checkpoint's directory.
        dtype: The type of the weights; by default as saved.
        **settings: Passed on to ``from_pretrained``, such as ``attn_implementation``.

    Returns:
        The model in evaluation mode, of the class that was saved.

    Raises:
        CheckpointError: If the directory holds no pruned checkpoint, a file is damaged, or the weights of a removed
            sublayer are no longer zero (the checkpoint was trained after it was pruned).

    Example:
        >>> directory = save_pruned(drop(model, "layer:1 ffn:3"), output_dir, format="compact")
        >>> load_pruned(directory).config.num_hidden_layers
        3
    """
    directory = Path(directory)
    data = read_config(directory)
    check_weights(directory, allow_pickle=False)
    if CONFIG_KEY not in data:
        raise CheckpointError(f"{str(directory)!r} was not written by save_pruned; load it with from_pretrained")
    if data.get("model_type") == COMPACT_MODEL_TYPE:
        return _load_compact(directory, data, dtype, settings)
    model = _model_class(data, directory).from_pretrained(directory, dtype=dtype or "auto", **settings)
    corrections = read_corrections(model)
    before = model.state_dict()
    install_stand_ins(model, pruning_record(model.config).current_stand_ins(), corrections)
    _check_zero(directory, before, model)
    return model


def _load_compact(
    directory: Path, data: dict[str, Any], dtype: torch.dtype | None, settings: dict[str, Any]
) -> PreTrainedModel:
    from safetensors.torch import load_model

    settings_of_model = {key: value for key, value in data.items() if key not in ("model_type", "dtype")}
    config = transformers.AutoConfig.for_model(data["base_model_type"], **settings_of_model)
    saved = getattr(torch, str(data.get("dtype") or "float32"))
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        # The one way to build from a config with a dtype and an attention implementation; it carries no types.
        build: Any = _model_class(data, directory)._from_config
        model: PreTrainedModel = build(config, dtype=dtype or saved, **settings)
    install_stand_ins(model, pruning_record(model.config).current_stand_ins(), blank_corrections(model))
    missing, unexpected = load_model(model, directory / COMPACT_WEIGHTS, strict=False)
    if missing or unexpected:
        names = ", ".join(sorted([*missing, *unexpected])[:4])
        raise CheckpointError(f"{str(directory)!r}: the weights do not fit the plan in config.json ({names})")
    model.train(False)
    return model


def _model_class(data: dict[str, Any], directory: Path) -> type[PreTrainedModel]:
    names = data.get("architectures") or []
    found = getattr(transformers, names[0], None) if names else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise CheckpointError(f"{str(directory)!r}: config.json names no model class of transformers ({names})")
    return found


def _check_zero(directory: Path, before: dict[str, torch.Tensor], model: nn.Module) -> None:
    """A portable checkpoint holds zeros where sublayers were removed, unless somebody has trained it since."""
    for name in before.keys() - model.state_dict().keys():
        if before[name].count_nonzero():
            raise CheckpointError(
                f"{str(directory)!r}: {name} belongs to a removed sublayer but is not zero (trained after it was "
                "pruned?); load it with from_pretrained, which gives the trained model at the unpruned speed"
            )
