"""Everything that changes the disk: files and directories appear whole or not at all, and only our own are replaced."""

from prune_bert.storage.files import OutputError, make_directory, remove, write_bytes, write_text, writing
from prune_bert.storage.manifest import MANIFEST, foreign_file
from prune_bert.storage.staging import new_or_renewed, output_directory, staged_directory
from prune_bert.storage.targets import OutputDirectory, refuse_inputs, resolved
from prune_bert.storage.working import WorkingDirectory, hidden

__all__ = [
    "MANIFEST",
    "OutputDirectory",
    "OutputError",
    "WorkingDirectory",
    "foreign_file",
    "hidden",
    "make_directory",
    "new_or_renewed",
    "output_directory",
    "refuse_inputs",
    "remove",
    "resolved",
    "staged_directory",
    "write_bytes",
    "write_text",
    "writing",
]
