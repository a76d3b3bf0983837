"""What a saved config says of itself, so that an edit that would change the outputs is refused when it is loaded.

A checkpoint may be fine-tuned by plain transformers, which carries the record of pruning along: weights may change, and
so may labels, dropout and the size of the vocabulary. What the layers compute from their weights may not.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from transformers import PretrainedConfig

from prune_bert.surgery.record import CONFIG_KEY, RecordError

_VALUES = "config"
_CHECKSUM = "checksum"

# Of the keys that every config has, those that change what an encoder computes.
_SHARED_KEYS = ("is_decoder", "pad_token_id")
# Shapes show in the weights, and a vocabulary or a head may be resized; the rest matters in training only.
_FREE_KEYS = (
    "vocab_size",
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "initializer_cutoff_factor",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "gradient_checkpointing",
    "reference_compile",
    CONFIG_KEY,
)


def sealed(config: PretrainedConfig) -> PretrainedConfig:
    """Return a copy of a config whose record says which values the outputs depend on, with a checksum of the record.

    The copy of a config without a record has none, either.
    """
    copied = copy.deepcopy(config)
    if isinstance(getattr(config, CONFIG_KEY, None), dict):
        record = _unsealed(getattr(config, CONFIG_KEY))
        record[_VALUES] = _values(config)
        setattr(copied, CONFIG_KEY, {**record, _CHECKSUM: _checksum(record)})
    return copied


def check_seal(config: PretrainedConfig) -> None:
    """Refuse a config that was edited after it was sealed, and take the seal off; none is needed.

    Raises:
        RecordError: A value that the outputs depend on, or the record itself, was edited.
    """
    record = dict(getattr(config, CONFIG_KEY))
    checksum, values = record.pop(_CHECKSUM, None), record.get(_VALUES)
    if checksum is None and values is None:  # saved by an earlier version
        return
    if checksum != _checksum(record) or not isinstance(values, dict):
        raise RecordError(
            f"the record of pruning in config.json ({CONFIG_KEY}) was edited after it was saved; copy or download the "
            "checkpoint again"
        )
    found = _values(config)
    for name, saved in values.items():
        if name in found and found[name] != saved:
            raise RecordError(
                f"config.json has {name} {_short(found[name])}, and the checkpoint was saved with {_short(saved)}: the "
                f"model would compute something else; set {name} back"
            )
    setattr(config, CONFIG_KEY, _unsealed(record))


def _values(config: PretrainedConfig) -> dict[str, Any]:
    """Return the values of a config that change what a model computes from the same weights, as JSON reads them."""
    everywhere = PretrainedConfig().to_dict()
    values = json.loads(json.dumps(config.to_dict(), default=str))
    return {name: value for name, value in values.items() if name in _SHARED_KEYS or _matters(name, everywhere)}


def _matters(name: str, everywhere: dict[str, Any]) -> bool:
    return not (name in everywhere or name in _FREE_KEYS or name.startswith("_") or "dropout" in name)


def _unsealed(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in (_VALUES, _CHECKSUM)}


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
