"""Scorers that compare what goes into a site with what comes out: no labels, no gradients.

A site that changes its input little is worth little. Padding has no say: neither in the hidden states of other tokens,
which do not attend to it, nor in the averages. For sublayers input and output are taken around the residual and the
LayerNorm (see `watching`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from prune_bert.evaluation.inference import attention_mask
from prune_bert.importance.calibration import Calibration
from prune_bert.importance.scores import Score, mean_scores
from prune_bert.importance.watching import Passage, ports, watched
from prune_bert.plan import Site

Measure = Callable[[Passage, torch.Tensor], torch.Tensor]


def block_influence(calibration: Calibration) -> dict[Site, Score]:
    """Score by 1 minus the cosine of each token's hidden state before and after, averaged over all tokens.

    Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (arXiv 2403.03853,
    2024): Block Influence; here without the padding.
    """
    return _by_similarity(calibration, lambda passage, mask: _over_tokens(cosine_distance, passage, mask))


def angular(calibration: Calibration) -> dict[Site, Score]:
    """Score by the angle between each token's hidden state before and after, in half turns, over all tokens.

    Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers" (ICLR 2025; arXiv 2403.17887, 2024),
    section 3.2, with blocks of one layer; `score_blocks` has longer ones. The paper takes the last token
    of a decoder; an encoder's tokens all see the whole text, so all of them count.
    """
    return _by_similarity(calibration, lambda passage, mask: _over_tokens(angular_distance, passage, mask))


def contribution(calibration: Calibration) -> dict[Site, Score]:
    """Score by 1 minus the cosine of the [CLS] token's hidden state before and after.

    Sajjad et al., "On the Effect of Dropping Layers of Pre-trained Transformer Models" (arXiv 2004.03844, 2020),
    section 3 (contribution-based dropping). [CLS] is the first token that is not padding.
    """
    return _by_similarity(calibration, _at_first_token)


def cosine_distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the cosine of ``(..., hidden)`` vectors, exact also where they hardly differ."""
    difference = F.normalize(before.float(), dim=-1) - F.normalize(after.float(), dim=-1)
    return difference.square().sum(-1) / 2


def angular_distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the angle between ``(..., hidden)`` vectors in half turns, exact also where they hardly differ."""
    one, other = F.normalize(before.float(), dim=-1), F.normalize(after.float(), dim=-1)
    return 2 / math.pi * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))


def _by_similarity(calibration: Calibration, measure: Measure) -> dict[Site, Score]:
    """Average a measure that gives each example a sum and a weight, ``(batch, 2)``."""
    sites = {site: ports(calibration.encoder, site) for site in calibration.sites}

    def rows_of(batch: dict[str, torch.Tensor], places: NDArray[np.int64]) -> torch.Tensor:
        mask = attention_mask(batch)
        seen.clear()
        calibration.model(**batch)
        return torch.stack([measure(seen[site], mask) for site in calibration.sites], dim=1)

    with watched(sites) as seen:
        rows = calibration.rows(rows_of)  # (n, sites, 2)
    scores = mean_scores(rows[..., 0], rows[:, 0, 1])
    return dict(zip(calibration.sites, scores, strict=True))


def _over_tokens(
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], passage: Passage, mask: torch.Tensor
) -> torch.Tensor:
    kept = mask.float()
    return torch.stack([(distance(passage.before, passage.after) * kept).sum(-1), kept.sum(-1)], dim=-1)


def _at_first_token(passage: Passage, mask: torch.Tensor) -> torch.Tensor:
    rows, first = torch.arange(len(mask), device=mask.device), mask.long().argmax(-1)
    distance = cosine_distance(passage.before[rows, first], passage.after[rows, first])
    return torch.stack([distance, torch.ones_like(distance)], dim=-1)
