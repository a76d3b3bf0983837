"""`score_sites`: what each site of a model is worth, by one scorer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert.architectures import find_encoder
from prune_bert.evaluation import EncodedTask
from prune_bert.evaluation.evaluating import fitting_task
from prune_bert.importance.calibration import Calibration, ImportanceError
from prune_bert.importance.scorers import SCORERS
from prune_bert.importance.scores import SiteScores
from prune_bert.knobs import EVAL_BATCH_SIZE, MAX_SEQ_LENGTH
from prune_bert.plan import COMPONENTS, NORM_RULES, Component, NormRule
from prune_bert.search.names import unknown_name
from prune_bert.search.sites import sites_of
from prune_bert.surgery.temporary import is_bypassed
from prune_bert.tasks import Rows, TaskData


def score_sites(
    model: nn.Module,
    data: TaskData | EncodedTask | Rows | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    scorer: str = "block_influence",
    components: Sequence[Component] = ("layer",),
    norm: NormRule = "keep",
    accelerator: Accelerator | None = None,
    batch_size: int = EVAL_BATCH_SIZE.default,
    max_seq_length: int = MAX_SEQ_LENGTH.default,
) -> SiteScores:
    """Score the layers or sublayers of a model; higher means keep.

    Up to rounding the scores do not depend on batch size, padding, the order of the data or the number of processes;
    every process gets them. The model is left as it was, but on the accelerator's device.

    Args:
        model: A model of transformers, with a head for the task where the scorer needs a loss.
        data: The calibration examples, a slice of the training data, as for `evaluate`; not needed for scorers that
            look at none, and their labels not for scorers without a loss.
        tokenizer: The model's tokenizer; not needed for an `EncodedTask`.
        text_columns: As for `evaluate`.
        label_column: As for `evaluate`.
        scorer: One of `SCORERS`, such as top, magnitude, contribution, block_influence, taylor or loss_increase.
        components: Which kinds of sites: layer, attention, ffn.
        norm: The norm rule under which sublayers would go, for taylor, fisher and loss_increase; the others compare
            what goes into a sublayer with what comes out of its LayerNorm under either rule.
        accelerator: Device, precision and processes; by default a new one.
        batch_size: Examples in a batch of each process.
        max_seq_length: Where longer texts are cut, in tokens; an `EncodedTask` brings its own.

    Raises:
        ImportanceError: There is no such scorer, it lacks data or labels, or the model is bypassed or pruned.
        ArchitectureError: The model's layers cannot be found, or its family lacks a component.
        EvaluationError: The sequence length is over the model's or the tokenizer's.

    Examples:
        >>> scores = score_sites(model, rows, tokenizer, scorer="block_influence", components=["attention", "ffn"])
        >>> scores.ranking()[0].component in ("attention", "ffn")
        True
    """
    _check(model, scorer, components, norm)
    encoded = None
    if SCORERS[scorer].needs_data:
        encoded = _examples(model, data, tokenizer, scorer, max_seq_length, text_columns, label_column)
    return _scored(model, scorer, components, encoded, accelerator or Accelerator(), batch_size, norm)


def _examples(
    model: nn.Module,
    data: TaskData | EncodedTask | Rows | None,
    tokenizer: PreTrainedTokenizerBase | None,
    scorer: str,
    max_seq_length: int,
    text_columns: Sequence[str] | str | None,
    label_column: str | None,
) -> EncodedTask:
    if data is None:
        raise ImportanceError(f"the scorer {scorer!r} looks at examples; give it data")
    needs_labels = SCORERS[scorer].needs_labels
    return fitting_task(model, data, tokenizer, max_seq_length, text_columns, label_column, labelled=needs_labels)


def _scored(
    model: nn.Module,
    scorer: str,
    components: Sequence[Component],
    encoded: EncodedTask | None,
    accelerator: Accelerator,
    batch_size: int,
    norm: NormRule,
) -> SiteScores:
    sites = sites_of(len(find_encoder(model).layers), components)
    started = time.perf_counter()
    scores = SCORERS[scorer].compute(Calibration(model, sites, encoded, accelerator, batch_size, norm, scorer))
    return SiteScores(scorer, scores, 0 if encoded is None else len(encoded), time.perf_counter() - started)


def _check(model: nn.Module, scorer: str, components: Sequence[Component], norm: NormRule) -> None:
    for kind, given, known in (
        ("scorer", [scorer], SCORERS),
        ("component", components, COMPONENTS),
        ("norm rule", [norm], NORM_RULES),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ImportanceError(unknown_name(kind, unknown[0], known))
    if not components:
        raise ImportanceError(f"no component to score; give one or more of {', '.join(COMPONENTS)}")
    for component in set(components) - {"layer"}:
        find_encoder(model).parts(component, norm)  # raises where the family's sublayers are not known
    if is_bypassed(model):
        raise ImportanceError("the model is bypassed at the moment; leave the `with bypass(...)` block before scoring")
