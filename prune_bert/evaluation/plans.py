"""`evaluate_plans`: many plans on one task, with the work that they have in common done once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert.architectures import find_encoder
from prune_bert.evaluation.encoding import EncodedTask, SharedWorkError
from prune_bert.evaluation.evaluating import evaluate, fitting_task, references_of, score_logits
from prune_bert.evaluation.inference import move_to_device, predict_logits, scoring_mode
from prune_bert.evaluation.plan_forward import plan_forward
from prune_bert.evaluation.plan_tree import PlanTree, plan_tree
from prune_bert.evaluation.scores import TaskScore
from prune_bert.knobs import EVAL_BATCH_SIZE, MAX_SEQ_LENGTH, SEED
from prune_bert.plan import PruningPlan
from prune_bert.surgery import bypass
from prune_bert.tasks import METRICS, Rows, TaskData


def evaluate_plans(
    model: nn.Module,
    plans: Sequence[PruningPlan | str],
    data: TaskData | EncodedTask | Rows,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    accelerator: Accelerator | None = None,
    batch_size: int = EVAL_BATCH_SIZE.default,
    max_seq_length: int = MAX_SEQ_LENGTH.default,
    n_resamples: int = 0,
    seed: int = SEED.default,
    description: str = "evaluate plans",
) -> list[TaskScore]:
    """Score a classifier on a task under each of many plans, in their order; `seconds` is an equal share.

    The plans form a tree over the layers in forward order, and every distinct prefix is computed once for each batch
    (see `count_layer_passes`); those that differ only in a layer's feed-forward sublayer share its attention, too.
    The logits are, bit for bit, those of `evaluate` under `bypass` with the same batches; for one plan that is checked
    on two examples before the work starts. Memory does not grow with the plans, beside the logits themselves.

    Args:
        model: A model of transformers, not wrapped by DDP or ``torch.compile``; it is as before on leaving.
        plans: Any number of plans, or their texts; also empty or equal ones and of both norm rules.
        data: As for `evaluate`, like all arguments not named here. Processes divide the batches.
        tokenizer: The model's tokenizer; not needed for an `EncodedTask`.
        text_columns: As for `evaluate`.
        label_column: As for `evaluate`.
        accelerator: Device, precision and processes.
        batch_size: Examples in a batch of each process. On a GPU hundreds, so that it does not wait for the host.
        max_seq_length: Where longer texts are cut, in tokens.
        n_resamples: Bootstrap resamples for each plan; by default none, and the intervals are nan.
        seed: Seed of the resamples.
        description: What the progress bar says.

    Raises:
        EvaluationError: As `evaluate`; a `SharedWorkError` where the model is of a kind where plans cannot share work.
        UserError: A plan is none, or names what the model does not have, or has no more.

    Examples:
        >>> scores = evaluate_plans(model, ["", "ffn:3", "layer:1-2"], rows, tokenizer)
    """
    tree = plan_tree(PruningPlan.many(plans), len(find_encoder(model).layers))
    encoded = fitting_task(model, data, tokenizer, max_seq_length, text_columns, label_column)
    return _evaluate_tree(model, tree, encoded, accelerator, batch_size, n_resamples, seed, description)


def _evaluate_tree(
    model: nn.Module,
    tree: PlanTree,
    encoded: EncodedTask,
    accelerator: Accelerator | None,
    batch_size: int,
    n_resamples: int,
    seed: int,
    description: str,
) -> list[TaskScore]:
    """Score a classifier on an encoded task under each plan of a tree; see `evaluate_plans`."""
    if not tree.end_of:
        return []
    accelerator = accelerator or Accelerator()
    move_to_device(model, accelerator.device)
    with scoring_mode(model), plan_forward(model, tree) as forward:  # stand-ins are made in the mode that they run in
        logits, seconds = predict_logits(model, encoded, accelerator, batch_size, description, forward)
    scores = _scores(tree, logits, encoded.data, seconds / len(tree.end_of), n_resamples, seed)
    return [scores[end] for end in tree.end_of]


def evaluate_each(
    model: nn.Module,
    plans: Sequence[PruningPlan | str],
    data: TaskData | EncodedTask | Rows,
    *,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[TaskScore]:
    """Score a classifier under each of many plans: together, or one after the other where they cannot share work.

    Several processes go the same way: where plans cannot share work on one, none shares it.

    Args:
        model: The model.
        plans: The plans.
        data: The task.
        tell: Told why plans were not evaluated together; by default that is a warning.
        **settings: The keywords that `evaluate` and `evaluate_plans` have in common.

    Raises:
        EvaluationError: What `evaluate` raises.
    """
    try:
        return evaluate_plans(model, plans, data, **settings)
    except SharedWorkError as error:
        (tell or _warn)(one_by_one(error))
        scores = []
        for plan in plans:
            with bypass(model, plan):
                scores.append(evaluate(model, data, **settings))
        return scores


class SharedWorkWarning(UserWarning):
    """Plans that were evaluated one after the other, with more work than together."""


def one_by_one(error: SharedWorkError) -> str:
    """Say that plans were evaluated one at a time, and why."""
    return f"plans were evaluated one at a time, which takes longer: {str(error).partition(': evaluate ')[0]}"


def _warn(words: str) -> None:
    warnings.warn(words, SharedWorkWarning, stacklevel=3)


def _scores(
    tree: PlanTree, logits: NDArray[np.float32], data: TaskData, seconds: float, n_resamples: int, seed: int
) -> list[TaskScore]:
    """Score ``(n, ends, num_outputs)`` logits of each end of a tree."""
    references = references_of(data)
    return [
        score_logits(
            np.ascontiguousarray(logits[:, end]),
            data,
            seconds,
            n_resamples,
            seed,
            references=references,
            compute=plain_metrics,
            owner=f"the model under plan {str(plan)!r}",
        )
        for end, plan in enumerate(tree.ends)
    ]


def plain_metrics(names: Sequence[str], predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
    """Compute metrics by their arithmetic alone: an `evaluate.Metric` takes milliseconds, for each of thousands."""
    return {name: float(METRICS[name](predictions, references)) for name in names}
