"""Everything that one recovery works with, and what follows from it for each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from prune_bert.plan import PruningPlan, Site
from prune_bert.recovery.distillation import DistillationLoss, shared_layers
from prune_bert.recovery.selection import SelectionScore, set_aside
from prune_bert.recovery.settings import RecoverSettings, RecoveryError
from prune_bert.tasks import TaskData
from prune_bert.training import (
    LossFunction,
    TrainingExamples,
    TrainSettings,
    classification_loss,
    regression_loss,
    task_examples,
    training_examples,
)
from prune_bert.training.run import batch_order, planned_steps, run_fingerprint


@dataclass(frozen=True, eq=False)
class Job:
    """One recovery: what it learns from, and the steps of each of its phases."""

    settings: RecoverSettings
    accelerator: Accelerator
    tokenizer: Any
    examples: TrainingExamples
    selection: TrainingExamples | None
    teacher: nn.Module | None
    sites: Sequence[Site]
    steps: Sequence[int]

    def knobs(self, phase: int) -> TrainSettings:
        """Return the training loop's knobs for a phase, each with its own shuffling; only the last one selects."""
        training = self.settings.training
        knobs = replace(training, max_steps=self.steps[phase], seed=training.seed + phase)
        if self.selection is None or phase < len(self.steps) - 1:
            knobs = replace(knobs, keep_best=False, early_stopping_patience=None)
        return knobs

    def loss(self, model: nn.Module) -> LossFunction:
        """Return what is minimised, for a model with the layers that it has now."""
        if self.teacher is None:
            return regression_loss if self.examples.encoded.data.spec.regression else classification_loss
        settings = self.settings
        return DistillationLoss(
            self.teacher,
            settings.temperature,
            settings.label_weight,
            settings.hidden_weight,
            shared_layers(model, self.teacher) if settings.hidden_weight > 0 else (),
            self.accelerator.autocast,
        )

    def score(self, loss: LossFunction) -> SelectionScore | None:
        """Return what judges the model on the slice set aside, if there is one."""
        if self.selection is None:
            return None
        if isinstance(loss, DistillationLoss):
            loss = replace(loss, hidden_weight=0.0, layers=())
        batch_size = self.settings.training.per_device_train_batch_size
        return SelectionScore(self.selection, loss, batch_size, self.accelerator)

    def fingerprint(self, model: nn.Module, plan: PruningPlan) -> dict[str, Any]:
        """Return what makes this recovery this recovery, asked before its first phase."""
        training = self.settings.training
        loss = self.loss(model)
        own = {name: value for name, value in asdict(self.settings).items() if name != "training"}
        own |= {"order": [str(site) for site in self.sites], "norm": plan.norm}
        data = self.examples.fingerprint()
        return own | run_fingerprint(model, data, training, self.accelerator, loss, self.score(loss))


def make_job(
    model: nn.Module,
    data: TaskData,
    tokenizer: Any,
    settings: RecoverSettings,
    teacher: nn.Module | None,
    sites: Sequence[Site],
    accelerator: Accelerator,
) -> Job:
    """Set a slice of the rows aside, tokenise both parts and share out the steps.

    Raises:
        RecoveryError: The steps do not suffice for the sites.
        TrainingError: Data and model do not fit.
        EvaluationError: ``max_seq_length`` is over the tokenizer's or the model's.
    """
    training, labelled = settings.training, settings.needs_labels
    trained, held_out = set_aside(data, settings)
    examples = training_examples(model, trained, tokenizer, training, labelled=labelled)
    selection = None
    if held_out is not None:
        selection = task_examples(model, held_out, tokenizer, training.max_seq_length, labelled=labelled)
    total = planned_steps(training, batch_order(examples.encoded.lengths, training, accelerator.num_processes))
    steps = share_steps(total, len(sites), settings.steps_per_site)
    return Job(settings, accelerator, tokenizer, examples, selection, teacher, sites, steps)


def share_steps(total: int, sites: int, steps_per_site: int | None) -> tuple[int, ...]:
    """Return the steps of each phase: as many for every site but the last, the rest for the last.

    Raises:
        RecoveryError: Nothing would be left for the last phase.
    """
    between = max(0, sites - 1)
    each = steps_per_site or max(1, total // (2 * max(1, sites)))
    rest = total - between * each
    if rest < 1:
        raise RecoveryError(
            f"{total} steps do not suffice for {sites} sites with {each} steps after each; give at least "
            f"{between * each + 1} steps (max_steps, num_train_epochs), or fewer steps_per_site"
        )
    return (*[each] * between, rest)
