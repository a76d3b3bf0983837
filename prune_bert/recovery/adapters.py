"""LoRA for the length of a phase: put in before, merged after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from prune_bert.lora import add_lora
from prune_bert.recovery.settings import RecoverSettings


@contextmanager
def lora_merged(model: nn.Module, settings: RecoverSettings) -> Iterator[nn.Module]:
    """Yield the model to train: itself, or inside peft's wrapper, whose update is merged into it on leaving.

    What remains is the same model, with the same names and the same parameters trainable as before. After an
    exception the adapter is taken out unmerged.

    Raises:
        LoraError: peft is not installed, or the adapter does not fit the model.
    """
    if settings.lora_rank == 0:
        yield model
        return
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    adapted: Any = add_lora(
        model, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.lora_target_modules
    )
    done = False
    try:
        yield adapted
        done = True
    finally:
        adapted.merge_and_unload() if done else adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
        model.eval()
