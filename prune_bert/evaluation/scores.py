"""What an evaluation found, as data: a score with its uncertainty, and a comparison of two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MetricValue:
    """A metric, or a difference of two, with the bounds of its 95 % bootstrap interval."""

    value: float
    ci95: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it; an undefined number becomes null."""
        return {"value": _to_json(self.value), "ci95": [_to_json(bound) for bound in self.ci95]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> MetricValue:
        """Read what `to_dict` gave."""
        low, high = stored["ci95"]
        return cls(_from_json(stored["value"]), (_from_json(low), _from_json(high)))


@dataclass(frozen=True, eq=False)
class TaskScore:
    """How a model did on a split of a task, example by example.

    Attributes:
        task: The task's name.
        split: The split's name.
        n: How many examples.
        metrics: The task's metrics, the headline first.
        loss: Mean cross-entropy, or mean squared error.
        predictions: ``(n,)`` class ids or numbers, in the order of the data.
        references: ``(n,)`` likewise.
        logits: ``(n, num_outputs)`` float32.
        seconds: Wall-clock time of inference, without tokenising and bootstrap.
    """

    task: str
    split: str
    n: int
    metrics: Mapping[str, MetricValue]
    loss: float
    predictions: NDArray[Any]
    references: NDArray[Any]
    logits: NDArray[np.float32]
    seconds: float

    @property
    def num_labels(self) -> int:
        """The number of classes; 0 for regression."""
        return 0 if self.references.dtype.kind == "f" else self.logits.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it; `from_dict` gives every bit back."""
        return {
            "task": self.task,
            "split": self.split,
            "n": self.n,
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "loss": _to_json(self.loss),
            "predictions": self.predictions.tolist(),
            "references": self.references.tolist(),
            "logits": self.logits.tolist(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TaskScore:
        """Read what `to_dict` gave."""
        arrays = {
            "predictions": np.asarray(stored["predictions"]),
            "references": np.asarray(stored["references"]),
            "logits": np.asarray(stored["logits"], np.float32),
        }
        metrics = {name: MetricValue.from_dict(metric) for name, metric in stored["metrics"].items()}
        return cls(**(dict(stored) | arrays | {"metrics": metrics, "loss": _from_json(stored["loss"])}))


@dataclass(frozen=True)
class Comparison:
    """One model against a baseline on the same examples.

    Attributes:
        differences: For each metric the other's minus the baseline's, with its paired interval.
        right_to_wrong: Examples that the baseline had right and the other has wrong; 0 for regression.
        wrong_to_right: The other way round.
        agreement: The share of examples with the same prediction; for regression the correlation of the two.
    """

    differences: Mapping[str, MetricValue]
    right_to_wrong: int
    wrong_to_right: int
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "differences": {name: difference.to_dict() for name, difference in self.differences.items()},
            "right_to_wrong": self.right_to_wrong,
            "wrong_to_right": self.wrong_to_right,
            "agreement": _to_json(self.agreement),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Comparison:
        """Read what `to_dict` gave."""
        differences = {name: MetricValue.from_dict(value) for name, value in stored["differences"].items()}
        agreement = _from_json(stored["agreement"])
        return cls(differences, stored["right_to_wrong"], stored["wrong_to_right"], agreement)


def _to_json(number: float) -> float | None:
    """Write nan, which JSON does not have, as null."""
    return None if math.isnan(number) else number


def _from_json(number: float | None) -> float:
    """Read null as nan."""
    return math.nan if number is None else number
