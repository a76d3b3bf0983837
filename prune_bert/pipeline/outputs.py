"""What a run leaves on disk beside the report: predictions, the plan, the config."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from torch import nn

from prune_bert import __version__, storage
from prune_bert.config import Config, dump
from prune_bert.evaluation import TaskScore
from prune_bert.plan import PruningPlan
from prune_bert.tasks import TaskData
from prune_bert.training.state import weights_fingerprint

# Where the results go and who is told of them changes none of them.
_NOT_OF_THE_RESULT = {"output_dir", "overwrite_output_dir", "report_to", "resume"}


def write_predictions(scores: Mapping[str, TaskScore], directory: Path) -> Path:
    """Write ``predictions.parquet``: one line an example, in the data's order, with every state's prediction."""
    first = next(iter(scores.values()))
    columns: dict[str, Any] = {"idx": list(range(first.n)), "label": first.references.tolist()}
    for name, score in scores.items():
        columns[f"{name}_prediction"] = score.predictions.tolist()
        columns[f"{name}_logits"] = score.logits.tolist()
    path = directory / "predictions.parquet"
    with storage.writing(path) as file:
        datasets.Dataset.from_dict(columns).to_parquet(file)
    return path


def write_plan(plan: PruningPlan, directory: Path, name: str = "plan.json") -> Path:
    """Write ``plan.json``, which ``--plan plan.json`` reads."""
    path = directory / name
    storage.write_text(path, json.dumps({"text": str(plan), **plan.to_json()}, indent=2) + "\n")
    return path


def write_config(config: Config, directory: Path) -> Path:
    """Write ``config.yaml``, which ``--config config.yaml`` reads to run the same again."""
    path = directory / "config.yaml"
    storage.write_text(path, dump(config))
    return path


def run_fingerprint(config: Config, model: nn.Module, *data: TaskData) -> dict[str, Any]:
    """Give what a run's results depend on: the version, the settings, the weights and the data."""
    settings = {key: value for key, value in config_dict(config).items() if key not in _NOT_OF_THE_RESULT}
    return {
        "version": __version__,
        "settings": settings,
        "weights": weights_fingerprint(model),
        "data": [_digest(item) for item in data],
    }


def config_dict(config: Config) -> dict[str, Any]:
    """Give a config as plain data."""
    return dataclasses.asdict(config)


def _digest(data: TaskData) -> str:
    digest = hashlib.sha256(f"{data.spec}{data.split}".encode())
    for row in data.dataset:
        digest.update(repr(sorted(row.items())).encode())
    return digest.hexdigest()
