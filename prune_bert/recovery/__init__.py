"""Getting back by training what pruning lost: fine-tuning, distillation, LoRA, at once or site by site."""

from prune_bert.recovery.distillation import DistillationLoss
from prune_bert.recovery.recovering import recover
from prune_bert.recovery.results import RecoverPhase, RecoverResult
from prune_bert.recovery.settings import RecoverSettings, RecoveryError

__all__ = [
    "DistillationLoss",
    "RecoverPhase",
    "RecoverResult",
    "RecoverSettings",
    "RecoveryError",
    "recover",
]
