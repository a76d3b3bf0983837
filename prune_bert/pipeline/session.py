"""What every verb starts with: a device, a precision, a seed, a model and its data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from prune_bert.checkpoint import LoadedModel, load_model
from prune_bert.config import ModelOptions, TaskOptions
from prune_bert.errors import UserError
from prune_bert.pipeline.precision import AnyConfig, settled_precision
from prune_bert.plan import PlanError, PruningPlan
from prune_bert.tasks import TaskData, align_labels, load_task
from prune_bert.text_files import parse_json, read_text_file

# A matrix product of a small encoder layer: 512 tokens, 384 to 1,536 wide.
_PROBE_SHAPES = ((512, 384), (384, 1536))
_PROBE_REPEATS = 20


class SessionError(UserError):
    """A device, precision or tracker that is not to be had here."""


class PrecisionWarning(UserWarning):
    """A precision that this device is slow at."""


@dataclass(frozen=True)
class TaskSession:
    """A model and the data to score it on, label for label.

    Attributes:
        loaded: The model and its tokenizer.
        data: The evaluation data, with the model's label order.
        notes: What a reader of the results should know.
    """

    loaded: LoadedModel
    data: TaskData
    notes: tuple[str, ...]


def open_accelerator(
    config: AnyConfig, report_to: Sequence[str] | None = None, project_dir: Path | None = None
) -> tuple[AnyConfig, Accelerator, tuple[str, ...]]:
    """Settle the precision, set seed and threads and make the accelerator.

    Returns:
        The configuration with the precision in force, the accelerator, and notes on its precision.

    Raises:
        SessionError: If the device, the precision or a tracker is not to be had here.
        PrecisionError: If the launcher asks for a precision that is not supported.
    """
    settled, said = settled_precision(config)
    return settled, *_accelerator(settled, report_to, project_dir, said)


def _accelerator(
    config: Any, report_to: Sequence[str] | None, project_dir: Path | None, said: tuple[str, ...]
) -> tuple[Accelerator, tuple[str, ...]]:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SessionError("--device cuda, but torch sees no CUDA device here; use --device auto or cpu")
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = config.device == "cpu" or not has_gpu
    if on_cpu and config.mixed_precision == "fp16":
        raise SessionError("--mixed_precision fp16 needs a GPU; on this CPU use no (or bf16)")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    set_seed(config.seed)
    try:
        accelerator = Accelerator(
            cpu=on_cpu,  # said outright: otherwise several CPU processes each take themselves for the only one
            mixed_precision=config.mixed_precision,
            log_with=list(report_to) if report_to else None,
            project_dir=None if project_dir is None else str(project_dir / "trackers"),
        )
    except (ValueError, ImportError) as error:
        raise SessionError(f"accelerate cannot set up what was asked for: {error}") from error
    if report_to and len(accelerator.log_with) < len(set(report_to)):
        raise SessionError(
            f"--report_to {' '.join(report_to)}: not installed here; pip install it (for tensorboard: "
            "pip install 'prune-bert[tensorboard]')"
        )
    return accelerator, (*_precision_notes(accelerator), *said)


def open_task(config: Any) -> TaskSession:
    """Load the model and the evaluation data of a config, and bring the labels into the model's order.

    Raises:
        CheckpointError: If the model cannot be loaded.
        TaskError: If the data cannot be loaded, or its labels are not the model's.
    """
    loaded = load_model(config.model_name_or_path, **model_settings(config))
    data = load_data(config, (config.eval_split,))[config.eval_split]
    aligned, note = align_labels(data, loaded.model.config.id2label or {})
    return TaskSession(loaded, aligned, loaded.notes + ((note,) if note else ()))


def model_settings(config: ModelOptions) -> dict[str, Any]:
    """Return the options of ``load_model`` that a config holds."""
    return {
        "tokenizer_name": config.tokenizer_name,
        "revision": config.model_revision,
        "trust_remote_code": config.trust_remote_code,
        "allow_pickle": config.allow_pickle,
        "attn_implementation": config.attn_implementation,
    }


def load_data(
    config: TaskOptions,
    splits: Sequence[str],
    max_samples: dict[str, int] | None = None,
    placeholders: Sequence[str] | None = None,
) -> dict[str, TaskData]:
    """Load splits of the task that a config names.

    Args:
        config: The task, and where its data are.
        splits: Their names.
        max_samples: At most how many rows of a split.
        placeholders: The model's labels, where the data have none and take the first as a placeholder.

    Raises:
        TaskError: If the data cannot be loaded.
    """
    limits = dict(max_samples or {})
    if config.max_eval_samples is not None:
        limits |= {split: config.max_eval_samples for split in splits if split != "train"}
    return load_task(
        config.task_name,
        data_dir=config.data_dir,
        train_file=config.train_file,
        validation_file=config.validation_file,
        text_columns=config.text_columns,
        label_column=config.label_column,
        labels=config.label_names if placeholders is None else placeholders,
        splits=splits,
        max_samples=limits,
        unlabelled=placeholders is not None,
    )


def read_plan(text: str) -> PruningPlan:
    """Read a plan from its text, or from the ``plan.json`` of another run.

    Raises:
        PlanError: If it is neither, or removes nothing.
    """
    plan = _plan_file(Path(text)) if text.endswith(".json") else PruningPlan.parse(text)
    if not plan:
        raise PlanError("the plan is empty, so there is nothing to prune; for example: --plan 'attention:4 ffn:5'")
    return plan


def _plan_file(path: Path) -> PruningPlan:
    try:
        return PruningPlan.from_json(parse_json(read_text_file(path)))
    except FileNotFoundError as error:
        raise PlanError(f"--plan {str(path)!r}: there is no such file") from error
    except ValueError as error:
        raise PlanError(f"--plan {str(path)!r} is not a plan in JSON: {error}") from error


def _precision_notes(accelerator: Accelerator) -> tuple[str, ...]:
    """Say what bf16 costs on a CPU: without the instructions for it, many times more."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return ()
    ratio = _bf16_cost()
    if ratio > 1:
        note = f"bf16 on this CPU: a matrix product measured {ratio:.1f} times slower than fp32"
        warnings.warn(f"{note}; --mixed_precision no is faster here", PrecisionWarning, stacklevel=2)
    else:
        note = f"bf16 on this CPU: a matrix product measured {1 / ratio:.1f} times faster than fp32"
    return (note,)


def _bf16_cost() -> float:
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(shape, dtype=dtype) for shape in _PROBE_SHAPES)
        left @ right
        start = time.perf_counter()
        for _ in range(_PROBE_REPEATS):
            left @ right
        times[dtype] = time.perf_counter() - start
    return times[torch.bfloat16] / times[torch.float32]
