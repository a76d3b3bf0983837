"""What a scorer gets to work with, and one pass over the calibration examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.errors import UserError
from prune_bert.evaluation import EncodedTask, length_sorted_batches
from prune_bert.evaluation.inference import predict_logits
from prune_bert.knobs import EVAL_BATCH_SIZE
from prune_bert.plan import NormRule, Site


class ImportanceError(UserError, ValueError):
    """A scorer that does not exist, or that lacks what it needs."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A model and the examples that its sites are scored on.

    Attributes:
        model: The unpruned model.
        sites: The sites to score, in forward order.
        examples: The examples, tokenised; None for scorers that look at none.
        accelerator: Device, precision and processes.
        batch_size: Examples in a batch of each process.
        norm: The norm rule under which sublayers would go.
        name: What the progress bar says.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    examples: EncodedTask | None = None
    accelerator: Accelerator = field(default_factory=Accelerator)
    batch_size: int = EVAL_BATCH_SIZE.default
    norm: NormRule = "keep"
    name: str = "score"

    @property
    def encoder(self) -> Encoder:
        """The model's encoder."""
        return find_encoder(self.model)

    @property
    def encoded(self) -> EncodedTask:
        """The examples.

        Raises:
            ImportanceError: There are none.
        """
        if self.examples is None or not len(self.examples):
            raise ImportanceError(f"the scorer {self.name!r} looks at examples; give it data with at least one")
        return self.examples

    def labels(self) -> NDArray[Any]:
        """Return the examples' labels, ``(n,)``: class ids, or numbers.

        Raises:
            ImportanceError: There are none, or some are missing.
        """
        data = self.encoded.data
        if "label" not in data.dataset.column_names:
            raise ImportanceError(
                f"the scorer {self.name!r} needs labels, and {data.source} ({data.split}) has none; use a scorer "
                "without, such as block_influence, or data with labels"
            )
        labels: NDArray[Any] = np.asarray(data.dataset["label"][:], np.float32 if data.spec.regression else np.int64)
        known = np.isfinite(labels) if data.spec.regression else (labels >= 0) & (labels < len(data.spec.labels))
        if not known.all():
            row = int(np.flatnonzero(~known)[0])
            raise ImportanceError(
                f"the scorer {self.name!r} needs a label for every example, and row {row} of {data.source} "
                f"({data.split}) has {labels[row]}; use a scorer without labels, such as block_influence"
            )
        return labels

    def rows(
        self, rows_of_batch: Callable[[dict[str, torch.Tensor], NDArray[np.int64]], torch.Tensor]
    ) -> NDArray[np.float32]:
        """Go through all examples in batches of like length, the processes sharing them.

        Args:
            rows_of_batch: From a batch of inputs and the ``(batch,)`` places of its examples in the data to
                ``(batch, ...)`` values.

        Returns:
            ``(n, ...)`` in the order of the data, the same on every process.

        Raises:
            ImportanceError: A value is not a finite number.
        """
        encoded = self.encoded
        batches = length_sorted_batches(encoded, self.batch_size)
        places = iter(batches[self.accelerator.process_index :: self.accelerator.num_processes])

        def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return rows_of_batch(batch, next(places))

        rows, _ = predict_logits(self.model, encoded, self.accelerator, self.batch_size, self.name, forward)
        broken = int((~np.isfinite(rows.reshape(len(rows), -1))).any(1).sum())
        if broken:
            raise ImportanceError(
                f"the scorer {self.name!r} gives nan or infinite values for {broken} of {len(rows)} examples; in fp16 "
                "this is an overflow: use mixed_precision bf16 or no; otherwise the weights are damaged"
            )
        return rows
