"""Putting identities in the place of layers, sublayers and modules: for a while, or for good."""

from prune_bert.surgery.drop import check_droppable, drop
from prune_bert.surgery.fitted import FittedCorrections
from prune_bert.surgery.probe import SurgeryError, evaluation_mode, quiet_transformers
from prune_bert.surgery.rebuild import Rebuilding
from prune_bert.surgery.record import CONFIG_KEY, PruningRecord, RecordError, pruning_record
from prune_bert.surgery.replace import replace_with_identity
from prune_bert.surgery.swaps import install_stand_ins
from prune_bert.surgery.temporary import Bypass, bypass
from prune_bert.surgery.trial import undroppable_layers

__all__ = [
    "CONFIG_KEY",
    "Bypass",
    "FittedCorrections",
    "PruningRecord",
    "Rebuilding",
    "RecordError",
    "SurgeryError",
    "bypass",
    "check_droppable",
    "drop",
    "evaluation_mode",
    "install_stand_ins",
    "pruning_record",
    "quiet_transformers",
    "replace_with_identity",
    "undroppable_layers",
]
