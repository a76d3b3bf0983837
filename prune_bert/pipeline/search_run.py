"""A search on its way, and the journal that outlives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.config import SearchConfig
from prune_bert.evaluation import EncodedTask
from prune_bert.pipeline.calibration import CalibrationSession
from prune_bert.pipeline.fingerprints import NAMED, Fingerprints, data_fingerprint, model_fingerprint
from prune_bert.pipeline.search_allowed import SavablePlans
from prune_bert.pipeline.search_choices import Choices
from prune_bert.pipeline.search_slices import Slices
from prune_bert.pipeline.workspace import Workspace
from prune_bert.plan import Site
from prune_bert.search import Journal
from prune_bert.storage import hidden, remove, resolved

Fingerprint = Mapping[str, Any]


JOURNAL = "journal.jsonl"
"""The end of the hidden name of the journal beside the output directory."""


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
        savable: Which plans the model can be saved without.
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
    savable: SavablePlans
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
    """Return the file beside ``output_dir`` in which a search that was killed finds what it had evaluated."""
    return hidden(resolved(config.output_dir), JOURNAL)


def search_fingerprints(
    config: SearchConfig, slices: Slices, accelerator: Accelerator
) -> tuple[Fingerprint, Fingerprint]:
    """Return what the values in the journal depend on, and what the finished steps of the search depend on.

    Of neither is the budget a part, the strategy or the objective: they choose among what is found, and each plan, and
    each plan's losses under an objective, has a key of its own.
    """
    loaded = slices.session.loaded
    prints = Fingerprints(config, accelerator, {"model": model_fingerprint(loaded.model, loaded.tokenizer)})
    digests = {"calibration": data_fingerprint(slices.session.calibration)}
    if slices.fitted is not None:
        digests["fitted"] = data_fingerprint(slices.fitted)
    values = {name: part for name, part in prints.of_state(digests).items() if name != NAMED}
    return values, prints.of_steps(digests | {"validation": data_fingerprint(slices.session.validation)})


@contextmanager
def open_journal(config: SearchConfig, fingerprint: Fingerprint, accelerator: Accelerator) -> Iterator[Journal]:
    """Open the journal on the main process, and give the others what it knows.

    An empty journal is not left behind.

    Raises:
        SearchError: It is another run's, or another search is at work on it.
    """
    path = journal_path(config)
    opened = Journal.open(path, fingerprint) if accelerator.is_main_process else Journal.replica({})
    journal = opened
    if accelerator.num_processes > 1:
        known = [dict(opened.known)]
        broadcast_object_list(known)
        journal = opened if accelerator.is_main_process else Journal.replica(known[0])
    try:
        yield journal
    except BaseException:
        if accelerator.is_main_process and not journal.known:
            remove(path)
        raise
    finally:
        if accelerator.is_main_process:
            journal.close()
