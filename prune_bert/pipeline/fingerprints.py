"""What the results of a run depend on, as a mapping: settings, models, tokenizer, data, versions, device.

A mapping and not a digest alone, so that a run which cannot be resumed can name what changed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from prune_bert import __version__
from prune_bert.config import Config, Effect, settings_with
from prune_bert.plan import PruningPlan
from prune_bert.profiling.machine import device_name
from prune_bert.tasks import TaskData
from prune_bert.training.state import config_fingerprint, weights_fingerprint

NAMED = "named"
"""The part of a fingerprint that only names what is compared by its content, such as the path of the data."""

_COMPUTING = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "peft")
_MEASURING = ("evaluate", "scikit-learn", "scipy")  # what metrics are computed with


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of one run; what is expensive to read is read once.

    Attributes:
        config: The settings, with the precision that is in force.
        accelerator: The device and the processes.
        models: What `model_fingerprint` returned, by role: ``model``, and ``teacher`` where there is one.
        plan: What is removed, where the settings say so.
    """

    config: Config
    accelerator: Accelerator
    models: Mapping[str, Mapping[str, Any]]
    plan: PruningPlan | None = None

    def of_steps(self, data: Mapping[str, str]) -> dict[str, Any]:
        """Return what the finished steps of the run depend on.

        Args:
            data: What `data_fingerprint` returned, by what the data are for.
        """
        found = self._of(data, "steps", "state")
        found["device"] |= {"name": device_name(self.accelerator.device), "threads": torch.get_num_threads()}
        found["versions"] |= _versions(_MEASURING)
        return found

    def of_state(self, data: Mapping[str, str]) -> dict[str, Any]:
        """Return what the journal of a search depends on."""
        return self._of(data, "state")

    def of_training(self, data: Mapping[str, str]) -> dict[str, Any]:
        """Return what the training of the run depends on: the processes as well, among which batches are divided."""
        found = self._of(data, "state")
        found["device"]["processes"] = self.accelerator.num_processes
        return found

    def _of(self, data: Mapping[str, str], *effects: Effect) -> dict[str, Any]:
        found: dict[str, Any] = _plain(
            {
                NAMED: settings_with(self.config, "content"),
                "settings": settings_with(self.config, *effects),
                **({} if self.plan is None else {"plan": str(self.plan)}),
                **self.models,
                "data": dict(data),
                "device": {"kind": self.accelerator.device.type},
                "versions": {"prune_bert": __version__, **_versions(_COMPUTING)},
            }
        )
        return found


def data_fingerprint(data: TaskData) -> str:
    """Return a digest of a split of a task: its columns, labels and metrics, and every row."""
    digest = hashlib.sha256(f"{data.spec}{data.split}".encode())
    for row in data.dataset:
        digest.update(repr(sorted(row.items())).encode())
    return digest.hexdigest()


def model_fingerprint(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what the outputs of a model on texts depend on: weights, config, attention, code and tokenizer."""
    unwrap: Any = getattr(model, "get_base_model", None)  # of a model inside peft's wrapper
    inner: Any = model if unwrap is None else unwrap()
    attached: Any = getattr(model, "peft_config", None) or {}
    adapters = {name: _plain(adapter.to_dict()) for name, adapter in attached.items()}
    return {
        "weights": weights_fingerprint(model),
        "buffers": _buffers(model),
        "config": config_fingerprint(model),
        "attention": str(getattr(inner.config, "_attn_implementation", None)),
        **_foreign_code(inner),
        **({"adapters": adapters} if adapters else {}),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what the token ids of texts depend on."""
    if tokenizer.is_fast:
        content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        # what the latest call has asked for; each call of ours asks for its own
        content = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
        digests = {"content": _digest_of(content)}
    else:
        digests = {"content": _digest_of(tokenizer.get_vocab()), "files": _vocabulary_files(tokenizer)}
    return {
        **digests,
        "class": type(tokenizer).__name__,
        "special_tokens": _plain(tokenizer.special_tokens_map),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_max_length": int(tokenizer.model_max_length),
        "model_input_names": list(tokenizer.model_input_names),
    }


def _vocabulary_files(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of the files that a slow tokenizer is made of, such as merges and a SentencePiece model."""
    given = {name: value for name, value in tokenizer.init_kwargs.items() if not name.endswith(("file", "path"))}
    digest = hashlib.sha256(_digest_of(given).encode())
    with TemporaryDirectory() as directory:
        try:
            tokenizer.save_vocabulary(directory)
        except NotImplementedError:  # a tokenizer that is nothing but its settings
            return digest.hexdigest()
        for file in sorted(Path(directory).iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _buffers(model: nn.Module) -> str:
    """Return a digest of what a model computes with beside its parameters."""
    digest = hashlib.sha256()
    for name, buffer in model.named_buffers():
        digest.update(f"{name}{tuple(buffer.shape)}{buffer.dtype}".encode())
        digest.update(buffer.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _foreign_code(model: nn.Module) -> dict[str, str]:
    """Return a digest of the code of a model that comes with its own, beside transformers'."""
    if type(model).__module__.partition(".")[0] in ("transformers", "prune_bert"):
        return {}
    try:
        source = Path(inspect.getfile(type(model))).read_bytes()
    except (OSError, TypeError):  # a class made in an interpreter has no file
        return {}
    return {"code": hashlib.sha256(source).hexdigest()}


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))
