"""GLUE from the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub

from prune_bert.tasks.columns import Table
from prune_bert.tasks.files import first_line, from_dataset
from prune_bert.tasks.table import TaskError, TaskSpec

HUB_ID = "nyu-mll/glue"
PROBE_TIMEOUT_S = 10.0


def read_hub(spec: TaskSpec, split: str, revision: str | None = None) -> Table:
    """Download a split of a GLUE task, or take it from the cache of `datasets`.

    Raises:
        TaskError: The hub cannot be reached, and the cache does not have it.
    """
    name = "validation_matched" if (spec.name, split) == ("mnli", "validation") else split
    try:
        with _quiet():
            _require_reachable()
            dataset = datasets.load_dataset(HUB_ID, spec.name, split=name, revision=revision)
    except Exception as error:  # from four libraries below, with no base class in common
        raise TaskError(
            f"cannot load {HUB_ID} ({spec.name}, {name}) from the hub ({first_line(error)}); pass data_dir "
            "with GLUE's files or validation_file with a file of yours"
        ) from error
    return from_dataset(dataset, f"{HUB_ID} ({spec.name}, {name})")


def _require_reachable() -> None:
    """Ask the hub once, as `load_dataset` asks for half a minute; not where the cache may have a copy."""
    if not (Path(datasets.config.HF_DATASETS_CACHE) / HUB_ID.replace("/", "___")).is_dir():
        huggingface_hub.HfApi().dataset_info(HUB_ID, timeout=PROBE_TIMEOUT_S)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub's libraries' retries off the terminal: one error says what came of them."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
