"""The rows that a search chooses on and, where it compensates, those that it fits to: never the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from prune_bert.pipeline.calibration import (
    CALIBRATION,
    CalibrationSession,
    calibration_slice,
    open_calibration,
    open_with_train,
    rows_apart,
)
from prune_bert.search import SearchError
from prune_bert.tasks import TaskData

_SPARE = 1.1  # some of the rows are found in the validation data and left out


@dataclass(frozen=True)
class Slices:
    """What a search chooses on, fits to and reports on.

    Attributes:
        session: The model, the rows to choose on and the validation data.
        fitted: The rows to fit to; None where nothing is fitted.
        samples: The ``max_calibration_samples`` with which ``prune`` fits to the same rows.
    """

    session: CalibrationSession
    fitted: TaskData | None
    samples: int


def open_slices(config: Any, accelerator: Accelerator, *, needs_labels: bool) -> Slices:
    """Load the model of a config, the rows to choose on, and the rows to fit to where there is a compensation.

    The rows to fit to are those that ``prune`` takes with the same ``max_calibration_samples``; the rows to choose on
    are as many others, so that what a fit owes to its own rows has no say in the choice. Where there are too few rows
    for that, both slices are smaller.

    Raises:
        SearchError: There are too few rows for two slices, or they overlap the validation data.
        TaskError: If there is no training data, the data cannot be loaded, or its labels are not the model's.
    """
    if config.compensation == "none":
        session = open_calibration(config, accelerator, needs_labels=needs_labels)
        return Slices(session, None, config.max_calibration_samples)
    wanted = config.max_calibration_samples
    limit = int(2 * wanted * _SPARE)
    session = open_with_train(config, accelerator, CALIBRATION, limit, needs_labels=needs_labels)
    samples = max(1, min(wanted, len(session.calibration.dataset) // 2))
    fitted, _ = calibration_slice(dataclasses.replace(config, max_calibration_samples=samples), session)
    chosen = rows_apart(session.calibration, fitted, samples)
    n = {"fit": len(fitted.dataset), "choose": len(chosen.dataset)}
    if min(n.values()) < 1:
        raise SearchError(
            "the train split has too few different rows for a slice to fit to and another one to choose on; give more"
        )
    said = (
        f"corrections were fitted to {n['fit']:,} rows of train, and plans chosen on {n['choose']:,} others: no text "
        "is in both"
    )
    session = dataclasses.replace(session, calibration=chosen, notes=(*session.notes, said))
    return Slices(session, fitted, samples)
