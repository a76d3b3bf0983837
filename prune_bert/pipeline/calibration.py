"""The slice of the training data on which something is chosen, kept apart from what it is reported on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator

from prune_bert.checkpoint import LoadedModel, load_model
from prune_bert.evaluation import encode
from prune_bert.pipeline.measuring import score_model
from prune_bert.pipeline.session import load_data, model_settings
from prune_bert.search import SearchError
from prune_bert.tasks import TaskData, align_labels

CALIBRATION = "calibration"
_LONGEST_SHARE = 0.05
# CoLA's training file has 16 of its 8,551 sentences in its development file, too: such accidents are left out.
_ACCIDENTAL_SHARE = 0.05


@dataclass(frozen=True)
class CalibrationSession:
    """A model, what its plans are chosen on and what they are reported on, label for label.

    Attributes:
        loaded: The model and its tokenizer.
        calibration: Evenly spaced examples of the training data.
        validation: The split that figures are reported on; no example of it is in `calibration`.
        notes: What a reader of the results should know.
    """

    loaded: LoadedModel
    calibration: TaskData
    validation: TaskData
    notes: tuple[str, ...]


def open_calibration(config: Any, accelerator: Accelerator, *, needs_labels: bool = True) -> CalibrationSession:
    """Load the model of a config, its calibration slice and its validation data.

    The user's own data may come without labels where nothing needs them. The unpruned model's predictions are then
    the labels, so that every accuracy is the agreement with it.

    Raises:
        CheckpointError: If the model cannot be loaded.
        TaskError: If there is no training data, the data cannot be loaded, or its labels are not the model's.
        SearchError: If the calibration slice overlaps the validation data.
    """
    samples = config.max_calibration_samples
    return open_with_train(config, accelerator, CALIBRATION, samples, needs_labels=needs_labels)


def open_with_train(
    config: Any,
    accelerator: Accelerator,
    use: str,
    samples: int | None,
    *,
    needs_labels: bool = True,
    labeller: LoadedModel | None = None,
) -> CalibrationSession:
    """Load the model of a config, rows of the training data for some use, and the validation data.

    Args:
        config: The model and the data.
        accelerator: Device, precision and processes.
        use: What the rows are for, in a word.
        samples: At most how many; None for all.
        needs_labels: Refuse data without labels.
        labeller: Whose predictions are the labels of data that have none; by default the model itself.

    Raises:
        CheckpointError: If the model cannot be loaded.
        TaskError: If there is no training data, the data cannot be loaded, or its labels are not the model's.
        SearchError: If the rows overlap the validation data.
    """
    if config.validation_file is not None and config.train_file is None:
        raise SearchError(f"there is no train split for {use}: give --train_file beside --validation_file")
    unlabelled = config.task_name is None and config.label_column is None and not needs_labels
    rule = config.calibration_rows if use == CALIBRATION else "evenly"
    if unlabelled:
        loaded = load_model(config.model_name_or_path, **model_settings(config))
        data = _load(config, samples, rule, _placeholders(loaded))
    else:
        data = _load(config, samples, rule)
        loaded = load_model(config.model_name_or_path, **model_settings(config))
    rows, overlap = without_overlap(data["train"], data[config.eval_split], use)
    rows, _ = align_labels(rows, _names(loaded))
    validation, note = align_labels(data[config.eval_split], _names(loaded))
    if unlabelled:
        rows, validation = (
            _self_labelled(config, labeller or loaded, split, accelerator) for split in (rows, validation)
        )
        regression = validation.spec.regression
        meaning = "the correlation with" if regression else "the share of examples that keep"
        said = "predictions" if regression else "prediction"
        note = f"the data have no labels: every accuracy is {meaning} the unpruned model's {said}"
    notes = (*loaded.notes, *((note,) if note else ()), *overlap)
    return CalibrationSession(loaded, rows, validation, notes)


def calibration_slice(config: Any, session: CalibrationSession) -> tuple[TaskData, tuple[str, ...]]:
    """Load the calibration slice beside a session whose rows are for something else; its labels mean nothing.

    Returns:
        The slice, and what a reader of the results should know.

    Raises:
        SearchError: If the slice overlaps the validation data.
    """
    unlabelled = config.task_name is None and config.label_column is None
    placeholders = _placeholders(session.loaded) if unlabelled else None
    data = _load(config, config.max_calibration_samples, config.calibration_rows, placeholders)
    return without_overlap(data["train"], session.validation)


def _load(
    config: Any, samples: int | None, rule: str, placeholders: Sequence[str] | None = None
) -> dict[str, TaskData]:
    """Load rows of train by a rule, and the validation data."""
    limits = {} if samples is None or rule == "longest" else {"train": samples}
    data = load_data(config, ("train", config.eval_split), limits, placeholders)
    if samples is not None and rule == "longest":
        data["train"] = longest_rows(data["train"], samples)
    return data


def longest_rows(data: TaskData, samples: int) -> TaskData:
    """Keep rows evenly spaced among the longest twentieth, or among as many as are wanted where that is more.

    A train split may hold fragments where the task is about whole texts: SST-2's has 9 words a row and its validation
    split 19. What a plan costs on fragments says little of what it costs on sentences.
    """
    lengths = np.array([sum(map(len, texts)) for texts in _texts(data)])
    pool = max(samples, math.ceil(len(lengths) * _LONGEST_SHARE))
    longest = np.sort(np.argsort(-lengths, kind="stable")[:pool])
    kept = longest[np.linspace(0, len(longest) - 1, min(samples, len(longest))).round().astype(int)]
    source = f"{data.source} ({len(kept)} of the longest {len(longest)} of {len(lengths)} rows)"
    return dataclasses.replace(data, dataset=data.dataset.select(kept), source=source)


def _names(loaded: LoadedModel) -> dict[int, str]:
    """Return the model's labels by id."""
    names: dict[Any, str] = loaded.model.config.id2label or {}
    return {int(key): names[key] for key in sorted(names, key=int)}


def _placeholders(loaded: LoadedModel) -> list[str]:
    """Return the classes of data without labels: the model's, or none for a regression, whose model has one output."""
    names = list(_names(loaded).values())
    return names if len(names) > 1 else []


def _self_labelled(config: Any, loaded: LoadedModel, data: TaskData, accelerator: Accelerator) -> TaskData:
    """Take the unpruned model's predictions for labels."""
    encoded = encode(loaded.tokenizer, data, config.max_seq_length)
    score = score_model(config, loaded.model, encoded, accelerator, f"label {data.split}")
    labelled = data.dataset.remove_columns("label").add_column("label", score.predictions)
    return dataclasses.replace(data, dataset=labelled)


def without_overlap(
    calibration: TaskData, validation: TaskData, use: str = "calibration"
) -> tuple[TaskData, tuple[str, ...]]:
    """Leave out the few rows whose text is in the validation data, too, and say so.

    Args:
        calibration: The rows.
        validation: The validation data.
        use: What the rows are for, in a word.

    Raises:
        SearchError: If they are more than a few: then one file was made of the other.
    """
    held_out = set(_texts(validation))
    kept = [row for row, text in enumerate(_texts(calibration)) if text not in held_out]
    n = len(calibration.dataset)
    shared = n - len(kept)
    if not shared:
        return calibration, ()
    said = f"{shared} of the {n} {use} rows {'is' if shared == 1 else 'are'} also in {validation.split}"
    if shared > _ACCIDENTAL_SHARE * n:
        raise SearchError(
            f"{said} ({calibration.source}; {validation.source}): what is chosen on rows would be reported on the same "
            "rows; take training data that shares none with the validation data"
        )
    return dataclasses.replace(calibration, dataset=calibration.dataset.select(kept)), (f"{said} and left out",)


def rows_apart(rows: TaskData, other: TaskData, count: int) -> TaskData:
    """Take at most so many rows, evenly spaced, of those whose text is not in other data."""
    taken = set(_texts(other))
    apart = [row for row, text in enumerate(_texts(rows)) if text not in taken]
    count = min(count, len(apart))
    kept = [apart[index * len(apart) // count] for index in range(count)]
    return dataclasses.replace(rows, dataset=rows.dataset.select(kept))


def _texts(data: TaskData) -> list[tuple[str, ...]]:
    columns = [data.dataset[name][:] for name in data.spec.text_columns]
    return [tuple(" ".join(str(text).split()) for text in texts) for texts in zip(*columns, strict=True)]
