"""LoRA adapters through peft: small matrices beside frozen ones, saved apart and merged at load.

The method is Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_bert.errors import UserError
from prune_bert.knobs import LORA_ALPHA, LORA_DROPOUT, short
from prune_bert.storage import write_bytes, write_text

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ALWAYS_SAID = ("peft_type", "r", "lora_alpha", "lora_dropout")


class LoraError(UserError, ValueError):
    """peft is missing, or an adapter that does not fit the model."""


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float | None = None,
    dropout: float = LORA_DROPOUT.default,
    target_modules: Sequence[str] | None = None,
) -> nn.Module:
    """Freeze a model and put LoRA beside linear layers; the head and the pooler are trained in full.

    The model is changed in place and comes back inside peft's wrapper. The new matrices are drawn from
    torch's global generator: seed before.

    Args:
        model: A Hugging Face model with a head.
        rank: Width of the small matrices.
        alpha: The update is scaled by ``alpha / rank``; twice the rank where not given.
        dropout: Dropout before the small matrices.
        target_modules: Name endings of the linear layers; all of the encoder's where not given.

    Raises:
        LoraError: peft is not installed, the rank is below 1, or no linear layer has such a name.
    """
    peft = _peft()
    if rank < 1:
        raise LoraError(f"lora_rank must be at least 1, not {rank}")
    if LORA_DROPOUT.fault(dropout):
        raise LoraError(f"lora_dropout must be from 0 to below 1, not {dropout}")
    if alpha is not None and LORA_ALPHA.fault(alpha):
        raise LoraError(f"lora_alpha: {LORA_ALPHA.fault(alpha)}")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = list(target_modules or _encoder_endings(linear))
    _check_targets(linear, targets, rank)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=_head_names(model),
        inference_mode=False,
    )
    with _quiet():
        wrapped: nn.Module = peft.get_peft_model(model, config)
    return wrapped


def save_adapter(
    model: nn.Module, directory: str | Path, *, base_model_name: str, dtype: torch.dtype = torch.float32
) -> Path:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``, the trained head included.

    Args:
        model: What `add_lora` returned.
        directory: Made where it does not exist.
        base_model_name: What the config records as the base model: a hub id or a package's name, so that no
            path of this machine ends up in the file.
        dtype: float16 halves the file, to a rounding of one in two thousand.

    Raises:
        LoraError: The model has no adapter.
    """
    peft = _peft()
    from safetensors.torch import save

    if not isinstance(model, peft.PeftModel):
        raise LoraError(f"a {type(model).__name__} has no adapter to save; call add_lora before training")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # "auto" would look for the base model's config on the hub
    weights = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in sorted(weights.items())}
    # save_file would leave a file that only its owner can read
    write_bytes(directory / ADAPTER_WEIGHTS, save(weights, metadata={"format": "pt"}))
    config = model.peft_config["default"].to_dict() | {"base_model_name_or_path": base_model_name}
    config["inference_mode"] = True
    # only what is not peft's default: shorter, and an older peft does not meet a key that it does not know
    defaults = peft.LoraConfig().to_dict()
    kept = {name: value for name, value in config.items() if name in _ALWAYS_SAID or value != defaults.get(name)}
    text = json.dumps(kept, indent=2, sort_keys=True, default=sorted)  # sets of names, in a fixed order
    write_text(directory / ADAPTER_CONFIG, text + "\n")
    return directory


def merge_adapter(base_model: nn.Module, directory: str | Path) -> nn.Module:
    """Return the base model, changed in place, with an adapter's update added to its weights and its head.

    What comes back is of the base model's own class, in evaluation mode, without a trace of peft.

    Raises:
        LoraError: peft is not installed, the adapter's files are missing or damaged, or they do not fit.
    """
    peft = _peft()
    from safetensors import SafetensorError, safe_open

    directory = Path(directory)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (directory / name).is_file():
            raise LoraError(f"{directory} holds no {name}; give the directory that save_adapter wrote")
    try:
        with safe_open(str(directory / ADAPTER_WEIGHTS), framework="pt") as file:
            stored = set(file.keys())
        with _quiet():
            wrapped = peft.PeftModel.from_pretrained(base_model, str(directory))
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise LoraError(_does_not_fit(base_model, directory, " ".join(str(error).split()))) from error
    # peft only warns where keys are missing, and leaves those matrices random
    different = stored ^ set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if different:
        raise LoraError(_does_not_fit(base_model, directory, f"{sorted(different)[0]} is only in one of them"))
    merged: nn.Module = wrapped.merge_and_unload()
    return merged.requires_grad_(True).eval()


def _does_not_fit(model: nn.Module, directory: Path, reason: str) -> str:
    """Return the message for an adapter that cannot be put on a model."""
    return f"the adapter in {directory} is damaged or does not fit this {type(model).__name__}: {reason}"


def _check_targets(linear: Mapping[str, nn.Linear], targets: Sequence[str], rank: int) -> None:
    """Refuse name endings that no linear layer has, and a rank that no layer named by them can have.

    Raises:
        LoraError: One of them is at fault.
    """
    for target in targets:
        if not any(_ends_with(name, target) for name in linear):
            known = ", ".join(_encoder_endings(linear))
            raise LoraError(f"no linear layer's name ends with {target!r}; the encoder's endings are: {known}")
    adapted = [module for name, module in linear.items() if any(_ends_with(name, target) for target in targets)]
    full = max((min(module.in_features, module.out_features) for module in adapted), default=rank)
    if rank > full:
        raise LoraError(
            f"lora_rank {short(rank)} is over the full rank of every layer that it adapts ({full} at most); "
            "give a smaller one, or 0 to train all weights"
        )


def _encoder_endings(linear: Iterable[str]) -> list[str]:
    """Return how the names of the encoder's linear layers end after the layer's number, each once.

    The linear layers of the numbered layers are the encoder's; poolers and heads carry no number.
    """
    endings = set()
    for name in linear:
        parts = name.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdigit()]
        if numbers:
            endings.add(".".join(parts[numbers[0] + 1 :]))
    return sorted(ending for ending in endings if ending)


def _head_names(model: nn.Module) -> list[str]:
    """Return the modules outside the encoder that a task trains: the head's, and the pooler before it."""
    prefix = getattr(model, "base_model_prefix", "")
    names = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    pooler = getattr(getattr(model, prefix, None), "pooler", None) if prefix else None
    return [*names, "pooler"] if pooler is not None else names


def _ends_with(name: str, ending: str) -> bool:
    """Whether a dotted name is the ending or ends with it, as peft matches names."""
    return name == ending or name.endswith(f".{ending}")


def _peft() -> Any:
    """Return the peft package.

    Raises:
        LoraError: It is not installed; the message names the extra that brings it.
    """
    try:
        import peft
    except ImportError as error:
        raise LoraError("LoRA needs peft, which is not installed: pip install prune-bert[lora]") from error
    return peft


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence a deprecation that peft runs into, and missing keys, which `merge_adapter` refuses itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
        yield
