"""``train``: fine-tune a model, or a LoRA adapter beside it, on one task."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from prune_bert.checkpoint import LoadedModel, load_model
from prune_bert.config import TrainConfig
from prune_bert.evaluation import TaskScore, encode
from prune_bert.lora import add_lora, save_adapter
from prune_bert.pipeline.fingerprints import Fingerprints, data_fingerprint, model_fingerprint
from prune_bert.pipeline.measuring import score_model, show_score
from prune_bert.pipeline.outputs import config_dict, write_config
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.session import load_data, model_settings, open_accelerator
from prune_bert.pipeline.workspace import STATE, Workspace, working_directory
from prune_bert.profiling import environment
from prune_bert.storage import write_text
from prune_bert.tasks import TaskData, align_labels
from prune_bert.training import TrainResult, TrainSettings, train


@own_accelerate_state()
def run_train(config: TrainConfig, argv: Sequence[str]) -> int:
    """Run the ``train`` verb: a model directory that every other verb loads, and ``training.json`` beside it."""
    config, accelerator, notes = open_accelerator(config, config.report_to, working_directory(config.output_dir))
    workspace = Workspace(config, accelerator)
    data = load_data(config, ("train", config.eval_split), _limits(config))
    spec = data["train"].spec
    loaded = load_model(config.model_name_or_path, new_head=spec.labels, **model_settings(config))
    train_data, _ = align_labels(data["train"], loaded.model.config.id2label or {})
    validation, note = align_labels(data[config.eval_split], loaded.model.config.id2label or {})
    model: nn.Module = loaded.model
    if config.lora_rank:
        set_seed(config.seed)
        model = add_lora(model, config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_target_modules)
    models = {"model": model_fingerprint(model, loaded.tokenizer)}
    digests = {"train": data_fingerprint(train_data), "validation": data_fingerprint(validation)}
    fingerprint = Fingerprints(config, accelerator, models).of_training(digests)
    workspace.open(fingerprint, resume=config.resume, precious=STATE, training=fingerprint)
    with workspace:
        score = _scorer(config, accelerator, loaded, validation)
        result = train(
            model,
            train_data,
            loaded.tokenizer,
            _settings(config),
            accelerator=accelerator,
            state_dir=workspace.root / STATE,
            validation=lambda trained: _headline(score(trained)),
        )
        final = score(model)
        if accelerator.is_main_process:
            _save(config, model, loaded, workspace.directory)
            notes = (*notes, *((note,) if note else ()))
            _write_record(config, argv, workspace.directory, result, final, notes, accelerator)
        _tell_trackers(config, accelerator, result, final)
        target = workspace.finish()
    if accelerator.is_main_process:
        _show(result, final, target)
    return 0


def _limits(config: TrainConfig) -> dict[str, int]:
    return {} if config.max_train_samples is None else {"train": config.max_train_samples}


def _settings(config: TrainConfig) -> TrainSettings:
    """Take the loop's knobs from the config, under the same names; those that the verb lacks keep their default."""
    names = [knob.name for knob in fields(TrainSettings) if hasattr(config, knob.name)]
    return TrainSettings(**{name: getattr(config, name) for name in names})


def _scorer(
    config: TrainConfig, accelerator: Accelerator, loaded: LoadedModel, data: TaskData
) -> Callable[[nn.Module], TaskScore]:
    encoded = encode(loaded.tokenizer, data, config.max_seq_length)
    return lambda model: score_model(config, model, encoded, accelerator, "validation")


def _headline(score: TaskScore) -> float:
    return next(iter(score.metrics.values())).value


def _save(config: TrainConfig, model: nn.Module, loaded: LoadedModel, directory: Path) -> None:
    """Save the trained model, whole; of a LoRA run the adapter, too, and the model with the adapter merged in."""
    whole: Any = model
    if config.lora_rank:
        save_adapter(model, directory / "adapter", base_model_name=loaded.name)
        whole = model.merge_and_unload()  # type: ignore[operator]
    whole.cpu().save_pretrained(directory, safe_serialization=True)
    loaded.tokenizer.save_pretrained(directory)
    write_config(config, directory)


def _write_record(
    config: TrainConfig,
    argv: Sequence[str],
    directory: Path,
    result: TrainResult,
    final: TaskScore,
    notes: Sequence[str],
    accelerator: Accelerator,
) -> None:
    record = {
        "command": shlex.join(argv),
        "score": {
            "task": final.task,
            "split": final.split,
            "n": final.n,
            "metrics": {name: figure.to_dict() for name, figure in final.metrics.items()},
            "loss": final.loss,
        },
        "training": asdict(result),
        "notes": list(notes),
        "config": config_dict(config),
        "environment": {
            **environment(accelerator.device, accelerator.mixed_precision),
            "processes": accelerator.num_processes,
        },
    }
    write_text(directory / "training.json", json.dumps(record, indent=2) + "\n")


def _tell_trackers(config: TrainConfig, accelerator: Accelerator, result: TrainResult, final: TaskScore) -> None:
    if not config.report_to:
        return
    accelerator.init_trackers("prune_bert", {key: str(value) for key, value in config_dict(config).items()})
    for point in result.history:
        accelerator.log({"train/loss": point.loss, "train/learning_rate": point.learning_rate}, step=point.step)
    figures = {f"validation/{name}": figure.value for name, figure in final.metrics.items()}
    accelerator.log(figures, step=result.steps)
    accelerator.end_training()


def _show(result: TrainResult, final: TaskScore, target: Path) -> None:
    resumed = "" if result.resumed_from is None else f", resumed at step {result.resumed_from}"
    sys.stdout.write(f"trained {result.steps} steps in {result.seconds:.0f} s{resumed}\n")
    show_score(final)
    sys.stdout.write(f"model: {target}\n")
