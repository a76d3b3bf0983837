"""What a run leaves on disk beside the report: predictions, the plan, the config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from prune_bert import storage
from prune_bert.config import Config, dump
from prune_bert.evaluation import TaskScore
from prune_bert.plan import PLAN_FILE, PruningPlan


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


def write_plan(plan: PruningPlan, directory: Path, name: str = PLAN_FILE) -> Path:
    """Write ``plan.json``, which ``--plan plan.json`` reads."""
    path = directory / name
    storage.write_text(path, plan.file_text())
    return path


def write_config(config: Config, directory: Path) -> Path:
    """Write ``config.yaml``, which ``--config config.yaml`` reads to run the same again."""
    path = directory / "config.yaml"
    storage.write_text(path, dump(config))
    return path


def config_dict(config: Config) -> dict[str, Any]:
    """Return a config as plain data."""
    return dataclasses.asdict(config)
