"""The default and the range of every number that can be set, each declared here once.

The fields of the configurations, the settings classes and the signatures of the functions refer to these. Nothing
heavy is imported, so that every part of the package can.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

Number = TypeVar("Number", bound=float | tuple[int, ...] | None)

MAX_NUMBER = 2**31 - 1
"""The limit of a knob that names none of its own."""
_KEY = "knob"


class Range(TypedDict, total=False):
    """Bounds of a number, and in words why one of them is where it is."""

    at_least: float
    above: float
    at_most: float
    below: float
    because: str


@dataclass(frozen=True)
class Knob(Generic[Number]):
    """A number that can be set.

    Attributes:
        default: The value where none is given.
        range: The values allowed.
    """

    default: Number
    range: Range

    def rule(self) -> str:
        """Return the range in words, such as ``"above 0, at most 1"``."""
        words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
        because = f" ({self.range['because']})" if "because" in self.range else ""
        return ", ".join(f"{words[name]} {bound}" for name, bound in self.range.items() if name in words) + because

    def field(self, **changes: Any) -> Any:
        """Return a dataclass field with this default (or another) that `range_faults` looks at."""
        return dataclasses.field(**{"default": self.default, "metadata": {_KEY: self}} | changes)

    def fault(self, value: float | None) -> str:
        """Say what is wrong with a value, or nothing."""
        return "" if value is None else range_fault(self.range, value)


def range_fault(bounds: Range, number: float) -> str:
    """Say which bound a number is beyond, or nothing."""
    if isinstance(number, float) and not math.isfinite(number):
        return f"expected a finite number, got {number}"
    checks = (
        ("at least", bounds.get("at_least", -MAX_NUMBER), operator.ge),
        ("more than", bounds.get("above", -math.inf), operator.gt),
        ("at most", bounds.get("at_most", MAX_NUMBER), operator.le),
        ("less than", bounds.get("below", math.inf), operator.lt),
    )
    for words, bound, holds in checks:
        if not holds(number, bound):
            because = f" ({bounds['because']})" if "because" in bounds else ""
            return f"expected {words} {bound}{because}, got {short(number)}"
    return ""


def range_faults(settings: Any) -> list[str]:
    """List the fields of a settings object whose numbers are out of their ranges, each with its rule."""
    faults = []
    for field in dataclasses.fields(settings):
        knob, value = field.metadata.get(_KEY), getattr(settings, field.name)
        open_too = "None" in str(field.type)
        if knob is not None and (knob.fault(value) if value is not None else not open_too):
            given = "none" if value is None else short(value)
            faults.append(f"{field.name} must be {knob.rule()}{', or none' if open_too else ''}, not {given}")
    return faults


def short(number: float) -> str:
    """Write a number, one of many digits by its first and its last ones."""
    text = str(number) if isinstance(number, float) or abs(number) < 10**40 else ""
    return text or f"a whole number of about {math.log10(abs(number)):.0f} digits"


def knobs_of(cls: type) -> Mapping[str, Knob[Any]]:
    """Return the knobs that the fields of a settings class refer to, by field name."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(cls) if _KEY in field.metadata}


# Everything

SEED = Knob(42, Range(at_least=0, at_most=2**32 - 1))  # numpy takes no larger one
N_RESAMPLES = Knob(2000, Range(at_least=20, at_most=100_000))
MAX_SEQ_LENGTH = Knob(128, Range(at_least=3, at_most=1_000_000))
EVAL_BATCH_SIZE = Knob(32, Range(at_least=1, at_most=65_536))
MAX_SAMPLES: Knob[int | None] = Knob(None, Range(at_least=1))
NUM_THREADS: Knob[int | None] = Knob(None, Range(at_least=1, at_most=1024))
CALIBRATION_SAMPLES = Knob(512, Range(at_least=2))

# Profiling

PROFILE_BATCH_SIZES = Knob((1, 32), Range(at_least=1, at_most=65_536))
PROFILE_SEQUENCE_LENGTHS = Knob((128,), Range(at_least=1, at_most=1_000_000))
PROFILE_ROUNDS = Knob(20, Range(at_least=2, at_most=10_000))
PROFILE_WARMUP = Knob(3, Range(at_least=0, at_most=10_000))

# The budget of a search, and the search

MAX_ACCURACY_DROP: Knob[float | None] = Knob(None, Range(at_least=0, at_most=100, because="points from 0 to 100"))
MIN_SPEEDUP: Knob[float | None] = Knob(None, Range(at_least=1, because="below 1 is slower than the unpruned model"))
MAX_LATENCY_MS: Knob[float | None] = Knob(None, Range(above=0))
MAX_PARAMETERS: Knob[int | None] = Knob(None, Range(at_least=1, at_most=10**13))
KEEP_LAYERS: Knob[int | None] = Knob(None, Range(at_least=1))
BUDGET_BATCH_SIZE = Knob(1, PROFILE_BATCH_SIZES.range)
BUDGET_SEQUENCE_LENGTH = Knob(128, PROFILE_SEQUENCE_LENGTHS.range)
BEAM_WIDTH: Knob[int | None] = Knob(None, Range(at_least=1))
MAX_REMOVED: Knob[int | None] = Knob(None, Range(at_least=1))
RACING_CONFIDENCE = Knob(0.95, Range(above=0, below=1))

# Training

LEARNING_RATE = Knob(5e-5, Range(above=0, at_most=10))
NUM_TRAIN_EPOCHS = Knob(3.0, Range(above=0, at_most=100_000))
MAX_STEPS: Knob[int | None] = Knob(None, Range(at_least=1))
TRAIN_BATCH_SIZE = Knob(32, Range(at_least=1, at_most=65_536))
GRADIENT_ACCUMULATION_STEPS = Knob(1, Range(at_least=1, at_most=65_536))
WEIGHT_DECAY = Knob(0.01, Range(at_least=0))
WARMUP_RATIO = Knob(0.06, Range(at_least=0, at_most=1))
MAX_GRAD_NORM = Knob(1.0, Range(at_least=0))
CHECKPOINTING_STEPS: Knob[int | None] = Knob(500, Range(at_least=1))
LORA_RANK = Knob(0, Range(at_least=0, at_most=65_536))
LORA_ALPHA: Knob[float | None] = Knob(None, Range(above=0))
LORA_DROPOUT = Knob(0.0, Range(at_least=0, below=1))

# Recovery

RECOVERY_TRAIN_SAMPLES: Knob[int | None] = Knob(8192, MAX_SAMPLES.range)
RECOVERY_CHECKPOINTING_STEPS: Knob[int | None] = Knob(200, CHECKPOINTING_STEPS.range)
TEMPERATURE = Knob(2.0, Range(above=0))
LABEL_WEIGHT = Knob(0.5, Range(at_least=0, at_most=1))
HIDDEN_WEIGHT = Knob(0.0, Range(at_least=0))
STEPS_PER_SITE: Knob[int | None] = Knob(None, Range(at_least=1))
SELECTION_FRACTION = Knob(0.1, Range(at_least=0, at_most=0.5))
SELECTION_SAMPLES: Knob[int | None] = Knob(512, Range(at_least=1))
EARLY_STOPPING_PATIENCE: Knob[int | None] = Knob(5, Range(at_least=1))
EVALUATION_STEPS: Knob[int | None] = Knob(100, Range(at_least=1))

# Compensation

COMPENSATION_RANK: Knob[int | None] = Knob(32, Range(at_least=1))
COMPENSATION_MAX_COST = Knob(0.05, Range(above=0, at_most=1))
COMPENSATION_NEURONS = Knob(128, Range(at_least=1))
COMPENSATION_RIDGE: Knob[float | None] = Knob(None, Range(at_least=0))
COMPENSATION_FOLDS = Knob(4, Range(at_least=2))
