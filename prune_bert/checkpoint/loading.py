"""``load_model``: a classifier and its tokenizer from a directory, a hub id or the embedded default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prune_bert.checkpoint.completeness import check_complete, check_depth, readable_errors
from prune_bert.checkpoint.heads import check_architecture
from prune_bert.checkpoint.pruned import load_with_stand_ins
from prune_bert.checkpoint.snapshots import hub_snapshot
from prune_bert.checkpoint.sources import CheckpointError, read_config, resolve
from prune_bert.checkpoint.weight_files import weight_files
from prune_bert.display import Displayed, Shown
from prune_bert.embedded import ADAPTER_DIR, BASE_NAME, MODEL_NAME, base_directory
from prune_bert.lora import merge_adapter
from prune_bert.surgery import CONFIG_KEY, pruning_record, quiet_transformers

_CHUNKS = "chunk_size_feed_forward"
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
        commit: The commit of a model of the hub; None where it came from elsewhere.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    notes: tuple[str, ...] = ()
    stored_dtype: torch.dtype = torch.float32
    commit: str | None = None

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
        revision: The hub's revision, of the model and of the tokenizer that comes with it.
        trust_remote_code: Run code that comes with the model.
        allow_pickle: Load pickled weights where there are no safetensors.
        attn_implementation: ``"sdpa"``, ``"eager"`` and the like; by default the model's own choice.
        new_head: Label names (none: a regression) of a head to train from scratch; a head with just these is kept.
        require_head: Refuse a checkpoint without a trained head; off where only the time of a forward matters.

    Raises:
        CheckpointError: If the model cannot be found, read or trusted, or has no trained classification head.
        EmbeddedError: If the embedded default is not installed (LoraError where it is peft that is missing).

    Examples:
        >>> loaded = load_model(checkpoint)
    """
    settings: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    if name_or_path == MODEL_NAME:
        return _load_embedded(settings, new_head)
    local = resolve(name_or_path)
    directory = hub_snapshot(name_or_path, revision, allow_pickle) if local is None else local
    stored = read_config(directory)
    check_depth(name_or_path, stored)
    if new_head is None and require_head:
        check_architecture(name_or_path, stored)
    files = weight_files(directory, stored, allow_pickle)
    own_tokenizer = tokenizer_name is None or tokenizer_name == name_or_path
    tokenizer = _load_tokenizer(str(directory) if own_tokenizer else str(tokenizer_name), trust_remote_code)
    if stored.get(CONFIG_KEY) is None:
        settings["trust_remote_code"] = trust_remote_code
        settings |= {"use_safetensors": True} if all(file.suffix == ".safetensors" for file in files) else {}
    model, notes = _load_stored(directory, stored, settings, new_head, require_head)
    _check_vocabulary(model, tokenizer, name_or_path)
    commit = directory.name if local is None else None
    return LoadedModel(model, tokenizer, name_or_path, notes, _lossless(model, stored), commit)


def _load_stored(
    directory: Path,
    stored: dict[str, Any],
    settings: dict[str, Any],
    new_head: Sequence[str] | None,
    require_head: bool,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Load a checkpoint, pruned or not; return the model and what a reader of its results should know."""
    labels = None if new_head is None else _head_labels(stored, new_head)
    if stored.get(CONFIG_KEY) is None:
        model, notes = _load_classifier(str(directory), settings, labels, require_head)
        return model, (*notes, *_without_chunks(model))
    model = load_with_stand_ins(
        directory,
        stored,
        classifier=True,
        head=None if labels is None else _head_settings(labels),
        require_head=require_head,
        dtype=torch.float32,
        settings=settings,
    )
    return model, (*_pruned_notes(model, stored[CONFIG_KEY]), *_without_chunks(model))


def _load_embedded(settings: dict[str, Any], new_head: Sequence[str] | None) -> LoadedModel:
    directory = str(base_directory())
    labels = ("negative", "positive") if new_head is None else new_head
    model, _ = _load_classifier(directory, settings | {"use_safetensors": True}, labels)
    tokenizer = _load_tokenizer(directory, trust_remote_code=False)
    if new_head is not None:
        return LoadedModel(model, tokenizer, BASE_NAME)
    merged = merge_adapter(model, ADAPTER_DIR)
    note = f"embedded model: {BASE_NAME} with this project's LoRA adapter for SST-2 merged in"
    return LoadedModel(cast(PreTrainedModel, merged), tokenizer, MODEL_NAME, (note,))


def _load_classifier(
    name: str, settings: dict[str, Any], new_head: Sequence[str] | None, require_head: bool = True
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    head = {} if new_head is None else _head_settings(new_head)
    with readable_errors(name), quiet_transformers():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by `check_complete`, which names the tensors
            **head,
            **settings,
        )
    notes = check_complete(name, model, info, new_head=bool(head), require_head=require_head)
    fine: PreTrainedModel = model.eval()
    return fine, notes


def _head_settings(labels: Sequence[str]) -> dict[str, Any]:
    if not labels:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def _head_labels(stored: dict[str, Any], labels: Sequence[str]) -> Sequence[str]:
    """Return a head's labels in the order of the checkpoint's own, where it has just these."""
    own = [str(label) for _, label in sorted((stored.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    return own if sorted(own) == sorted(labels) else labels


def _lossless(model: PreTrainedModel, stored: dict[str, Any]) -> torch.dtype:
    """Return the type of the stored weights, or fp32 where the weights would not survive the cast to it."""
    said = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(said).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return torch.float32
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
    with readable_errors(name, what="tokenizer"), quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    return tokenizer


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    known = int(model.config.vocab_size)
    if len(tokenizer) > known:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {name!r} knows {known}: they do not belong "
            "together; name the model's own with --tokenizer_name"
        )


def _pruned_notes(model: PreTrainedModel, stored: Any) -> tuple[str, ...]:
    record = pruning_record(model.config)
    if not record.plan:
        return ()
    notes = [f"the model is pruned already: {record.plan} of {record.original_num_hidden_layers} layers"]
    saved = stored.get("corrections") or {}
    trained = [str(site) for site, spec in record.corrections.items() if saved.get(str(site)) != spec.to_json()]
    if trained:
        notes.append(f"trained by plain transformers after it was pruned; kept as corrections: {', '.join(trained)}")
    return tuple(notes)


def _without_chunks(model: PreTrainedModel) -> tuple[str, ...]:
    """Compute feed-forward layers in one part: the same figures, without a rule for the length of a batch."""
    size = int(getattr(model.config, _CHUNKS, 0) or 0)
    if not size:
        return ()
    for holder in (model.config, *model.modules()):
        if isinstance(vars(holder).get(_CHUNKS), int):
            setattr(holder, _CHUNKS, 0)
    return (f"{_CHUNKS} {size} in the model's config was set to 0: the same results, for sequences of any length",)


def tensor_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Return the size that a model's weights would have on disk in a type, in bytes."""
    return sum(weight.numel() for weight in model.parameters()) * dtype.itemsize


def directory_bytes(directory: Path) -> int:
    """Add up the sizes of a checkpoint's weight files, in bytes."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
