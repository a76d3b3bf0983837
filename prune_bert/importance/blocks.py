"""Contiguous blocks of layers, scored as wholes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert.architectures import find_encoder
from prune_bert.evaluation import EncodedTask
from prune_bert.evaluation.evaluating import fitting_task
from prune_bert.evaluation.inference import attention_mask
from prune_bert.importance.calibration import Calibration, ImportanceError
from prune_bert.importance.scores import Score, mean_scores
from prune_bert.importance.similarity import angular_distance
from prune_bert.importance.watching import ports, watched
from prune_bert.knobs import EVAL_BATCH_SIZE, MAX_SEQ_LENGTH
from prune_bert.plan import PruningPlan, Site
from prune_bert.search.sites import layer_sites
from prune_bert.surgery.temporary import is_bypassed
from prune_bert.tasks import TaskData


@dataclass(frozen=True)
class BlockScores:
    """The scores of contiguous blocks of layers; higher means keep.

    Attributes:
        scores: By the block's first layer and its number of layers.
        n: How many examples had a say.
        seconds: Wall-clock time.
    """

    scores: Mapping[tuple[int, int], Score]
    n: int
    seconds: float

    def best(self, length: int) -> PruningPlan:
        """Return the plan that removes the block of so many layers that is worth least; of equals the later one.

        Raises:
            ImportanceError: No block of that length was scored.
        """
        starts = [start for start, blocks in self.scores if blocks == length]
        if not starts:
            lengths = sorted({blocks for _, blocks in self.scores})
            raise ImportanceError(f"no block of {length} layers was scored; the lengths scored are {lengths}")
        first = min(starts, key=lambda start: (self.scores[start, length].value, -start))
        return PruningPlan(tuple(Site(layer) for layer in range(first, first + length)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_dict` gives it back."""
        scores = [
            {"start": start, "length": length, **score.to_dict()} for (start, length), score in self.scores.items()
        ]
        return {"scores": scores, "n": self.n, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> BlockScores:
        """Read what `to_dict` gave."""
        scores = {(item["start"], item["length"]): Score.from_dict(item) for item in stored["scores"]}
        return cls(scores, stored["n"], stored["seconds"])


def score_blocks(
    model: nn.Module,
    data: TaskData | EncodedTask,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    lengths: Iterable[int] | None = None,
    accelerator: Accelerator | None = None,
    batch_size: int = EVAL_BATCH_SIZE.default,
    max_seq_length: int = MAX_SEQ_LENGTH.default,
) -> BlockScores:
    """Score every block of contiguous layers by the angle between the hidden states before and after it.

    Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers" (ICLR 2025; arXiv 2403.17887, 2024),
    section 3.2: of all blocks of n layers the one with the least angle goes. Averaged over all tokens but the padding.
    The arguments are those of `score_sites`.

    Args:
        model: The unpruned model.
        data: The calibration examples; their labels have no say.
        tokenizer: The model's tokenizer; not needed for an `EncodedTask`.
        lengths: Numbers of layers in a block; by default all, from 1 to the whole encoder.
        accelerator: Device, precision and processes; by default a new one.
        batch_size: Examples in a batch of each process.
        max_seq_length: Where longer texts are cut, in tokens.

    Raises:
        ImportanceError: A length does not fit the model, there are no examples, or the model is bypassed or pruned.
    """
    if is_bypassed(model):
        raise ImportanceError("the model is bypassed at the moment; leave the `with bypass(...)` block before scoring")
    depth = len(find_encoder(model).layers)
    wanted = sorted(set(range(1, depth + 1) if lengths is None else lengths))
    if not wanted or wanted[0] < 1 or wanted[-1] > depth:
        raise ImportanceError(f"blocks of {wanted} layers: a model of {depth} layers has blocks of 1 to {depth}")
    blocks = [(start, length) for length in wanted for start in range(depth - length + 1)]
    started = time.perf_counter()
    calibration = Calibration(
        model,
        layer_sites(depth),
        fitting_task(model, data, tokenizer, max_seq_length),
        accelerator or Accelerator(),
        batch_size,
        name="angular",
    )
    scores = dict(zip(blocks, _angles(calibration, blocks), strict=True))
    return BlockScores(scores, len(calibration.encoded), time.perf_counter() - started)


def _angles(calibration: Calibration, blocks: list[tuple[int, int]]) -> list[Score]:
    sites = {site: ports(calibration.encoder, site) for site in calibration.sites}

    def rows_of(batch: dict[str, torch.Tensor], places: NDArray[np.int64]) -> torch.Tensor:
        kept = attention_mask(batch).float()
        seen.clear()
        calibration.model(**batch)
        sums = [
            (angular_distance(seen[Site(start)].before, seen[Site(start + length - 1)].after) * kept).sum(-1)
            for start, length in blocks
        ]
        return torch.stack([*sums, kept.sum(-1)], dim=-1)

    with watched(sites) as seen:
        rows = calibration.rows(rows_of)  # (n, blocks + 1), the last column counting tokens
    return mean_scores(rows[:, :-1], rows[:, -1])
