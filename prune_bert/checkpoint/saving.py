"""``save_pruned``: a checkpoint that reloads with equal logits, or is not written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune_bert.checkpoint.portable import check_portable, plain_model
from prune_bert.checkpoint.pruned import load_pruned
from prune_bert.checkpoint.sources import COMPACT_MODEL_TYPE, COMPACT_WEIGHTS, CheckpointError
from prune_bert.checkpoint.staging import staged_directory
from prune_bert.stand_ins import Identity
from prune_bert.surgery import evaluation_mode, pruning_record
from prune_bert.surgery.probe import base_model_inputs
from prune_bert.surgery.temporary import is_bypassed

CheckpointFormat = Literal["portable", "compact"]


def save_pruned(
    model: PreTrainedModel,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    format: CheckpointFormat = "portable",
    *,
    overwrite: bool = False,
    extra_files: dict[str, str] | None = None,
) -> Path:
    """Save a dropped model as safetensors, and check that it reloads with equal outputs before it takes its name.

    ``"portable"`` loads with plain ``from_pretrained``, without prune_bert: removed layers are gone, and a removed
    sublayer under ``norm=keep`` is written as zeros, since ``LN(x + 0)`` is what its stand-in computes; the low-rank
    correction of a compensated FFN is written as twice as many neurons as its rank, which compute the same.
    ``"compact"`` leaves removed sublayers out; ``load_pruned`` loads it, and plain transformers refuses it.

    Args:
        model: A model after ``drop``.
        output_dir: The directory to write.
        tokenizer: Goes along, if given.
        format: ``"portable"`` or ``"compact"``.
        overwrite: Replace the directory if it exists.
        extra_files: Further text files for the directory, by name, such as a model card.

    Returns:
        The directory.

    Raises:
        CheckpointError: If the directory may not be written, the plan has no portable form, the model carries
            stand-ins that ``drop`` did not put there, or the reload differs.

    Example:
        >>> directory = save_pruned(drop(model, "layer:1 ffn:3"), output_dir, tokenizer)
    """
    _check(model, format)
    with staged_directory(output_dir, overwrite) as staging:
        if format == "compact":
            _write_compact(model, staging)
        else:
            plain_model(model).save_pretrained(staging, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        for name, text in (extra_files or {}).items():
            (staging / name).write_text(text, encoding="utf-8")
        _check_reload(model, staging, format)
    return Path(output_dir)


def _check(model: PreTrainedModel, format: str) -> None:
    if format not in get_args(CheckpointFormat):
        raise CheckpointError(
            f"unknown checkpoint format {format!r}, expected {' | '.join(get_args(CheckpointFormat))}"
        )
    if is_bypassed(model):
        raise CheckpointError(
            "the model is bypassed at the moment: leave the block and drop(model, plan) before saving"
        )
    if format == "portable":
        check_portable(model)
    standing = pruning_record(model.config).current_stand_ins()
    if not standing and any(isinstance(module, Identity) for module in model.modules()):
        raise CheckpointError(
            "the model has identities that drop(model, plan) did not put there; it would reload with random weights "
            "in their place"
        )


def _write_compact(model: PreTrainedModel, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(directory / COMPACT_WEIGHTS), metadata={"format": "pt"})
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    config |= {
        "model_type": COMPACT_MODEL_TYPE,
        "base_model_type": model.config.model_type,
        "architectures": [type(model).__name__],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_reload(model: PreTrainedModel, directory: Path, format: str) -> None:
    # Neurons in the place of a correction round differently, which in half precision shows.
    corrected = bool(pruning_record(model.config).corrections)
    ours = nn.Module.to(copy.deepcopy(model), dtype=torch.float32) if corrected else model
    settings = {"dtype": ours.dtype, "attn_implementation": model.config._attn_implementation}
    reloaded: nn.Module
    if format == "compact":
        reloaded = load_pruned(directory, **settings)
    else:
        reloaded = type(model).from_pretrained(directory, **settings)
    expected, found = _outputs(ours), _outputs(nn.Module.to(reloaded, device=model.device))
    # Equal to the last bit, but for a device that chooses another kernel for the zeroed form.
    close = 1e-4 if corrected else 1e-5
    if not torch.allclose(expected, found, rtol=close, atol=close, equal_nan=True):
        worst = (expected - found).abs().max().item()
        raise CheckpointError(
            f"the checkpoint reloads with other logits than the model in memory (largest difference {worst:.2g}); "
            "nothing was written"
        )


def _outputs(model: nn.Module) -> torch.Tensor:
    base, inputs = base_model_inputs(model)
    try:
        with evaluation_mode(model):
            return _first(model(**inputs))
    except (
        ValueError,
        RuntimeError,
    ):  # a head that wants more than token ids: the encoder is what was pruned
        with evaluation_mode(base):
            return _first(base(**inputs))


def _first(output: Any) -> torch.Tensor:
    first = getattr(output, "logits", None)
    tensor: torch.Tensor = output[0] if first is None else first
    return tensor.float()
