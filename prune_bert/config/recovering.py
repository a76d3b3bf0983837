"""The knobs of recovery: those of training with defaults of their own, and what is particular to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prune_bert.config.options import About, TrainOptions, knob_field
from prune_bert.knobs import (
    EARLY_STOPPING_PATIENCE,
    EVALUATION_STEPS,
    HIDDEN_WEIGHT,
    LABEL_WEIGHT,
    RECOVERY_CHECKPOINTING_STEPS,
    RECOVERY_TRAIN_SAMPLES,
    SELECTION_FRACTION,
    SELECTION_SAMPLES,
    STEPS_PER_SITE,
    TEMPERATURE,
    Knob,
)


def _as_in_training(name: str, knob: Knob[Any] | None = None) -> Any:
    """Return a field of `TrainOptions`, with its help, and with its default and range or those of another knob."""
    same = TrainOptions.__dataclass_fields__[name]
    if knob is None:
        return field(default=same.default, metadata=same.metadata)
    return knob_field(knob, same.metadata["help"], same.metadata["metavar"])


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """How a pruned model is trained to get back what it lost.

    The defaults are for a model of six layers on two CPU cores: minutes, on a part of a large training split.
    """

    method: Literal["fine_tuning", "distillation"] = field(
        default="distillation",
        metadata=About(help="learn from the labels, or from the unpruned model's outputs"),
    )
    temperature: float = knob_field(TEMPERATURE, "softens both models' logits in distillation", "X")
    label_weight: float = knob_field(
        LABEL_WEIGHT, "share of the labels' loss beside the teacher's; 0: no labels needed", "X"
    )
    hidden_weight: float = knob_field(
        HIDDEN_WEIGHT, "weight of the hidden states' distance from the teacher's; 0: off", "X"
    )
    schedule: Literal["at_once", "gradual"] = field(
        default="at_once", metadata=About(help="train once all sites are gone, or between one and the next, too")
    )
    steps_per_site: int | None = knob_field(
        STEPS_PER_SITE, "gradual: steps between sites; none: half of all steps, shared out", "N"
    )
    selection_fraction: float = knob_field(
        SELECTION_FRACTION,
        "share of the training examples set aside to stop early and to keep the best; 0: none",
        "X",
    )
    selection_samples: int | None = knob_field(SELECTION_SAMPLES, "at most so many of them; none: any number", "N")
    early_stopping_patience: int | None = knob_field(
        EARLY_STOPPING_PATIENCE, "stop after N looks at those examples without a gain; none: never", "N"
    )
    evaluation_steps: int | None = knob_field(EVALUATION_STEPS, "look every N steps; none: every epoch", "N")
    keep_best: bool = field(default=True, metadata=About(help="end with the weights that did best on those examples"))
    learning_rate: float = _as_in_training("learning_rate")
    num_train_epochs: float = _as_in_training("num_train_epochs")
    max_steps: int | None = _as_in_training("max_steps")
    per_device_train_batch_size: int = _as_in_training("per_device_train_batch_size")
    gradient_accumulation_steps: int = _as_in_training("gradient_accumulation_steps")
    weight_decay: float = _as_in_training("weight_decay")
    warmup_ratio: float = _as_in_training("warmup_ratio")
    max_grad_norm: float = _as_in_training("max_grad_norm")
    max_train_samples: int | None = _as_in_training("max_train_samples", RECOVERY_TRAIN_SAMPLES)
    checkpointing_steps: int | None = _as_in_training("checkpointing_steps", RECOVERY_CHECKPOINTING_STEPS)
    resume: bool = _as_in_training("resume")
    lora_rank: int = _as_in_training("lora_rank")
    lora_alpha: float | None = _as_in_training("lora_alpha")
    lora_dropout: float = _as_in_training("lora_dropout")
    lora_target_modules: tuple[str, ...] | None = _as_in_training("lora_target_modules")
