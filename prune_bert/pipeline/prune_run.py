"""One run that prunes, on its way: what it works with, and the states of the model that it compares."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint import LoadedModel
from prune_bert.compensation import Compensation
from prune_bert.config import RecoverConfig, RunConfig
from prune_bert.evaluation import TaskScore
from prune_bert.pipeline.workspace import Workspace
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling import LatencyPoint, ModelSize
from prune_bert.report import CompensatedSite, LoadedForm, RecoveryInfo
from prune_bert.surgery import bypass
from prune_bert.tasks import TaskData


@dataclass
class PruneRun:
    """One run, from what was asked for to what was found.

    Attributes:
        config: What was asked for.
        command: The command line.
        plan: What goes, or has gone, counted in the layers of the baseline.
        accelerator: Device, precision and processes.
        workspace: Where finished steps lie.
        loaded: The model that is pruned, changed and saved.
        data: What every state is scored on.
        checkpoint_format: In which the model will be saved; None where it will not.
        depth: The layers of the baseline.
        original: The unpruned model, where `loaded` came pruned.
        calibration: What a compensation is fitted to.
        fitted: The compensation, once it is fitted.
        notes: What a reader of the results should know; grows on the way.
        scores: Of each state, in the order of the report's rows; and so on.
        made_in_seconds: How long it took to make a state, beyond taking sites out.
    """

    config: RunConfig | RecoverConfig
    command: str
    plan: PruningPlan
    accelerator: Accelerator
    workspace: Workspace
    loaded: LoadedModel
    data: TaskData
    checkpoint_format: str | None
    depth: int
    original: LoadedModel | None = None
    calibration: TaskData | None = None
    fitted: Compensation | None = None
    notes: list[str] = field(default_factory=list)
    scores: dict[str, TaskScore] = field(default_factory=dict)
    site_scores: dict[Site, TaskScore] = field(default_factory=dict)
    latency: dict[str, tuple[LatencyPoint, ...]] = field(default_factory=dict)
    sizes: dict[str, ModelSize] = field(default_factory=dict)
    made_in_seconds: dict[str, float] = field(default_factory=dict)
    compensated_sites: tuple[CompensatedSite, ...] = ()
    recovery: RecoveryInfo | None = None
    loaded_with: tuple[LoadedForm, ...] = ()

    @property
    def model(self) -> PreTrainedModel:
        """The model that is pruned, changed and saved."""
        return self.loaded.model

    @property
    def baseline(self) -> LoadedModel:
        """The model that every state is compared with."""
        return self.loaded if self.original is None else self.original

    def states(self) -> dict[str, AbstractContextManager[Any]]:
        """Return the states before anything is dropped, by the names of their rows: contexts to enter repeatedly."""
        for one in (self.loaded, self.baseline):
            nn.Module.to(one.model, self.accelerator.device)
        if self.original is not None:
            return {"baseline": nullcontext(self.original.model), "pruned": nullcontext(self.model)}
        found: dict[str, AbstractContextManager[Any]] = {
            "baseline": bypass(self.model, PruningPlan()),
            "pruned": bypass(self.model, self.plan),
        }
        if self.fitted is not None:
            found["compensated"] = bypass(self.model, self.plan, self.fitted)
        return found
