"""Models of the hub as local directories, so that what is checked is what is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from prune_bert.checkpoint.completeness import readable_errors
from prune_bert.checkpoint.sources import check_hub
from prune_bert.checkpoint.weight_files import PICKLE, PICKLE_INDEX, SAFETENSORS, SAFETENSORS_INDEX
from prune_bert.surgery.saving_whole import COMPACT_WEIGHTS

# All but the weights: config, tokenizer, and code that comes with the model.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.py", "*.jinja", "*.tiktoken")


def hub_snapshot(name: str, revision: str, allow_pickle: bool) -> Path:
    """Fetch a model of the hub into its cache: the files that transformers would load, of one commit.

    Args:
        name: The hub id.
        revision: A branch, a tag or a commit.
        allow_pickle: Fetch pickled weights where there are no safetensors.

    Returns:
        The snapshot's directory, whose name is the commit.

    Raises:
        CheckpointError: If the hub cannot be reached and the cache does not have it, or it has no such model.
    """
    from huggingface_hub import snapshot_download

    check_hub(name, revision)
    with readable_errors(name):
        snapshot = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(_SMALL_FILES), ignore_patterns=["*/*"])
        )
        wanted = [SAFETENSORS, SAFETENSORS_INDEX, COMPACT_WEIGHTS]
        wanted += [PICKLE, PICKLE_INDEX] if allow_pickle else []
        for file in wanted:
            if _fetch(name, snapshot.name, file):
                for shard in _shards(snapshot / file):
                    _fetch(name, snapshot.name, shard)
                break
    return snapshot


def _fetch(name: str, commit: str, file: str) -> bool:
    """Fetch one file; return whether it is in the cache now."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(name, file, revision=commit)
    except EntryNotFoundError:  # the repository has none, or it is not in the cache and the hub is out of reach
        return False
    return True


def _shards(file: Path) -> list[str]:
    """Return the plain names of the files in an index of weights; what is wrong with others is told where they load."""
    if not file.name.endswith(".index.json"):
        return []
    try:
        names = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name in names if isinstance(name, str) and "/" not in name and "\\" not in name)
