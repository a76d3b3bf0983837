"""The evaluation of compensated plans: those of a group together, what comes before their new site run once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.compensation.candidates import new_run
from prune_bert.evaluation import EncodedTask, TaskScore, evaluate
from prune_bert.evaluation.encoding import SharedWorkError
from prune_bert.evaluation.evaluating import references_of, score_logits
from prune_bert.evaluation.inference import logits_of, predict_logits, scoring_mode
from prune_bert.evaluation.plan_recording import record_forward
from prune_bert.evaluation.plans import one_by_one, plain_metrics
from prune_bert.plan import PruningPlan
from prune_bert.surgery import Bypass, bypass
from prune_bert.surgery.swaps import Corrections

Compensated = Mapping[PruningPlan, Corrections]
"""Plans, each with what was fitted for it."""


def score_compensated(
    config: Any,
    model: nn.Module,
    plans: Compensated,
    encoded: EncodedTask,
    accelerator: Accelerator,
    *,
    n_resamples: int = 0,
    description: str,
) -> list[TaskScore]:
    """Evaluate compensated plans, one after the other."""
    scores = []
    for number, (plan, corrections) in enumerate(plans.items(), start=1):
        with bypass(model, plan, corrections):
            scores.append(
                evaluate(
                    model,
                    encoded,
                    accelerator=accelerator,
                    batch_size=config.per_device_eval_batch_size,
                    n_resamples=n_resamples,
                    seed=config.seed,
                    description=f"{description}, {number} of {len(plans)} plans",
                )
            )
    return scores


def score_group(
    config: Any,
    model: nn.Module,
    base: tuple[PruningPlan, Corrections],
    plans: Compensated,
    encoded: EncodedTask,
    accelerator: Accelerator,
    *,
    description: str,
    tell: Callable[[str], None] | None = None,
) -> list[TaskScore]:
    """Evaluate plans that each remove one site more than a base: together, or one by one where they share no work.

    Several processes go the same way; `tell` is told why it was one by one.
    """
    nn.Module.to(model, accelerator.device)
    try:
        with scoring_mode(model):
            forward = _GroupForward(model, base, plans)
            size = config.per_device_eval_batch_size
            logits, seconds = predict_logits(model, encoded, accelerator, size, description, forward)
    except SharedWorkError as error:
        if tell is not None:
            tell(one_by_one(error))
        return score_compensated(config, model, plans, encoded, accelerator, description=description)
    references, share = references_of(encoded.data), seconds / len(plans)
    return [
        score_logits(
            np.ascontiguousarray(logits[:, number]),
            encoded.data,
            share,
            0,
            config.seed,
            references=references,
            compute=plain_metrics,
            owner=f"the model under plan {str(plan)!r}",
        )
        for number, plan in enumerate(plans)
    ]


class _GroupForward:
    """From a batch to the logits of every plan of a group, ``(batch, plans, num_outputs)``.

    The base runs once, and is recorded; each plan goes on from the first layer in which it differs.
    """

    def __init__(self, model: nn.Module, base: tuple[PruningPlan, Corrections], plans: Compensated) -> None:
        self._model = model
        self._encoder = find_encoder(model)
        self._base = bypass(model, *base)
        self._plans = [(new_run(base[0], plan)[0].layer, bypass(model, plan, one)) for plan, one in plans.items()]
        self._rehearsed = False

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run every plan on a batch."""
        if not self._rehearsed:
            self._rehearse(batch)
        with self._base:
            recording = record_forward(self._model, list(self._encoder.layers), batch)
        logits = []
        for first, bypassed in self._plans:
            hidden = recording.states[first]
            with bypassed:
                for level in range(first, len(self._encoder.layers)):
                    out = recording.calls[level].run(self._encoder.layers[level], hidden)
                    hidden = recording.gaps[level](out)
            logits.append(hidden)
        return torch.stack(logits, dim=1)

    def _rehearse(self, batch: dict[str, torch.Tensor]) -> None:
        """Check on two examples that the first plan and the last give the same together and alone.

        Raises:
            SharedWorkError: They do not.
        """
        self._rehearsed = True
        few = {name: tensor[[0, -1]] for name, tensor in batch.items()}
        together = self(few)
        for place in (0, -1):
            alone = _alone(self._model, self._plans[place][1], few)
            if not torch.allclose(alone, together[:, place], rtol=1e-3, atol=1e-4, equal_nan=True):
                raise SharedWorkError("something outside the layers depends on more than their output")


def _alone(model: nn.Module, bypassed: Bypass, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with bypassed:
        return logits_of(model(**batch))
