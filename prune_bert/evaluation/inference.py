"""One forward pass over every example, on one process or several, in an order that does not matter."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from prune_bert.evaluation.encoding import EncodedTask, EvaluationError, length_sorted_batches
from prune_bert.evaluation.progress import with_progress
from prune_bert.profiling import eval_mode, plain_outputs

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def predict_logits(
    model: nn.Module,
    encoded: EncodedTask,
    accelerator: Accelerator,
    batch_size: int,
    description: str,
    forward: Forward | None = None,
) -> tuple[FloatArray, float]:
    """Run a model over a task.

    The list of batches is the same for any number of processes, and process p of w takes batches p, p + w
    and so on: batches that follow each other are of nearly one length, so the shares are even. The model is
    moved to the accelerator's device, and its modules' training modes are as before on leaving.

    Args:
        model: The model.
        encoded: The task.
        accelerator: Device, precision and processes.
        batch_size: Examples in a batch.
        description: What the progress bar says.
        forward: From a batch to ``(batch, ...)`` outputs; by default the model's logits.

    Returns:
        ``(n, num_outputs)`` logits, or what else `forward` gives, in the task's order, the same on every process,
        and the seconds it took.

    Raises:
        RuntimeError: An example was not counted exactly once, or another process failed.
        EvaluationError: On every process, where the forward raises it on one.
    """
    batches = length_sorted_batches(encoded, batch_size)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    move_to_device(model, accelerator.device)
    run = forward or (lambda batch: logits_of(model(**batch)))
    started = time.perf_counter()
    with together(accelerator), scoring_mode(model), torch.inference_mode(), accelerator.autocast():
        inputs = _on_device(encoded, mine, accelerator.device, _accepted(model))
        shown = with_progress(mine, description, show=accelerator.is_main_process)
        logits = [run(batch) for batch, _ in zip(inputs, shown, strict=True)]
        # only here the host waits for the device
        rows = torch.cat(logits).float().cpu().numpy() if logits else np.zeros((0, 0), np.float32)
    indices = np.concatenate(mine) if mine else np.zeros(0, np.int64)
    gathered = gather_object([(indices, rows)])
    return _in_order(gathered, len(encoded)), time.perf_counter() - started


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without a key-value cache, which plans that share work would share, too."""
    with eval_mode(model), plain_outputs(getattr(model, "config", None), use_cache=False):
        yield


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """Have a stretch of work succeed on every process or fail on every process.

    A process that failed, or took another way, alone would leave the others waiting for it. No process may wait for
    another within the stretch.

    Raises:
        EvaluationError: On the others, where it was raised on one.
        RuntimeError: On the others, where anything else was.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        fault = error
    kind = type(fault) if isinstance(fault, EvaluationError) else RuntimeError
    told = None if fault is None else (kind, str(fault) if kind is not RuntimeError else repr(fault))
    faults = gather_object([told]) if accelerator.num_processes > 1 else [told]
    if fault is not None:
        raise fault
    for process, other in enumerate(faults):
        if other is not None:
            raise other[0](f"on process {process}: {other[1]}")


def move_to_device(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, unless it is there or transformers has spread it over several."""
    parameter = next(model.parameters(), None)
    spread = hasattr(model, "hf_device_map")
    if parameter is not None and parameter.device != device and not spread:
        model.to(device)


def _on_device(
    encoded: EncodedTask, batches: Sequence[IntArray], device: torch.device, accepted: set[str] | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Pad batches and send them to the device, without waiting for it."""
    for indices in batches:
        batch = {
            name: tensor for name, tensor in encoded.batch(indices).items() if accepted is None or name in accepted
        }
        if device.type == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _accepted(model: nn.Module) -> set[str] | None:
    """Name the inputs that a model takes, as DistilBERT has no token types; None if it hides them."""
    parameters = inspect.signature(model.forward).parameters
    return set(parameters) if "attention_mask" in parameters else None


def attention_mask(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return 1 for a token and 0 for padding, ``(batch, seq)``."""
    if "attention_mask" in batch:
        return batch["attention_mask"]
    return torch.ones_like(next(iter(batch.values())))


def logits_of(output: Any) -> torch.Tensor:
    """Take the logits from a ModelOutput, a mapping, a tuple or a bare tensor."""
    if isinstance(output, torch.Tensor):
        return output
    logits: torch.Tensor = (
        output.logits if hasattr(output, "logits") else output["logits" if isinstance(output, Mapping) else 0]
    )
    return logits


def _in_order(parts: Sequence[tuple[IntArray, FloatArray]], n: int) -> FloatArray:
    """Put every process's rows where they belong.

    Raises:
        RuntimeError: A row is missing or there twice.
    """
    parts = [part for part in parts if len(part[0])]
    indices = np.concatenate([part[0] for part in parts])
    rows = np.concatenate([part[1] for part in parts])
    if len(rows) != n or not np.array_equal(np.sort(indices), np.arange(n)):
        raise RuntimeError(f"{len(rows)} predictions came back for {n} examples; each must be counted exactly once")
    ordered = np.empty_like(rows)
    ordered[indices] = rows
    return ordered
