"""The knobs of recovery: those of training with defaults of their own, and what is particular to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prune_bert.config.options import About, TrainOptions


def _as_in_training(name: str, default: Any) -> Any:
    """Give a field of `TrainOptions`, its help and its range, with a default of this group's own."""
    return field(default=default, metadata=TrainOptions.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """How a pruned model is trained to get back what it lost.

    The defaults are for a model of six layers on two CPU cores: minutes, on a part of a large training split.
    """

    method: Literal["fine_tuning", "distillation"] = field(
        default="distillation",
        metadata=About(help="learn from the labels, or from the unpruned model's outputs"),
    )
    temperature: float = field(
        default=2.0, metadata=About(help="softens both models' logits in distillation", metavar="X", above=0)
    )
    label_weight: float = field(
        default=0.5,
        metadata=About(
            help="share of the labels' loss beside the teacher's; 0: no labels needed",
            metavar="X",
            at_least=0,
            at_most=1,
        ),
    )
    hidden_weight: float = field(
        default=0.0,
        metadata=About(
            help="weight of the hidden states' distance from the teacher's; 0: off", metavar="X", at_least=0
        ),
    )
    schedule: Literal["at_once", "gradual"] = field(
        default="at_once", metadata=About(help="train once all sites are gone, or between one and the next, too")
    )
    steps_per_site: int | None = field(
        default=None,
        metadata=About(
            help="gradual: steps between sites; none: half of all steps, shared out", metavar="N", at_least=1
        ),
    )
    selection_fraction: float = field(
        default=0.1,
        metadata=About(
            help="share of the training examples set aside to stop early and to keep the best; 0: none",
            metavar="X",
            at_least=0,
            at_most=0.5,
        ),
    )
    selection_samples: int | None = field(
        default=512, metadata=About(help="at most so many of them; none: any number", metavar="N", at_least=1)
    )
    early_stopping_patience: int | None = field(
        default=5,
        metadata=About(
            help="stop after N looks at those examples without a gain; none: never", metavar="N", at_least=1
        ),
    )
    evaluation_steps: int | None = field(
        default=100, metadata=About(help="look every N steps; none: every epoch", metavar="N", at_least=1)
    )
    keep_best: bool = field(default=True, metadata=About(help="end with the weights that did best on those examples"))
    learning_rate: float = _as_in_training("learning_rate", 5e-5)
    num_train_epochs: float = _as_in_training("num_train_epochs", 3.0)
    max_steps: int | None = _as_in_training("max_steps", None)
    per_device_train_batch_size: int = _as_in_training("per_device_train_batch_size", 32)
    gradient_accumulation_steps: int = _as_in_training("gradient_accumulation_steps", 1)
    weight_decay: float = _as_in_training("weight_decay", 0.01)
    warmup_ratio: float = _as_in_training("warmup_ratio", 0.06)
    max_grad_norm: float = _as_in_training("max_grad_norm", 1.0)
    max_train_samples: int | None = _as_in_training("max_train_samples", 8192)
    checkpointing_steps: int | None = _as_in_training("checkpointing_steps", 200)
    resume: bool = _as_in_training("resume", True)
    lora_rank: int = _as_in_training("lora_rank", 0)
    lora_alpha: float | None = _as_in_training("lora_alpha", None)
    lora_dropout: float = _as_in_training("lora_dropout", 0.0)
    lora_target_modules: tuple[str, ...] | None = _as_in_training("lora_target_modules", None)
