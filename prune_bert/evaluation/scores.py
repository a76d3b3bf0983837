"""What an evaluation found, as data: a score with its uncertainty, and a comparison of two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_bert.display import Displayed, Shown, interval, number, points


@dataclass(frozen=True, repr=False)
class MetricValue(Displayed):
    """A metric, or a difference of two, with the bounds of its 95 % bootstrap interval."""

    value: float
    ci95: tuple[float, float]

    def _shown(self) -> Shown:
        return Shown(number(self.value), [("95 % interval", " to ".join(map(number, self.ci95)))])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; an undefined number becomes null."""
        return {"value": _to_json(self.value), "ci95": [_to_json(bound) for bound in self.ci95]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> MetricValue:
        """Read what `to_dict` gave."""
        low, high = stored["ci95"]
        return cls(_from_json(stored["value"]), (_from_json(low), _from_json(high)))


@dataclass(frozen=True, eq=False, repr=False)
class TaskScore(Displayed):
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

    Examples:
        >>> score = evaluate(model, rows, tokenizer)
        >>> TaskScore.from_dict(score.to_dict()).metrics == score.metrics
        True
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

    def _shown(self) -> Shown:
        facts = [("loss", number(self.loss)), ("seconds", number(self.seconds))]
        return Shown(f"{self.task} {self.split}, {self.n:,} examples", facts, *_table(self.metrics))

    @property
    def num_labels(self) -> int:
        """The number of classes; 0 for regression."""
        return 0 if self.references.dtype.kind == "f" else self.logits.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_dict` gives every bit back."""
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


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """One model against a baseline on the same examples.

    Attributes:
        differences: For each metric the other's minus the baseline's, with its paired interval.
        right_to_wrong: Examples that the baseline had right and the other has wrong; 0 for regression.
        wrong_to_right: The other way round.
        agreement: The share of examples with the same prediction; for regression the correlation of the two.

    Examples:
        >>> score, pruned = evaluate_plans(model, ["", "ffn:3"], rows, tokenizer)
        >>> compare(score, pruned).right_to_wrong <= len(rows)
        True
    """

    differences: Mapping[str, MetricValue]
    right_to_wrong: int
    wrong_to_right: int
    agreement: float

    def _shown(self) -> Shown:
        facts = [
            ("right to wrong", f"{self.right_to_wrong:,}"),
            ("wrong to right", f"{self.wrong_to_right:,}"),
            ("agreement", number(self.agreement)),
        ]
        return Shown("other minus baseline", facts, *_table(self.differences, sign=True))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
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


def _table(metrics: Mapping[str, MetricValue], *, sign: bool = False) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings and rows of a table of metrics, times 100."""
    rows: list[tuple[str, ...]] = [
        (name, points(one.value, sign=sign), interval(one.ci95, sign=sign)) for name, one in metrics.items()
    ]
    return ("metric, x100", "value", "95 % interval"), rows


def _to_json(number: float) -> float | None:
    """Write nan, which JSON does not have, as null."""
    return None if math.isnan(number) else number


def _from_json(number: float | None) -> float:
    """Read null as nan."""
    return math.nan if number is None else number
