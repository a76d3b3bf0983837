"""Scorers from the gradient of the loss: what removing a site would cost, to first order. They need labels.

Give a site a gate ``m`` that goes from 1 (the site as it is) to 0 (its stand-in under the norm rule):
``s + m * (y - s)``, with the site's output ``y`` and the stand-in's ``s``. The derivative of an example's loss by the
gate, at 1, is the sum over its tokens of ``dL/dy * (y - s)``: gradient times activation, the activation being the
site's own contribution beside what passes it by. Padding is left out of the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from prune_bert.evaluation.inference import attention_mask, logits_of
from prune_bert.importance.calibration import Calibration, ImportanceError
from prune_bert.importance.scores import Score, mean_scores
from prune_bert.importance.watching import Passage, Ports, ports, watched
from prune_bert.plan import Site


def taylor(calibration: Calibration) -> dict[Site, Score]:
    """Score by the first-order change of an example's loss, ``|gradient . activation|``, averaged over the examples.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference" (ICLR 2017), section
    2.2, with a whole site's contribution in the place of a feature map.
    """
    return _by_gate(calibration, np.abs)


def fisher(calibration: Calibration) -> dict[Site, Score]:
    """Score by half the mean square of an example's derivative by the gate: the diagonal empirical Fisher information.

    Theis et al., "Faster Gaze Prediction with Dense Networks and Fisher Pruning" (arXiv 1801.05787, 2018), section 2;
    on masks of a BERT Kwon et al., "A Fast Post-Training Pruning Framework for Transformers" (NeurIPS 2022).
    """
    return _by_gate(calibration, lambda derivatives: np.square(derivatives) / 2)


def _by_gate(
    calibration: Calibration, weigh: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> dict[Site, Score]:
    """Average what is made of each example's derivative by each site's gate."""
    labels, spec = calibration.labels(), calibration.encoded.data.spec
    expected = 1 if spec.regression else len(spec.labels)
    sites = {site: ports(calibration.encoder, site, calibration.norm) for site in calibration.sites}
    first = next(iter(calibration.encoder.layers))

    # The pass over the data is in inference mode, which a gradient cannot go through.
    def rows_of(batch: dict[str, torch.Tensor], places: NDArray[np.int64]) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = {name: tensor.clone() for name, tensor in batch.items()}
            mask = attention_mask(inputs)
            targets = torch.from_numpy(labels[places]).to(mask.device)
            seen.clear()
            logits = logits_of(calibration.model(**inputs))
            _check_outputs(logits, expected, calibration)
            loss = _summed_loss(logits.float(), targets, regression=spec.regression)
            rows = _derivatives(loss, [seen[site] for site in calibration.sites], list(sites.values()), mask)
            seen.clear()  # the graph goes with it
        return rows

    handle = first.register_forward_pre_hook(_begin_graph, with_kwargs=True)
    try:
        with watched(sites) as seen:
            rows = calibration.rows(rows_of)  # (n, sites)
    finally:
        handle.remove()
    scores = mean_scores(weigh(rows.astype(np.float64)), np.ones(len(rows)))
    return dict(zip(calibration.sites, scores, strict=True))


def _begin_graph(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let gradients reach every layer also where all weights are frozen."""
    for tensor in (*args, *kwargs.values()):
        floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dim() == 3
        if floating and not tensor.requires_grad:
            tensor.requires_grad_(True)


def _derivatives(loss: torch.Tensor, seen: list[Passage], sites: list[Ports], mask: torch.Tensor) -> torch.Tensor:
    """Return the derivative of each example's loss by each site's gate, ``(batch, sites)``."""
    gradients = torch.autograd.grad(loss, [passage.after for passage in seen])
    columns = []
    with torch.no_grad():
        for gradient, passage, site in zip(gradients, seen, sites, strict=True):
            added = passage.after - site.stand_in(passage.before)
            products = (gradient.float() * added.float()).sum(-1)  # (batch, seq)
            columns.append((products * mask).sum(-1))
    return torch.stack(columns, dim=-1)


def _summed_loss(logits: torch.Tensor, targets: torch.Tensor, *, regression: bool) -> torch.Tensor:
    """Sum the examples' losses: the gradient of one example's activations is then that of its own loss."""
    if regression:
        return F.mse_loss(logits[:, 0], targets.float(), reduction="sum")
    return F.cross_entropy(logits, targets.long(), reduction="sum")


def _check_outputs(logits: torch.Tensor, expected: int, calibration: Calibration) -> None:
    if logits.dim() != 2 or logits.shape[1] != expected:
        raise ImportanceError(
            f"the scorer {calibration.name!r} needs a loss, but the model gives outputs of shape {tuple(logits.shape)} "
            f"where task {calibration.encoded.data.spec.name!r} has {expected} for each example; use a model with a "
            "classification head for this task"
        )
