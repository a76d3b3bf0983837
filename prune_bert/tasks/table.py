"""The task table: columns, class names, metrics and splits of GLUE's nine tasks and the embedded reviews."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prune_bert.errors import UserError


class TaskError(UserError, ValueError):
    """A task, a file, a column or a label that cannot be used as given."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # a user's column or class name may hold a line break


@dataclass(frozen=True)
class TaskSpec:
    """What a task is made of, wherever its data come from.

    Attributes:
        name: `sst2`, `mnli`, `reviews`, or a name of the user's own.
        text_columns: The one or two columns that the model reads.
        label_column: The label's column in the source; after loading it is always `label`.
        labels: Class names by integer id; empty means regression.
        metrics: Names of metrics; the first is the headline.
        splits: The labelled splits that the task has.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "validation")

    @property
    def regression(self) -> bool:
        """Whether the label is a number to come near to, rather than a class."""
        return not self.labels


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

_SPECS = (
    TaskSpec("cola", ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews_correlation",)),
    TaskSpec("sst2", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
    TaskSpec("mrpc", _PAIR, "label", ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    TaskSpec("stsb", _PAIR, "label", (), ("pearson", "spearmanr")),
    TaskSpec("qqp", ("question1", "question2"), "label", ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    TaskSpec(
        "mnli",
        ("premise", "hypothesis"),
        "label",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        ("train", "validation", "validation_mismatched"),  # "validation" is the matched one
    ),
    TaskSpec("qnli", ("question", "sentence"), "label", _ENTAILMENT, ("accuracy",)),
    TaskSpec("rte", _PAIR, "label", _ENTAILMENT, ("accuracy",)),
    TaskSpec("wnli", _PAIR, "label", ("not_entailment", "entailment"), ("accuracy",)),
    TaskSpec("reviews", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
)

GLUE_TASKS: Mapping[str, TaskSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""The nine GLUE tasks by their hub names, and `reviews`, the embedded set in SST-2's form."""


def find_task(name: str) -> TaskSpec:
    """Look a task up by name; case, `-` and `_` do not matter (`SST-2` is `sst2`).

    Raises:
        TaskError: The table has no such task.
    """
    wanted = name.casefold().replace("-", "").replace("_", "")
    if wanted in GLUE_TASKS:
        return GLUE_TASKS[wanted]
    raise TaskError(
        f"unknown task {name!r}{nearest(wanted, GLUE_TASKS)}; the tasks are {', '.join(GLUE_TASKS)}; for "
        "data of your own leave task_name out and name text_columns and label_column"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the nearest of the names, or nothing where none is near."""
    by_folded = {other.casefold(): other for other in names}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return f", did you mean {by_folded[found[0]]!r}?" if found else ""
