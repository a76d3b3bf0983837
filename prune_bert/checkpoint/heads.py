"""Which head a checkpoint was trained with, by the class that its config names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prune_bert.checkpoint.sources import CheckpointError

_CLASSIFIER = "ForSequenceClassification"
_HEAD = re.compile(r"(For[A-Z]\w*|LMHead(?:Model)?|DoubleHeadsModel)$")


def check_architecture(owner: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose config names another head than that of a sequence classifier.

    Some heads have weights of the same names: a token classifier of ModernBERT or Llama would load as a sequence
    classifier without a word. A checkpoint that names no class, or a model without a head, is left to the check of its
    weights; so is one whose own code says what its classifier is.

    Args:
        owner: Whose config it is, for the message.
        config: The checkpoint's ``config.json``.

    Raises:
        CheckpointError: It says which head the checkpoint has.
    """
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if any(name.endswith(_CLASSIFIER) for name in names) or f"AutoModel{_CLASSIFIER}" in (config.get("auto_map") or {}):
        return
    found = [(name, match.group(1)) for name in names if (match := _HEAD.search(name))]
    if found:
        name, head = found[0]
        raise CheckpointError(
            f"{owner!r} has no trained classification head: its config.json says that it is a {name}, with a head "
            f"{head}, and this needs one {_CLASSIFIER}; fine-tune it first: prune-bert train --model_name_or_path ... "
            "--task_name ... --output_dir ..."
        )
