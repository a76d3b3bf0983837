"""Random inputs of a given shape, for a model that says what it takes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prune_bert.knobs import SEED
from prune_bert.profiling.records import ProfilingError


def random_inputs(
    model: nn.Module, batch_size: int, sequence_length: int, *, device: torch.device, seed: int = SEED.default
) -> dict[str, Tensor]:
    """Return token ids drawn from ``seed``, and the masks that go with them, ``(batch, seq)`` each.

    The ids come from the upper half of the vocabulary without its last tenth: every family keeps its special
    tokens at the start or at the very end. Nothing is padding, so the mask is all ones.

    Raises:
        ProfilingError: The model has no ``config.vocab_size``, or has fewer positions than asked for.
    """
    config = getattr(model, "config", None)
    vocab_size = getattr(config, "vocab_size", None)
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise ProfilingError(
            f"cannot make inputs for {type(model).__name__}: it has no config.vocab_size; pass make_inputs"
        )
    check_length(model, sequence_length)
    low = vocab_size // 2
    high = max(low + 1, vocab_size * 9 // 10)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, high, (batch_size, sequence_length), generator=generator).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if _takes_token_types(model, config):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def longest_sequence(model: nn.Module) -> int | None:
    """Return how many positions the model can number, or None where it does not say.

    RoBERTa and its kin count positions from after the padding index, so they lose that many.
    """
    limits = []
    declared = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(declared, int) and declared > 0:
        limits.append(declared)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    return min(limits, default=None)


def check_length(model: nn.Module, sequence_length: int) -> None:
    """Refuse a length over the model's positions: on a GPU the lookup itself would poison the device.

    Raises:
        ProfilingError: The message has both numbers.
    """
    longest = longest_sequence(model)
    if longest is not None and sequence_length > longest:
        name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        raise ProfilingError(
            f"cannot profile {name} at {sequence_length} tokens: it has positions for {longest}; "
            f"give sequence lengths up to {longest}"
        )


def _takes_token_types(model: nn.Module, config: Any) -> bool:
    """Say whether the model's forward has token types and its config gives them any meaning."""
    if getattr(config, "type_vocab_size", 0) < 1:
        return False
    return "token_type_ids" in inspect.signature(model.forward).parameters
