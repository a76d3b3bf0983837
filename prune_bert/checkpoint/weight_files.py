"""Which files of a directory transformers will read weights from, and whether they are fit to be read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.surgery.saving_whole import COMPACT_MODEL_TYPE, COMPACT_WEIGHTS

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"

# The config's key for a weight file of another name.
_NAMED_FILE = "transformers_weights"


def weight_files(directory: Path, config: dict[str, Any], allow_pickle: bool) -> list[Path]:
    """Find the files that hold a checkpoint's weights, by the rules of transformers, and check that they can be read.

    Args:
        directory: A model directory.
        config: Its ``config.json``.
        allow_pickle: Whether pickled weights will do.

    Returns:
        The files; pickles only where there are no safetensors and they are allowed.

    Raises:
        CheckpointError: If weights are absent, pickled, corrupted or truncated, lie outside the directory, or an
            adapter lies beside them; the message names the file and what to do.
    """
    if (directory / ADAPTER).is_file():
        raise CheckpointError(
            f"{str(directory)!r} holds a LoRA adapter ({ADAPTER}) beside a model's own weights, which transformers "
            "would add to them without a word: merge it (peft: merge_and_unload) and save the whole model, or move the "
            "adapter's files elsewhere"
        )
    file = _file_read(directory, config, allow_pickle)
    if file.name.endswith(".index.json"):
        files = [_shard(directory, file, name) for name in _shard_names(file)]
    else:
        files = [file]
    for one in files:
        if one.suffix == ".safetensors":
            _check_safetensors(one)
        elif not allow_pickle:
            raise _pickled(directory, f"{file.name} names {one.name}")
    return files


def stored_tensors(files: Iterable[Path]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type, by safetensors' name for it, and the shape of each tensor in safetensors files, by name."""
    from safetensors import safe_open

    found = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                view = tensors.get_slice(name)
                found[name] = (str(view.get_dtype()), tuple(view.get_shape()))
    return found


def _file_read(directory: Path, config: dict[str, Any], allow_pickle: bool) -> Path:
    """Return the one file that transformers begins with: weights, or an index of them."""
    if config.get("model_type") == COMPACT_MODEL_TYPE:
        named: Any = COMPACT_WEIGHTS
    else:
        named = config.get(_NAMED_FILE)
    if named is not None:
        if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
            raise CheckpointError(
                f"{str(directory)!r}: config.json has {_NAMED_FILE} {str(named)[:60]!r}, which is no safetensors file; "
                "remove that key, or convert the weights to safetensors"
            )
        return _inside(directory, "config.json", named)
    for name in (SAFETENSORS, SAFETENSORS_INDEX):
        if (directory / name).is_file():
            return directory / name
    pickles = [name for name in (PICKLE, PICKLE_INDEX) if (directory / name).is_file()]
    if not pickles:
        others = sorted(file.name for file in directory.glob("*.safetensors"))
        but = f" (transformers does not read {others[0]})" if others else ""
        raise CheckpointError(f"{str(directory)!r} has no weights: no {SAFETENSORS} in it{but}")
    if not allow_pickle:
        raise _pickled(directory, pickles[0])
    return directory / pickles[0]


def _pickled(directory: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{str(directory)!r} has only pickled weights ({what}), which can run code when loaded; convert them to "
        "safetensors, or pass --allow_pickle true if you trust where they come from"
    )


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{str(index)!r} is no index of weight files ({type(error).__name__}): copy or download the model again"
        ) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{str(index)!r} names no weight files: copy or download the model again")
    return names


def _shard(directory: Path, index: Path, name: str) -> Path:
    return _inside(directory, index.name, name)


def _inside(directory: Path, source: str, name: str) -> Path:
    """Return the path of a file that another one names, which must lie in the directory.

    The files of a snapshot in the hub's cache are links to the blobs of the same repository.
    """
    file = directory / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise _outside(directory, source, name)
    if not file.is_file():
        raise CheckpointError(f"{str(directory)!r}: {source} names {name!r}, which is not there: copy it here, too")
    root = directory.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    target = file.resolve()
    if not target.is_relative_to(root) and not (blobs is not None and target.is_relative_to(blobs)):
        raise _outside(directory, source, name)
    return file


def _outside(directory: Path, source: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"{str(directory)!r}: {source} names weights outside the directory ({name[:60]!r}); put them into it"
    )


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        text = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{str(file)!r} is corrupted or truncated ({text}): copy or download it again") from error
