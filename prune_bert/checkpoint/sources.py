"""Telling what a model's name names, and whether its files are fit to load."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from prune_bert.errors import UserError
from prune_bert.knobs import short
from prune_bert.text_files import UnreadableError, expanded, has_lone_surrogate, parse_json, read_text_file

# More than any model has; building as many as a damaged number says would take all memory.
MOST_LAYERS = 1_000
_HUB_TIMEOUT_S = 10.0


class CheckpointError(UserError, ValueError):
    """A model that cannot be loaded or saved as asked."""


def resolve(name_or_path: str) -> Path | None:
    """Distinguish a local directory from a hub id.

    Returns:
        The directory, or None where the name can only be a hub id.

    Raises:
        CheckpointError: If it is a path and nothing of a model lies there.
    """
    path = expanded(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"model_name_or_path {name_or_path!r} is a file; name the directory that holds it")
    looks_local = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or "\\" in name_or_path
    if looks_local or (path.parent != Path() and path.parent.is_dir()):
        siblings = [item.name for item in path.parent.iterdir() if item.is_dir()] if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
        guess = f"; did you mean {str(path.parent / nearest[0])!r}?" if nearest else ""
        raise CheckpointError(f"model_name_or_path {name_or_path!r}: there is no such directory{guess}")
    return None


def read_config(directory: Path) -> dict[str, Any]:
    """Read a checkpoint's ``config.json``.

    Raises:
        CheckpointError: If it is missing, or no JSON mapping.
    """
    file = directory / "config.json"
    if not file.is_file():
        hint = "; it holds a LoRA adapter: merge it first" if (directory / "adapter_config.json").is_file() else ""
        raise CheckpointError(f"{str(directory)!r} has no config.json, so it is no model directory{hint}")
    try:
        config = parse_json(read_text_file(file))
    except UnreadableError as error:
        raise CheckpointError(f"{str(file)!r} is not JSON ({error}): copy or download the model again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(file)!r} holds no mapping: copy or download the model again")
    _check_labels(config.get("id2label"), file)
    depth = config.get("num_hidden_layers")
    if isinstance(depth, int) and depth > MOST_LAYERS:
        raise CheckpointError(f"{str(file)!r}: num_hidden_layers {short(depth)} is more than any model has")
    return config


def _check_labels(labels: object, file: Path) -> None:
    """Refuse what is no mapping from ids to names: transformers takes it, and fails or misnames classes later.

    Raises:
        CheckpointError: Naming the first fault.
    """
    if labels is None:
        return
    what = f"{str(file)!r}: id2label is to map the ids 0, 1, ... to names"
    if not isinstance(labels, dict):
        raise CheckpointError(f"{what}, and is a {type(labels).__name__}")
    for key, name in labels.items():
        if not isinstance(name, str) or has_lone_surrogate(name):
            raise CheckpointError(f"{what}, and {key!r} has {name!r}; write a text there")
    if sorted(labels) != sorted(map(str, range(len(labels)))):
        raise CheckpointError(f"{what}, and its ids are {', '.join(map(repr, list(labels)[:5]))}")


def check_hub(name: str, revision: str) -> None:
    """Ask the hub once whether it has a model, where the cache has none; loading would ask for a minute.

    Raises:
        CheckpointError: If the hub cannot be reached, or has no such model.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"model_name_or_path {name!r} is neither a directory here nor a model on the hub; check the spelling"
        ) from error
    except Exception as error:  # from several libraries, with no base class in common
        raise CheckpointError(
            f"model_name_or_path {name!r} is no directory here, and the hub cannot be reached to look it up "
            f"({type(error).__name__}); pass the path of a local model directory, or 'embedded' for the built-in one"
        ) from error
