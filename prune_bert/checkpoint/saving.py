"""``save_pruned``: a checkpoint that reloads with equal logits, or is not written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune_bert.checkpoint.portable import check_portable
from prune_bert.checkpoint.reloading import check_reload
from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.profiling import OUTPUT_FLAGS, plain_outputs
from prune_bert.stand_ins import Identity
from prune_bert.storage import OutputError, output_directory, staged_directory, write_text
from prune_bert.surgery import Rebuilding, pruning_record
from prune_bert.surgery.plain_form import plain_model
from prune_bert.surgery.saving_whole import write_compact
from prune_bert.surgery.seal import sealed
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
        overwrite: Replace the directory if prune_bert wrote all that is in it, and nothing of it was changed since.
        extra_files: Further text files for the directory, by name, such as a model card.

    Returns:
        The directory.

    Raises:
        CheckpointError: If the directory may not be written, the plan has no portable form, the model carries
            stand-ins that ``drop`` did not put there, or the reload differs.

    Examples:
        >>> directory = save_pruned(drop(model, "layer:1 ffn:3"), output_dir, tokenizer)
    """
    _check(model, format)
    flags = {name: getattr(model.config, name, value) for name, value in OUTPUT_FLAGS.items()}
    with _staged(output_dir, overwrite) as staging, plain_outputs(model.config):
        if format == "compact":
            write_compact(model, staging)
        else:
            plain = plain_model(model)
            plain.save_pretrained(staging, safe_serialization=True)
            sealed(plain.config).save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        for name, text in (extra_files or {}).items():
            write_text(staging / name, text)
        check_reload(model, staging, format)
        _write_output_flags(flags, staging)
    return Path(output_dir)


@contextmanager
def _staged(output_dir: str | Path, overwrite: bool) -> Iterator[Path]:
    try:
        with staged_directory(output_directory(output_dir, overwrite)) as staging:
            yield staging
    except OutputError as error:
        raise CheckpointError(str(error)) from error


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
    record = pruning_record(model.config)
    if len(record.original_layer_indices) < record.original_num_hidden_layers:
        obstacle = Rebuilding(model).obstacle()
        if obstacle:
            raise CheckpointError(f"a model pruned by {record.plan} cannot be saved: {obstacle}")
    standing = record.current_stand_ins()
    if not standing and any(isinstance(module, Identity) for module in model.modules()):
        raise CheckpointError(
            "the model has identities that drop(model, plan) did not put there; it would reload with random weights "
            "in their place"
        )


def _write_output_flags(flags: dict[str, Any], directory: Path) -> None:
    """Write what the user's config asked of a model's outputs, after the check.

    With ``output_attentions`` transformers neither saves nor loads what runs ``sdpa``.
    """
    file = directory / "config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    changed = {name: value for name, value in flags.items() if value is not OUTPUT_FLAGS[name]}
    if changed:
        write_text(file, json.dumps(config | changed, indent=2, sort_keys=True) + "\n")
