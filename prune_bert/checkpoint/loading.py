"""``load_model``: a classifier and its tokenizer from a directory, a hub id or the embedded default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prune_bert.checkpoint.pruned import load_pruned
from prune_bert.checkpoint.sources import CheckpointError, check_hub, check_weights, read_config, resolve
from prune_bert.display import Displayed, Shown
from prune_bert.embedded import ADAPTER_DIR, BASE_NAME, MODEL_NAME, base_directory
from prune_bert.lora import merge_adapter
from prune_bert.surgery import CONFIG_KEY, pruning_record, quiet_transformers

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


@dataclass(frozen=True, repr=False)
class LoadedModel(Displayed):
    """A model ready to evaluate.

    Attributes:
        model: The classifier, in fp32, on the CPU, in evaluation mode.
        tokenizer: Its tokenizer.
        name: The name that was asked for.
        notes: What a reader of the results should know.
        stored_dtype: The type of the weights on disk, to which the model can be cast back without loss.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    notes: tuple[str, ...] = ()
    stored_dtype: torch.dtype = torch.float32

    def _shown(self) -> Shown:
        config: Any = self.model.config
        facts = [
            ("class", type(self.model).__name__),
            ("layers", str(getattr(config, "num_hidden_layers", ""))),
            ("hidden size", str(getattr(config, "hidden_size", ""))),
            ("parameters", f"{sum(weight.numel() for weight in self.model.parameters()):,}"),
            ("stored as", str(self.stored_dtype).removeprefix("torch.")),
            ("labels", ", ".join(map(str, (getattr(config, "id2label", None) or {}).values()))),
        ]
        return Shown(self.name, facts, ("notes",) if self.notes else (), [(note,) for note in self.notes])


def load_model(
    name_or_path: str,
    *,
    tokenizer_name: str | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    attn_implementation: str | None = None,
    new_head: Sequence[str] | None = None,
    require_head: bool = True,
) -> LoadedModel:
    """Load a sequence classifier, never with random weights that nobody asked for.

    Args:
        name_or_path: A local directory (plain, or written by ``save_pruned``), a hub id, or ``"embedded"``.
        tokenizer_name: Another directory or hub id for the tokenizer.
        revision: The hub's revision.
        trust_remote_code: Run code that comes with the model.
        allow_pickle: Load pickled weights where there are no safetensors.
        attn_implementation: ``"sdpa"``, ``"eager"`` and the like; by default the model's own choice.
        new_head: Label names (none: a regression) of a head to train from scratch; a head with just these is kept.
        require_head: Refuse a checkpoint without a trained head; off where only the time of a forward matters.

    Raises:
        CheckpointError: If the model cannot be found, read or trusted, or has no trained classification head.
        EmbeddedError: If the embedded default is not installed (LoraError where it is peft that is missing).

    Example:
        >>> loaded = load_model(checkpoint)
    """
    settings: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    if name_or_path == MODEL_NAME:
        return _load_embedded(settings, new_head)
    directory = resolve(name_or_path)
    name = str(directory or name_or_path)
    if directory is None:
        check_hub(name, revision)
        settings |= {"revision": revision} | ({} if allow_pickle else {"use_safetensors": True})
        stored = _stored_settings(name, revision)
    else:
        stored = read_config(directory)
        check_weights(directory, allow_pickle)
    tokenizer = _load_tokenizer(tokenizer_name or name_or_path, trust_remote_code)
    if directory is not None and CONFIG_KEY in stored and new_head is None:
        model = load_pruned(directory, dtype=torch.float32, **settings)
    else:
        labels = None if new_head is None else _head_labels(stored, new_head)
        model = _load_classifier(name, settings | {"trust_remote_code": trust_remote_code}, labels, require_head)
    _check_vocabulary(model, tokenizer, name_or_path)
    return LoadedModel(model, tokenizer, name_or_path, _pruned_notes(model), _lossless(model, stored))


def _load_embedded(settings: dict[str, Any], new_head: Sequence[str] | None) -> LoadedModel:
    directory = str(base_directory())
    labels = ("negative", "positive") if new_head is None else new_head
    model = _load_classifier(directory, settings, labels)
    tokenizer = _load_tokenizer(directory, trust_remote_code=False)
    if new_head is not None:
        return LoadedModel(model, tokenizer, BASE_NAME)
    merged = merge_adapter(model, ADAPTER_DIR)
    note = f"embedded model: {BASE_NAME} with this project's LoRA adapter for SST-2 merged in"
    return LoadedModel(cast(PreTrainedModel, merged), tokenizer, MODEL_NAME, (note,))


def _load_classifier(
    name: str, settings: dict[str, Any], new_head: Sequence[str] | None, require_head: bool = True
) -> PreTrainedModel:
    head = {} if new_head is None else _head_settings(new_head)
    with _readable_errors(name), quiet_transformers():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=bool(head),
            **head,
            **settings,
        )
    missing = sorted(info["missing_keys"])
    encoder = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key]
    if encoder:
        raise CheckpointError(
            f"{name!r} lacks {len(encoder)} weights of its encoder ({encoder[0]}, ...), which would be random; "
            "is config.json of another model, or was a layer deleted without the config?"
        )
    if missing and new_head is None and require_head:
        raise CheckpointError(
            f"{name!r} has no trained classification head ({', '.join(missing[:3])} would be random, and so would the "
            "accuracy); fine-tune it first: prune-bert train --model_name_or_path ... --task_name ... --output_dir ..."
        )
    fine: PreTrainedModel = model.eval()
    return fine


def _head_settings(labels: Sequence[str]) -> dict[str, Any]:
    if not labels:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def _stored_settings(name: str, revision: str) -> dict[str, Any]:
    """Read a checkpoint's config as it stands on disk or on the hub."""
    with _readable_errors(name):
        stored, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    return dict(stored)


def _head_labels(stored: dict[str, Any], labels: Sequence[str]) -> Sequence[str]:
    """Give a head's labels in the order of the checkpoint's own, where it has just these."""
    own = [str(label) for _, label in sorted((stored.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    return own if sorted(own) == sorted(labels) else labels


def _lossless(model: PreTrainedModel, stored: dict[str, Any]) -> torch.dtype:
    """Give the type of the stored weights, or fp32 where the weights would not survive the cast to it."""
    said = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    dtype: torch.dtype = getattr(torch, str(said).removeprefix("torch."), torch.float32)
    exact = all(torch.equal(weight, weight.to(dtype).to(weight.dtype)) for weight in model.parameters())
    return dtype if exact else torch.float32


def _load_tokenizer(name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    directory = resolve(name)
    if directory is not None and not any((directory / file).is_file() for file in _TOKENIZER_FILES):
        # transformers 5 makes an empty tokenizer from config.json alone, without a word
        raise CheckpointError(
            f"{name!r} has no tokenizer ({', '.join(_TOKENIZER_FILES[:3])} ...); save it there with "
            "tokenizer.save_pretrained, or name another with --tokenizer_name"
        )
    with _readable_errors(name, what="tokenizer"), quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    return tokenizer


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    known = int(model.config.vocab_size)
    if len(tokenizer) > known:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {name!r} knows {known}: they do not belong "
            "together; name the model's own with --tokenizer_name"
        )


def _pruned_notes(model: PreTrainedModel) -> tuple[str, ...]:
    record = pruning_record(model.config)
    if not record.plan:
        return ()
    return (f"the model is pruned already: {record.plan} of {record.original_num_hidden_layers} layers",)


@contextmanager
def _readable_errors(name: str, what: str = "model") -> Iterator[None]:
    """Turn what transformers says of a checkpoint into one line that says what to do."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, KeyError, ImportError
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise CheckpointError(
                f"{name!r} brings code of its own; pass --trust_remote_code true to run it if you trust where it comes "
                "from"
            ) from error
        raise CheckpointError(f"cannot load the {what} {name!r}: {text[:300]}") from error


def tensor_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Give the size that a model's weights would have on disk in a type, in bytes."""
    return sum(weight.numel() for weight in model.parameters()) * dtype.itemsize


def directory_bytes(directory: Path) -> int:
    """Add up the sizes of a checkpoint's weight files, in bytes."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
