"""Output directories of versions that wrote no manifest: known by the names in them and one file that only we write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

_OF_MODELS = """
config.json generation_config.json model.safetensors model-*-of-*.safetensors model.safetensors.index.json
pruned_model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt
vocab.json merges.txt bpe.codes spiece.model spm.model sentencepiece.bpe.model chat_template.jinja README.md
"""
_OF_RUNS = """
report.json report.md report.html accuracy_speed.png accuracy_speed.svg site_costs.png site_costs.svg training.png
training.svg predictions.parquet plan.json chosen_plan.json config.yaml compensation.safetensors search.json
front.html front.md front.png front.svg scores.json scores.md scores.png scores.svg score.json benchmark.json
training.json adapter/adapter_model.safetensors adapter/adapter_config.json trackers/*
"""
_NAMES = (*_OF_RUNS.split(), *_OF_MODELS.split(), *(f"model/{name}" for name in _OF_MODELS.split()))


def foreign_to_earlier_versions(directory: Path, names: Sequence[str]) -> str | None:
    """Return a file that no earlier version has written; None where all may be theirs, and one is for certain.

    Args:
        directory: A directory without a manifest.
        names: The files in it, by their relative names.

    Returns:
        What it is, in words that go on from "holds".
    """
    for name in names:
        path = directory / name
        if path.is_symlink() or not any(fnmatchcase(name, known) for known in _NAMES):
            return f"{str(path)!r}, which prune_bert did not write"
    if names and not _is_ours(directory):
        return f"{str(directory / names[0])!r}, and nothing in it tells that prune_bert wrote it"
    return None


def _is_ours(directory: Path) -> bool:
    """Look for what only prune_bert writes: the first line of its configuration, or a report."""
    try:
        with (directory / "config.yaml").open(encoding="utf-8") as file:
            if file.readline().startswith("# prune-bert "):
                return True
    except (OSError, ValueError):
        pass
    try:
        report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and "schema_version" in report
