"""Inputs of the right shape for a model's encoder: small ones for a probe, and long, padded ones for a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prune_bert.profiling import longest_sequence
from prune_bert.stand_ins import ATTENTION_TYPE

# Config entries that say how far a layer of local attention sees, in tokens.
_WINDOWS = ("sliding_window", "local_attention", "attention_window", "window_size")
_BEYOND_THE_WINDOW = 8
_USUAL_LENGTH = 24
_FRAMES = 12


def probe_inputs(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Make small inputs for a model of transformers, by its main input; None where their shape is not known."""
    config: Any = getattr(model, "config", None)
    device = next(model.parameters()).device
    dummies = getattr(model, "dummy_inputs", None)
    main = getattr(getattr(model, "base_model", model), "main_input_name", "input_ids")
    if main == "input_ids" and isinstance(dummies, Mapping) and "input_ids" in dummies:
        tokens = torch.as_tensor(dummies["input_ids"]).remainder(_vocabulary(config)).to(device)
        tokens = _at_least(tokens, _length_of_its_mode(config))
        return _with_mask(_to_a_multiple(tokens, _chunk(config)))
    shape = _signal_shape(main, config)
    if shape is None:
        return None
    values = torch.linspace(-1.0, 1.0, math.prod(shape)).sin().reshape(shape)
    return {main: values.to(device, next(model.parameters()).dtype)}


def long_inputs(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Make token inputs, ``(2, seq)``, longer than any attention window, with padding at the end of the second row.

    Returns:
        The inputs, or None where the model takes no tokens.
    """
    small = probe_inputs(model)
    if small is None or "input_ids" not in small:
        return None
    config: Any = getattr(model, "config", None)
    chunk = _chunk(config)
    wanted = max(_USUAL_LENGTH, _longest_window(config) + _BEYOND_THE_WINDOW)
    length = min(wanted, longest_sequence(model) or wanted)
    length = max(chunk, length - length % chunk)
    generator = torch.Generator().manual_seed(0)
    vocabulary = _vocabulary(config)
    tokens = torch.randint(min(5, vocabulary - 1), vocabulary, (2, length), generator=generator)
    inputs = _with_mask(tokens.to(small["input_ids"].device))
    padding = length // 4
    if padding:
        pad = getattr(config, "pad_token_id", None)
        inputs["input_ids"][1, -padding:] = pad if isinstance(pad, int) and 0 <= pad < vocabulary else 0
        inputs["attention_mask"][1, -padding:] = 0
    return inputs


def _with_mask(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _vocabulary(config: Any) -> int:
    return int(getattr(config, "vocab_size", 0) or 8)


def _chunk(config: Any) -> int:
    """Return the number of tokens of which a sequence must be a multiple: 1, but for chunked feed-forward layers."""
    return int(getattr(config, "chunk_size_feed_forward", 0) or 1)


def _to_a_multiple(tokens: torch.Tensor, chunk: int) -> torch.Tensor:
    """Repeat tokens up to the next multiple of a chunk."""
    length = math.ceil(tokens.shape[1] / chunk) * chunk
    return tokens.repeat(1, math.ceil(length / tokens.shape[1]))[:, :length]


def _longest_window(config: Any) -> int:
    """Return the most tokens that a layer of local attention sees, 0 where there is none."""
    found = [0]
    for name in _WINDOWS:
        value = getattr(config, name, None)
        found += [size for size in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(size, int)]
    return max(*found, _length_of_its_mode(config) - 1)


def _length_of_its_mode(config: Any) -> int:
    """Return the least length on which a model runs in its own mode: BigBird leaves block-sparse attention below it."""
    if getattr(config, ATTENTION_TYPE, None) != "block_sparse":
        return 1
    return (5 + 2 * int(config.num_random_blocks)) * int(config.block_size) + 1


def _at_least(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat tokens, ``(batch, seq)``, up to a length; of long ones a single row is enough."""
    if length <= tokens.shape[1]:
        return tokens
    return tokens[:1].repeat(1, -(-length // tokens.shape[1]))[:, :length]


def _signal_shape(main: str, config: Any) -> tuple[int, ...] | None:
    """Return the shape of one small batch of images, audio or features; None where the config does not say."""
    if main == "pixel_values":
        size = getattr(config, "image_size", None)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        known = isinstance(height, int) and isinstance(width, int)
        return (2, int(getattr(config, "num_channels", 3)), height, width) if known else None
    if main == "input_values" and hasattr(config, "conv_stride"):  # raw audio through a stack of convolutions
        return 2, math.prod(config.conv_stride) * _FRAMES + sum(config.conv_kernel) * math.prod(config.conv_stride[:-1])
    if main == "input_values" and hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return 2, int(config.max_length), int(config.num_mel_bins)
    if main == "input_features" and hasattr(config, "feature_projection_input_dim"):
        return 2, _FRAMES, int(config.feature_projection_input_dim)
    return None
