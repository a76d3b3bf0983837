"""A search on its way, and the journal that outlives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.checkpoint.staging import target_of
from prune_bert.config import CompensationOptions, SearchConfig
from prune_bert.evaluation import EncodedTask
from prune_bert.pipeline.calibration import CalibrationSession
from prune_bert.pipeline.outputs import run_fingerprint
from prune_bert.pipeline.search_choices import Choices
from prune_bert.pipeline.search_slices import Slices
from prune_bert.pipeline.workspace import Workspace
from prune_bert.plan import Site
from prune_bert.search import Journal

# What the values of a plan depend on, beside the plan, the weights and the data. Not the budget, the strategy or the
# objective: with others of them a search goes on from what the journal knows.
_OF_THE_VALUES = (
    "max_seq_length",
    "max_calibration_samples",
    "calibration_rows",
    "per_device_eval_batch_size",
    "mixed_precision",
    "device",
    "attn_implementation",
    "n_resamples",
    "seed",
)
_OF_THE_FITS = tuple(knob.name for knob in fields(CompensationOptions))
_BUDGET = (
    "max_accuracy_drop",
    "respect_interval",
    "min_speedup",
    "max_latency_ms",
    "max_parameters",
    "keep_layers",
)


@dataclass
class SearchRun:
    """One search on its way.

    Attributes:
        config: What was asked for.
        choices: The same with nothing left open.
        command: The command line.
        accelerator: Device, precision and processes.
        workspace: Where finished steps lie.
        slices: The model and its data.
        encoded: The slice to choose on, tokenised.
        sites: What may go.
        notes: What a reader of the results should know; grows on the way.
    """

    config: SearchConfig
    choices: Choices
    command: str
    accelerator: Accelerator
    workspace: Workspace
    slices: Slices
    encoded: EncodedTask
    sites: tuple[Site, ...]
    notes: list[str]

    @property
    def session(self) -> CalibrationSession:
        """The model, the rows to choose on and the validation data."""
        return self.slices.session

    @property
    def model(self) -> nn.Module:
        """The unpruned model."""
        return self.session.loaded.model

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return len(find_encoder(self.model).layers)


def journal_path(config: SearchConfig) -> Path:
    """Give the file beside ``output_dir`` in which a search that was killed finds what it had evaluated."""
    target = target_of(config.output_dir)
    return target.with_name(f".{target.name}.journal.jsonl")


@contextmanager
def open_journal(config: SearchConfig, slices: Slices, accelerator: Accelerator) -> Iterator[Journal]:
    """Open the journal on the main process, and give the others what it knows.

    An empty journal is not left behind.

    Raises:
        SearchError: It is another run's, or another search is at work on it.
    """
    names = _OF_THE_VALUES if slices.fitted is None else (*_OF_THE_VALUES, *_OF_THE_FITS)
    fingerprint = run_fingerprint(config, slices.session.loaded.model, *slices.chosen_on)
    fingerprint["settings"] = {name: fingerprint["settings"][name] for name in names}
    path = journal_path(config)
    opened = Journal.open(path, fingerprint) if accelerator.is_main_process else Journal.replica({})
    journal = opened
    if accelerator.num_processes > 1:
        known = [dict(opened.known)]
        broadcast_object_list(known)
        journal = opened if accelerator.is_main_process else Journal.replica(known[0])
    try:
        yield journal
    finally:
        if accelerator.is_main_process:
            if not journal.known:
                path.unlink(missing_ok=True)
            journal.close()


def result_fingerprint(config: SearchConfig, slices: Slices) -> Mapping[str, Any]:
    """Give what the finished steps of a search depend on: all but the budget, which only chooses among them."""
    model, validation = slices.session.loaded.model, slices.session.validation
    fingerprint = run_fingerprint(config, model, *slices.chosen_on, validation)
    settings = {name: value for name, value in fingerprint["settings"].items() if name not in _BUDGET}
    return fingerprint | {"settings": settings}
