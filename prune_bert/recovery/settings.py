"""What a recovery is told."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from prune_bert.config.recovering import RecoverOptions
from prune_bert.errors import UserError
from prune_bert.knobs import (
    HIDDEN_WEIGHT,
    LABEL_WEIGHT,
    LORA_ALPHA,
    LORA_DROPOUT,
    LORA_RANK,
    SELECTION_FRACTION,
    SELECTION_SAMPLES,
    STEPS_PER_SITE,
    TEMPERATURE,
    range_faults,
)
from prune_bert.training import TrainSettings

_TRAINING = [knob.name for knob in fields(TrainSettings)]


class RecoveryError(UserError, ValueError):
    """A model, a teacher, a plan and settings that recovery cannot work with together."""


def _default_training() -> TrainSettings:
    """Return the training loop's knobs with recovery's defaults."""
    known: dict[str, Any] = {knob.name: knob.default for knob in fields(RecoverOptions)}
    return TrainSettings(**{name: known[name] for name in _TRAINING if name in known})


@dataclass(frozen=True, kw_only=True)
class RecoverSettings:
    """Every knob of `recover`; defaults and ranges are the configuration's.

    A slice of the training rows is set aside: by the mean loss on it the run stops early, and the best weights are
    put back, those that it began with among them.

    With ``schedule="gradual"`` every site is a phase: it is dropped, then the model is trained, in the last phase for
    all the steps that remain. Each phase has a warm-up and a decay of its own, since its optimiser starts afresh on
    a model that has just changed. Only the last one stops early and keeps its best weights.

    Attributes:
        method: Learn from the labels alone, or from a teacher.
        temperature: Divides both models' logits in distillation.
        label_weight: Share of the task's own loss beside the teacher's, from 0 to 1. At 0 no label is read.
        hidden_weight: Weight of the mean squared error of normalised hidden states; 0 leaves them alone.
        schedule: ``at_once`` trains a model that is pruned already; ``gradual`` removes a plan's sites one by one.
        steps_per_site: Steps after each site but the last; None shares out half of all steps. Only for ``gradual``.
        lora_rank: Rank of an adapter that is trained in the place of the weights, then merged; 0 for none.
        lora_alpha: The adapter counts ``lora_alpha / lora_rank`` times; None for twice.
        lora_dropout: Dropout before the adapter.
        lora_target_modules: Name endings of the linear layers adapted; None for all of the encoder's.
        selection_fraction: Share of the training rows that is never trained on and decides when to stop and which
            weights are the best; at 0, or where ``training`` asks for neither, there is no such slice.
        selection_samples: At most so many rows of it; None for any number.
        training: The loop's own knobs. Steps or epochs are those of the whole recovery.

    Raises:
        RecoveryError: A value is out of its range; the message lists all that are.

    Examples:
        >>> RecoverSettings(method="distillation", label_weight=0).needs_labels
        False
    """

    method: Literal["fine_tuning", "distillation"] = RecoverOptions.method
    temperature: float = TEMPERATURE.field()
    label_weight: float = LABEL_WEIGHT.field()
    hidden_weight: float = HIDDEN_WEIGHT.field()
    schedule: Literal["at_once", "gradual"] = RecoverOptions.schedule
    steps_per_site: int | None = STEPS_PER_SITE.field()
    lora_rank: int = LORA_RANK.field()
    lora_alpha: float | None = LORA_ALPHA.field()
    lora_dropout: float = LORA_DROPOUT.field()
    lora_target_modules: tuple[str, ...] | None = RecoverOptions.lora_target_modules
    selection_fraction: float = SELECTION_FRACTION.field()
    selection_samples: int | None = SELECTION_SAMPLES.field()
    training: TrainSettings = field(default_factory=_default_training)

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be {rule}, not {getattr(self, name)!r}" for name, rule, holds in self._rules() if not holds
        ]
        faults += range_faults(self)
        if faults:
            raise RecoveryError("; ".join(faults))

    @classmethod
    def from_options(cls, options: Any) -> RecoverSettings:
        """Take every knob from a configuration that has them flat, under the same names."""
        own = {knob.name: getattr(options, knob.name) for knob in fields(cls) if knob.name != "training"}
        return cls(**own, training=TrainSettings(**{name: getattr(options, name) for name in _TRAINING}))

    @property
    def needs_labels(self) -> bool:
        """Whether the training rows must have labels."""
        return self.method == "fine_tuning" or self.label_weight > 0

    @property
    def selects(self) -> bool:
        """Whether a slice of the training rows is set aside."""
        wanted = self.training.keep_best or self.training.early_stopping_patience is not None
        return wanted and self.selection_fraction > 0

    def _rules(self) -> list[tuple[str, str, bool]]:
        """Name, rule in words, and whether it holds, for what no range of a number says."""
        return [
            ("method", "fine_tuning or distillation", self.method in ("fine_tuning", "distillation")),
            ("schedule", "at_once or gradual", self.schedule in ("at_once", "gradual")),
            ("steps_per_site", "none with schedule at_once", self.steps_per_site is None or self.schedule == "gradual"),
        ]
