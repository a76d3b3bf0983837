"""The check of a checkpoint before it takes its name: what was written computes what the model in memory does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from prune_bert.checkpoint.pruned import load_pruned
from prune_bert.checkpoint.shapes import check_shapes
from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.surgery import pruning_record, quiet_transformers
from prune_bert.surgery.probe import base_model_inputs, probing
from prune_bert.surgery.probe_inputs import long_inputs

_EXACT = 1e-5
"""Equal to the last bit, but for a device that chooses another kernel for the zeroed form."""
_CORRECTED = 1e-4
"""Neurons in the place of a correction round differently."""
_OTHER_ATTENTION = 1e-3
"""Two implementations of attention round differently, too, in proportion; a layer of another kind differs by more."""

Inputs = Mapping[str, torch.Tensor]


def check_reload(model: PreTrainedModel, directory: Path, format: str) -> None:
    """Load a checkpoint and compare its outputs with the model's.

    The inputs are longer than any attention window of the model, where its positions allow, and one of them is padded.
    The reload runs the model's implementation of attention, and then the other one of ``eager`` and ``sdpa`` where the
    family has it.

    Raises:
        CheckpointError: If it does not load, or computes something else.
    """
    chosen = str(model.config._attn_implementation)
    # In half precision the rounding of a correction, or of another implementation, shows.
    corrected = bool(pruning_record(model.config).corrections)
    ours = _in_full_precision(model) if corrected else model
    _compare(ours, _reloaded(type(model), directory, format, ours.dtype, chosen), _CORRECTED if corrected else _EXACT)
    for other in _other_implementations(model, chosen):
        _compare(
            _in_full_precision(model), _reloaded(type(model), directory, format, torch.float32, other), _OTHER_ATTENTION
        )


def _in_full_precision(model: PreTrainedModel) -> PreTrainedModel:
    if model.dtype == torch.float32:
        return model
    copied: PreTrainedModel = nn.Module.to(copy.deepcopy(model), dtype=torch.float32)
    return copied


def _other_implementations(model: PreTrainedModel, chosen: str) -> Iterator[str]:
    if chosen != "eager":
        yield "eager"
    elif getattr(model, "_supports_sdpa", False):
        yield "sdpa"


def _reloaded(
    kind: type[PreTrainedModel], directory: Path, format: str, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """Load a checkpoint as a user would.

    Raises:
        CheckpointError: If it does not load.
    """
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    try:
        with quiet_transformers():
            if format == "compact":
                return load_pruned(directory, **settings)
            read: Any = kind.from_pretrained  # its type does not know of the second result
            model, info = read(directory, output_loading_info=True, ignore_mismatched_sizes=True, **settings)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the code of a family raises
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the checkpoint does not load again with {attention} attention ({type(error).__name__}: {cause}); nothing "
            "was written"
        ) from error
    check_shapes(str(directory), model, info)
    loaded: PreTrainedModel = model
    return loaded


def _compare(ours: PreTrainedModel, reloaded: PreTrainedModel, close: float) -> None:
    nn.Module.to(reloaded, device=ours.device)
    for inputs in _inputs(ours):
        expected, found = _outputs(ours, inputs), _outputs(reloaded, inputs)
        for name in expected.keys() & found.keys():
            scale = max(1.0, expected[name].abs().max().item()) if close == _OTHER_ATTENTION else 1.0
            if not torch.allclose(expected[name], found[name], rtol=close, atol=close * scale, equal_nan=True):
                worst = (expected[name] - found[name]).abs().max().item()
                raise CheckpointError(
                    f"the checkpoint reloads with other {name} than the model in memory (largest difference "
                    f"{worst:.2g}); nothing was written"
                )


def _inputs(model: PreTrainedModel) -> Iterator[Inputs]:
    yield base_model_inputs(model)[1]
    longer = long_inputs(model)
    if longer is not None:
        yield longer


def _outputs(model: PreTrainedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Compute the logits, and the hidden states of real tokens; leave out what these inputs are not enough for."""
    found = {}
    for name, part in (("logits", model), ("hidden states", model.base_model)):
        try:
            with probing(part):
                output = part(**inputs)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # a head that wants more than tokens, a family with a length of its own
            continue
        found[name] = _of_real_tokens(_first(output), inputs)
    return found


def _of_real_tokens(output: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    mask = inputs.get("attention_mask")
    if mask is not None and output.dim() == 3 and output.shape[:2] == mask.shape:
        return output[mask.bool()].float()
    return output.float()


def _first(output: Any) -> torch.Tensor:
    first = getattr(output, "logits", None)
    tensor: torch.Tensor = output[0] if first is None else first
    return tensor
