"""The training loop: one plain accelerate loop for every kind of gradient training in this package."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from prune_bert.tasks import TaskData
from prune_bert.training import state
from prune_bert.training.batches import BatchOrder, learning_rate_factor, share
from prune_bert.training.examples import TrainingExamples, training_examples
from prune_bert.training.losses import LossFunction, classification_loss, regression_loss
from prune_bert.training.progress import training_progress
from prune_bert.training.run import (
    Record,
    Run,
    prepared_model,
    random_state_kept,
    restore_run,
    run_fingerprint,
    save_run,
    saved_state,
    trainable_parameters,
)
from prune_bert.training.settings import HistoryPoint, TrainingError, TrainResult, TrainSettings

HISTORY_POINTS = 200

Validation = Callable[[nn.Module], float]


def train(
    model: nn.Module,
    train_data: TaskData,
    tokenizer: Any,
    settings: TrainSettings,
    *,
    accelerator: Accelerator | None = None,
    state_dir: Path | None = None,
    validation: Validation | None = None,
    loss_function: LossFunction | None = None,
) -> TrainResult:
    """Train a model in place, leave it in evaluation mode, and say how it went.

    AdamW, no decay on biases and norms, linear warm-up and decay, on one process or several. What has
    ``requires_grad`` off stays as it is. With a ``state_dir`` the run saves its state there and, unless
    ``settings.resume`` is off, goes on from the newest; on a CPU it ends at the same weights, bit for bit,
    as a run that was never interrupted. The model must then come with the same initial weights: seed
    before making a fresh head.

    Args:
        model: A Hugging Face model with logits, not wrapped by accelerate.
        train_data: Its labels are the model's class ids, or numbers for regression.
        tokenizer: The model's own.
        settings: The knobs.
        accelerator: Device, precision and processes; a plain one where not given.
        state_dir: Where checkpoints go; none are written without.
        validation: Asked on every process after each epoch and at the end; more is better.
        loss_function: Cross-entropy or squared error where not given.

    Raises:
        TrainingError: Data and model do not fit, or the loss stopped being a number.
        ResumeError: ``state_dir`` holds the checkpoint of another run, or cannot be written.
    """
    accelerator = accelerator or Accelerator()
    loss_function = loss_function or _task_loss(train_data)
    examples = training_examples(model, train_data, tokenizer, settings)
    order = _order(examples, settings, accelerator)
    fingerprint = run_fingerprint(model, examples.fingerprint(), settings, accelerator, loss_function)
    saved = saved_state(state_dir, fingerprint, settings, accelerator)
    record = Record(**saved["record"]) if saved else Record()
    seed = settings.seed + accelerator.process_index  # every process drops out other units
    with random_state_kept(seed), prepared_model(accelerator, model, settings) as (prepared, optimizer):
        run = Run(model, prepared, optimizer, accelerator, settings, order, examples, loss_function, record)
        if saved:
            restore_run(run, saved)
        _loop(run, state_dir, fingerprint, validation)
    return _result(run, resumed_from=saved["record"]["step"] if saved else None)


def _task_loss(data: TaskData) -> LossFunction:
    """Return the loss that goes with a task's kind of label."""
    return regression_loss if data.spec.regression else classification_loss


def _order(examples: TrainingExamples, settings: TrainSettings, accelerator: Accelerator) -> BatchOrder:
    """Return the order of the examples for these settings and this many processes."""
    return BatchOrder(
        lengths=examples.encoded.lengths,
        batch_size=settings.per_device_train_batch_size,
        batches_per_step=accelerator.num_processes * settings.gradient_accumulation_steps,
        seed=settings.seed,
    )


def _loop(run: Run, state_dir: Path | None, fingerprint: Mapping[str, Any], validation: Validation | None) -> None:
    """Take every remaining step; validate at the end of an epoch, then save where a checkpoint is due."""
    record, settings, per_epoch = run.record, run.settings, run.order.steps_per_epoch
    earlier_seconds, start = record.seconds, time.perf_counter()
    shown = run.accelerator.is_main_process
    with training_progress(run.total_steps, record.step, shown=shown) as report:
        for batches in _remaining_steps(run):
            loss, rate = _step(run, batches)
            record.step += 1
            _count(run, loss, rate)
            report(record.step, loss)
            last = record.step == run.total_steps
            epoch_ends = last or record.step % per_epoch == 0
            if validation is not None and epoch_ends:
                record.validation.append((record.step, _validate(run, validation)))
            record.seconds = earlier_seconds + time.perf_counter() - start
            every = settings.checkpointing_steps or per_epoch
            if state_dir is not None and (last or record.step % every == 0):
                save_run(run, state_dir, fingerprint)


def _remaining_steps(run: Run) -> Iterator[list[np.ndarray]]:
    """Yield the micro-batches of every step after those already taken."""
    step, per_epoch = run.record.step, run.order.steps_per_epoch
    while step < run.total_steps:
        epoch, done = divmod(step, per_epoch)
        for batches in run.order.epoch(epoch)[done : done + run.total_steps - step]:
            yield batches
            step += 1


def _step(run: Run, batches: list[np.ndarray]) -> tuple[float, float]:
    """Take one optimiser step; returns the mean loss of its examples and the learning rate.

    Raises:
        TrainingError: The loss or the gradients are no longer numbers; the weights stay as they were.
    """
    accelerator, settings = run.accelerator, run.settings
    warmup_steps = math.ceil(settings.warmup_ratio * run.total_steps)
    rate = settings.learning_rate * learning_rate_factor(run.record.step, run.total_steps, warmup_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    mine = share(batches, accelerator.process_index, accelerator.num_processes, settings.gradient_accumulation_steps)
    total = torch.zeros((), device=accelerator.device)
    for number, (indices, weight) in enumerate(mine, start=1):
        batch = {name: value.to(accelerator.device) for name, value in run.examples.batch(indices).items()}
        with nullcontext() if number == len(mine) else accelerator.no_sync(run.prepared):
            loss = run.loss_function(run.prepared, batch).sum() * weight
            # accelerate divides by its own accumulation setting; the weights above have taken care of that
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)
        total += loss.detach()
    mean_loss = float(accelerator.reduce(total, "mean"))
    _check_finite("loss", mean_loss, run)
    if settings.max_grad_norm > 0:
        norm = accelerator.clip_grad_norm_(trainable_parameters(run.model), settings.max_grad_norm)
        if norm is not None and not run.fp16:
            _check_finite("gradient norm", float(norm), run)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return mean_loss, rate


def _check_finite(what: str, value: float, run: Run) -> None:
    """Stop where a figure is no longer a number; every process sees the same figure, so all stop."""
    if math.isfinite(value):
        return
    advice = "use bf16 instead of fp16, or a lower learning rate" if run.fp16 else "use a lower learning rate"
    raise TrainingError(
        f"training broke down: the {what} became {value} at step {run.record.step + 1} of {run.total_steps} "
        f"with learning_rate {run.settings.learning_rate:g}; {advice}"
    )


def _count(run: Run, loss: float, rate: float) -> None:
    """Add a step's loss to the record; a point of the history stands for the steps since the last one."""
    record = run.record
    record.loss_sum += loss
    record.window_sum += loss
    before = record.history[-1][0] if record.history else 0
    every = max(1, run.total_steps // HISTORY_POINTS)
    if record.step - before == every or record.step == run.total_steps:
        mean = record.window_sum / (record.step - before)
        record.history.append((record.step, mean, rate))
        record.window_sum = 0.0
        run.accelerator.log({"train/loss": mean, "train/learning_rate": rate}, step=record.step)


def _validate(run: Run, validation: Validation) -> float:
    """Score the model in evaluation mode; the random state stays as it was, so that a resume is exact."""
    random_state = state.capture_random_state()
    run.prepared.eval()
    try:
        return float(validation(run.accelerator.unwrap_model(run.prepared)))
    finally:
        run.prepared.train()
        state.restore_random_state(random_state)


def _result(run: Run, resumed_from: int | None) -> TrainResult:
    """Return what the run was."""
    record = run.record
    return TrainResult(
        steps=record.step,
        epochs=record.step / run.order.steps_per_epoch,
        final_loss=record.history[-1][1],
        mean_loss=record.loss_sum / record.step,
        history=tuple(HistoryPoint(*point) for point in record.history),
        seconds=record.seconds,
        resumed_from=resumed_from,
        validation=tuple((step, score) for step, score in record.validation),
    )
