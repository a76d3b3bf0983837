"""Whether a pruned model can be saved for plain transformers."""

from __future__ import annotations

from transformers import PreTrainedModel

from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.surgery.plain_form import portable_obstacle


def check_portable(model: PreTrainedModel) -> None:
    """Refuse a model whose stand-ins no plain model can imitate.

    Raises:
        CheckpointError: It names the first site that has no portable form, and why.
    """
    obstacle = portable_obstacle(model)
    if obstacle is not None:
        reason, instead = obstacle
        raise CheckpointError(f"{reason}; save it with format 'compact' (--checkpoint_format compact), or {instead}")
