"""One guard for every way in which a model is loaded: each weight it has was read, and each weight read has a place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from prune_bert.checkpoint.shapes import check_shapes
from prune_bert.checkpoint.sources import MOST_LAYERS, CheckpointError
from prune_bert.errors import UserError

_NAMED = 3

# The names that families give to the number of their layers in config.json.
_DEPTH_KEYS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")


def check_depth(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a config whose number of layers is none.

    Raises:
        CheckpointError: It names the key and its value.
    """
    for key in _DEPTH_KEYS:
        depth = config.get(key, 1)
        if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= MOST_LAYERS:
            raise CheckpointError(
                f"{name!r}: config.json says {key} {str(depth)[:40]!r}, not a number of layers of 1 or more; copy or "
                "download the model again"
            )


def check_complete(
    name: str,
    model: PreTrainedModel,
    info: Mapping[str, Any],
    *,
    new_head: bool = False,
    require_head: bool = True,
    strict: bool = False,
) -> tuple[str, ...]:
    """Refuse a model of which a weight would be random, or to which a weight of the checkpoint was not given.

    Args:
        name: The model's name, for the message.
        model: The model loaded.
        info: What ``from_pretrained`` says with ``output_loading_info`` and ``ignore_mismatched_sizes``; keys that
            transformers itself declares ignorable are not in it.
        new_head: The head is to be trained from scratch, so it may be missing or of another shape.
        require_head: The head may not be missing.
        strict: Weights without a place are refused outside the encoder, too, not noted.

    Returns:
        Notes on weights that were left out.

    Raises:
        CheckpointError: Naming the first of the weights.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    check_shapes(name, model, info, beside=_prefix(model) if new_head else "")
    depth = f"config.json says num_hidden_layers {getattr(model.config, 'num_hidden_layers', None)}"
    lacking = _of_encoder(model, missing)
    if lacking:
        raise CheckpointError(
            f"{name!r} lacks {len(lacking)} weights of its encoder ({_first(lacking)}), which would be random; "
            f"{depth}; is that of another model, or was a layer deleted without the config?"
        )
    over = unexpected if strict and not new_head else _in_encoder(model, unexpected)
    if over:
        raise CheckpointError(
            f"{name!r} has {len(over)} weights without a place in the model ({_first(over)}), which would be left out; "
            f"{depth}; is that of another model?"
        )
    if missing and require_head and not new_head:
        raise CheckpointError(
            f"{name!r} has no trained classification head ({_first(missing)} would be random, and so would the "
            "accuracy); fine-tune it first: prune-bert train --model_name_or_path ... --task_name ... --output_dir ..."
        )
    if unexpected and not new_head and require_head:
        return (f"the checkpoint has {len(unexpected)} weights that the model has no use for ({_first(unexpected)})",)
    return ()


def _of_encoder(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Return those of a model's own keys that lie in its base model, but for a pooler's."""
    return sorted(key for key in keys if key.startswith(_prefix(model)) and "pooler" not in key)


def _prefix(model: PreTrainedModel) -> str:
    return f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""


def _in_encoder(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Return those of foreign keys that name a weight of the base model, by the names of a headless one, too."""
    base = model.base_model
    children = tuple(f"{name}." for name, _ in base.named_children() if name != "pooler")
    prefixes = (*children, *(f"{model.base_model_prefix}.{child}" for child in children))
    return sorted(key for key in keys if key.startswith(prefixes) and "pooler" not in key)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")


@contextmanager
def readable_errors(name: str, what: str = "model") -> Iterator[None]:
    """Turn what transformers says of a checkpoint into one line that says what to do.

    Raises:
        CheckpointError: In the place of whatever was raised, but for errors that say so themselves.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, KeyError, ImportError and more
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise CheckpointError(
                f"{name!r} brings code of its own; pass --trust_remote_code true to run it if you trust where it comes "
                "from"
            ) from error
        raise CheckpointError(f"cannot load the {what} {name!r}: {text[:200] or type(error).__name__}") from error
