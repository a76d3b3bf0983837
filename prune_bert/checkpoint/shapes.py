"""Tensors of a checkpoint that do not have the shape which the model gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prune_bert.checkpoint.sources import CheckpointError


def check_shapes(name: str, model: nn.Module, info: Mapping[str, Any], *, beside: str = "") -> None:
    """Refuse tensors of another shape, in whose place transformers has put random ones.

    Args:
        name: The checkpoint's directory, or its name on the hub.
        model: What was loaded from it.
        info: What ``from_pretrained(..., output_loading_info=True)`` said.
        beside: Only tensors whose names begin with this count; by default all.

    Raises:
        CheckpointError: It names tensors and both their shapes.
    """
    found = [item if isinstance(item, str) else str(item[0]) for item in info.get("mismatched_keys") or ()]
    wrong = sorted(key for key in found if key.startswith(beside))
    if not wrong:
        return
    built = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    said = {str(item[0]): tuple(item[1]) for item in info["mismatched_keys"] if not isinstance(item, str)}
    stored = said or _stored_shapes(Path(name), wrong)  # transformers 4.57 says only which
    key, more = wrong[0], f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise CheckpointError(
        f"cannot load the model {name!r}: its tensors have other shapes than its config.json says ({key} is "
        f"{stored.get(key, 'of another shape')}, and the model needs {built.get(key)}{more}); one of the two belongs "
        "to another model"
    )


def _stored_shapes(directory: Path, keys: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read the shapes of tensors from safetensors files, where the prefix of the base model may be left out."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")) if directory.is_dir() else ():
        with safe_open(file, framework="pt") as tensors:
            shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118  # no mapping
    found = {key: shapes.get(key, shapes.get(key.partition(".")[2])) for key in keys}
    return {key: shape for key, shape in found.items() if shape is not None}
