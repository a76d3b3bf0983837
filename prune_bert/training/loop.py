"""The training loop: one plain accelerate loop for every kind of gradient training in this package."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from prune_bert.tasks import TaskData
from prune_bert.training import state
from prune_bert.training.batches import learning_rate_factor, share
from prune_bert.training.examples import TrainingExamples, training_examples
from prune_bert.training.losses import LossFunction, classification_loss, regression_loss
from prune_bert.training.progress import training_progress
from prune_bert.training.run import (
    Record,
    Run,
    Validation,
    batch_order,
    prepared_model,
    random_state_kept,
    restore_run,
    run_fingerprint,
    save_run,
    saved_state,
    trainable_parameters,
)
from prune_bert.training.settings import HistoryPoint, TrainingError, TrainResult, TrainSettings
from prune_bert.training.stopping import is_new_best

HISTORY_POINTS = 200


def train(
    model: nn.Module,
    train_data: TaskData | TrainingExamples,
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
        train_data: Its labels are the model's class ids, or numbers for regression; or what `training_examples`
            made of it, for several runs on the same examples.
        tokenizer: The model's own.
        settings: The knobs.
        accelerator: Device, precision and processes; a plain one where not given.
        state_dir: Where checkpoints go; none are written without.
        validation: Asked on every process, when the settings say; more is better, the main process's answer counts.
        loss_function: Cross-entropy or squared error where not given; see `LossFunction`.

    Raises:
        TrainingError: Data and model do not fit, the loss stopped being a number, or a validation is missing.
        ResumeError: ``state_dir`` holds the checkpoint of another run, or cannot be written.
    """
    _check_validation(settings, validation)
    accelerator = accelerator or Accelerator()
    data = train_data.encoded.data if isinstance(train_data, TrainingExamples) else train_data
    loss_function = loss_function or (regression_loss if data.spec.regression else classification_loss)
    examples = _examples(model, train_data, tokenizer, settings, loss_function)
    order = batch_order(examples.encoded.lengths, settings, accelerator.num_processes)
    fingerprint = run_fingerprint(model, examples.fingerprint(), settings, accelerator, loss_function, validation)
    saved = saved_state(state_dir, fingerprint, settings, accelerator)
    record = Record(**saved["record"]) if saved else Record()
    seed = settings.seed + accelerator.process_index  # every process drops out other units
    with random_state_kept(seed), prepared_model(accelerator, model, settings) as (prepared, optimizer):
        run = Run(model, prepared, optimizer, accelerator, settings, order, examples, loss_function, record)
        if saved:
            restore_run(run, saved)
        _loop(run, state_dir, fingerprint, validation)
    return _result(run, resumed_from=saved["record"]["step"] if saved else None)


def _check_validation(settings: TrainSettings, validation: Validation | None) -> None:
    """Refuse settings that nothing could honour."""
    if validation is None and (settings.keep_best or settings.early_stopping_patience is not None):
        asked = "keep_best" if settings.keep_best else "early_stopping_patience"
        raise TrainingError(f"{asked} needs a validation to go by; give one, or switch {asked} off")


def _examples(
    model: nn.Module,
    data: TaskData | TrainingExamples,
    tokenizer: Any,
    settings: TrainSettings,
    loss_function: LossFunction,
) -> TrainingExamples:
    if isinstance(data, TrainingExamples):
        return data
    labelled = bool(getattr(loss_function, "needs_labels", True))
    return training_examples(model, data, tokenizer, settings, labelled=labelled)


def _loop(run: Run, state_dir: Path | None, fingerprint: Mapping[str, Any], validation: Validation | None) -> None:
    """Take every remaining step; validate where that is due, then save where a checkpoint is due."""
    record, settings, per_epoch = run.record, run.settings, run.order.steps_per_epoch
    earlier_seconds, start = record.seconds, time.perf_counter()
    shown = run.accelerator.is_main_process
    with training_progress(run.total_steps, record.step, shown=shown) as report:
        if validation is not None and settings.keep_best and not record.validation:
            _validate(run, validation)
        for batches in _remaining_steps(run):
            loss, rate = _step(run, batches)
            record.step += 1
            report(record.step, loss)
            last = record.step == run.total_steps
            if validation is not None and (last or record.step % (settings.evaluation_steps or per_epoch) == 0):
                _validate(run, validation)
            last = last or run.stopped
            _count(run, loss, rate, last)
            record.seconds = earlier_seconds + time.perf_counter() - start
            every = settings.checkpointing_steps or per_epoch
            if state_dir is not None and (last or record.step % every == 0):
                save_run(run, state_dir, fingerprint)
    if run.best_weights:
        state.load_trainable_weights(run.model, run.best_weights)


def _remaining_steps(run: Run) -> Iterator[list[np.ndarray]]:
    """Yield the micro-batches of every step after those already taken."""
    step, per_epoch = run.record.step, run.order.steps_per_epoch
    while step < run.total_steps and not run.stopped:
        epoch, done = divmod(step, per_epoch)
        for batches in run.order.epoch(epoch)[done : done + run.total_steps - step]:
            if run.stopped:
                return
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


def _count(run: Run, loss: float, rate: float, last: bool) -> None:
    """Add a step's loss to the record; a point of the history stands for the steps since the last one."""
    record = run.record
    record.loss_sum += loss
    record.window_sum += loss
    before = record.history[-1][0] if record.history else 0
    every = max(1, run.total_steps // HISTORY_POINTS)
    if record.step - before == every or last:
        mean = record.window_sum / (record.step - before)
        record.history.append((record.step, mean, rate))
        record.window_sum = 0.0
        run.accelerator.log({"train/loss": mean, "train/learning_rate": rate}, step=record.step)


def _validate(run: Run, validation: Validation) -> None:
    """Score the model in evaluation mode, and keep its weights where they are the best so far and wanted.

    The random state stays as it was, so that a resume is exact. All processes go by the main process's score:
    one that stopped alone would leave the others waiting.
    """
    random_state = state.capture_random_state()
    run.prepared.eval()
    try:
        score = [float(validation(run.accelerator.unwrap_model(run.prepared)))]
    finally:
        run.prepared.train()
        state.restore_random_state(random_state)
    broadcast_object_list(score)
    run.record.validation.append((run.record.step, score[0]))
    if run.settings.keep_best and is_new_best(run.record.validation):
        weights = state.trainable_weights(run.model)
        run.best_weights.update({name: weight.to("cpu", copy=True) for name, weight in weights.items()})


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
        stopped_early=record.step < run.total_steps,
    )
