"""Which compensation gives back how much: every form on the same plans, fitted to train and scored on validation.

The forms differ in one thing at a time from the first. What a form is chosen by is its divergence from the unpruned
model on rows of train that it was not fitted to; the validation figures are for the reader.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from prune_bert import PruningPlan, bypass, compare, evaluate, load_model
from prune_bert.checkpoint import LoadedModel
from prune_bert.compensation import CompensationSettings, compensate
from prune_bert.evaluation import EncodedTask, TaskScore, encode
from prune_bert.pipeline.calibration import longest_rows
from prune_bert.pipeline.plan_values import divergences
from prune_bert.profiling import measure_size
from prune_bert.tasks import align_labels, load_task

Json = dict[str, Any]
SEQUENCE_LENGTH = 128
FORMS: dict[str, Json] = {
    "low rank 32": {},
    "rank 8": {"rank": 8},
    "rank 128": {"rank": 128},
    "rank by cross-validation": {"rank": None},
    "affine": {"form": "affine"},
    "neurons 64": {"form": "neurons", "neurons": 64},
    "neurons 128, rank 16": {"form": "neurons", "rank": 16},
    "neurons 32": {"form": "neurons", "neurons": 32},
    "neurons 128": {"form": "neurons"},
    "after the LayerNorm": {"placement": "after"},
    "LayerNorm as it was": {"refit_norm": False},
    "ridge 0.01": {"ridge": 0.01},
    "ridge 0.3": {"ridge": 0.3},
    "ridge 1": {"ridge": 1.0},
}


def run(
    *,
    model_path: str,
    task: str,
    data_dir: str | None,
    plans: Sequence[str],
    samples: int = 256,
    longest: bool = False,
    forms: Sequence[str] | None = None,
    show: Callable[[str], None] = print,
) -> Json:
    """Measure every form on every plan.

    Args:
        model_path: The unpruned classifier.
        task: Its task.
        data_dir: Where the task's files are.
        plans: Plans in text form.
        samples: Rows of train to fit to; as many others to judge by.
        longest: Take them from the longest twentieth.
        forms: Names of `FORMS`; by default all.
        show: Told each result as it comes.

    Returns:
        JSON-able results.
    """
    loaded = load_model(model_path)
    fit, judge, validation = _data(loaded, task, data_dir, samples, longest=longest)
    unpruned = {name: evaluate(loaded.model, data) for name, data in (("judge", judge), ("validation", validation))}
    flops = _flops(loaded)
    rows = []
    for text in plans:
        plan = PruningPlan.parse(text)
        for name in ("none", *(forms or FORMS)):
            start = time.perf_counter()
            fitted = None
            if name != "none":
                settings = CompensationSettings(**FORMS[name])
                fitted = compensate(loaded.model, plan, fit, settings=settings)
            seconds = time.perf_counter() - start
            with bypass(loaded.model, plan, fitted):
                row = {"plan": text, "form": name, "flops_speedup": flops / _flops(loaded), "seconds": seconds}
                row |= _scores(loaded, judge, validation, unpruned)
            rows.append(row)
            low, high = row["difference_ci95"]
            show(
                f"{task} {text} | {name} | {row['flops_speedup']:.2f}x | divergence {row['divergence']:.4f} | "
                f"{row['difference']:+.1f} ({low:+.1f} to {high:+.1f}) | {seconds:.0f} s"
            )
    first = next(iter(unpruned["validation"].metrics.items()))
    return {
        "task": task,
        "metric": first[0],
        "baseline": first[1].to_dict(),
        "n": {"fit": len(fit), "judge": len(judge), "validation": len(validation)},
        "rows": rows,
    }


def _data(
    loaded: LoadedModel, task: str, data_dir: str | None, samples: int, *, longest: bool
) -> tuple[EncodedTask, ...]:
    """Return rows of train to fit to, as many others of train to judge by, and the validation data."""
    labels = loaded.model.config.id2label
    limits = {} if longest else {"train": 2 * samples}
    splits = load_task(task, data_dir=data_dir, splits=("train", "validation"), max_samples=limits)
    rows = longest_rows(splits["train"], 2 * samples) if longest else splits["train"]
    train, _ = align_labels(rows, labels)
    validation, _ = align_labels(splits["validation"], labels)
    encoded = encode(loaded.tokenizer, train)
    halves = (_rows(encoded, range(start, len(encoded), 2)) for start in (0, 1))
    return *halves, encode(loaded.tokenizer, validation)


def _rows(encoded: EncodedTask, rows: Sequence[int]) -> EncodedTask:
    data = dataclasses.replace(encoded.data, dataset=encoded.data.dataset.select(rows))
    features = {name: [values[row] for row in rows] for name, values in encoded.features.items()}
    return dataclasses.replace(encoded, data=data, features=features, lengths=encoded.lengths[list(rows)])


def _scores(loaded: LoadedModel, judge: EncodedTask, validation: EncodedTask, unpruned: dict[str, TaskScore]) -> Json:
    judged, score = evaluate(loaded.model, judge), evaluate(loaded.model, validation)
    found = compare(unpruned["validation"], score)
    name, metric = next(iter(score.metrics.items()))
    difference = found.differences[name]
    return {
        "divergence": float(divergences(unpruned["judge"].logits, judged).mean()),
        "validation_divergence": float(divergences(unpruned["validation"].logits, score).mean()),
        "value": 100 * metric.value,
        "difference": 100 * difference.value,
        "difference_ci95": [100 * end for end in difference.ci95],
    }


def _flops(loaded: LoadedModel) -> int:
    return measure_size(loaded.model, sequence_length=SEQUENCE_LENGTH, batch_size=1).flops
