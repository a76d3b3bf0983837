"""Models to and from disk: pruned checkpoints that reload equal, and loading that never goes on with random weights."""

from prune_bert.checkpoint.loading import LoadedModel, directory_bytes, load_model, tensor_bytes
from prune_bert.checkpoint.pruned import load_pruned
from prune_bert.checkpoint.saving import CheckpointFormat, save_pruned
from prune_bert.checkpoint.sources import CheckpointError

__all__ = [
    "CheckpointError",
    "CheckpointFormat",
    "LoadedModel",
    "directory_bytes",
    "load_model",
    "load_pruned",
    "save_pruned",
    "tensor_bytes",
]
