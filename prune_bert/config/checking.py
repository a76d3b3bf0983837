"""All faults of a configuration at once: each value by itself, then what has to fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prune_bert.config.fields import about, fields_in_order, is_required, type_hints
from prune_bert.config.options import TaskOptions, TrainOptions
from prune_bert.config.recovering import RecoverOptions
from prune_bert.config.values import read_value
from prune_bert.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration with faults; the message lists all of them on one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A verb's configuration: frozen, and free of faults as soon as it exists.

    Paths are kept as text and lists as tuples, whatever they were given as.

    Raises:
        ConfigError: If a value has the wrong type or range, or values do not fit together.
    """

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in type_hints(type(self))}
        values, faults = check(type(self), given)
        if faults:
            raise config_error(faults, type(self).__name__)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def check(
    cls: type[Config], given: Mapping[str, object], flags: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Fit given values to the fields of a configuration, and list what is wrong with them.

    Args:
        cls: The configuration's class.
        given: Values by field name; only names that are fields.
        flags: The names given as flags, whose values are text and whose faults are told as ``--name``.

    Returns:
        Every field's value (the given one where it is at fault), and the faults in the order of the fields.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    hints = type_hints(cls)
    for field in fields_in_order(cls):
        label = f"--{field.name}" if field.name in flags else field.name
        if field.name not in given:
            values[field.name] = None if is_required(field) else field.default
            if is_required(field):
                faults.append(f"{label}: missing, give it in the file or as --{field.name}")
            continue
        values[field.name] = given[field.name]
        try:
            values[field.name] = read_value(
                hints[field.name], about(field), given[field.name], is_text=field.name in flags
            )
        except ValueError as fault:
            faults.append(f"{label}: {fault}")
    for group, together in _TOGETHER:
        faults += together(values) if issubclass(cls, group) else ()
    return values, faults


def config_error(faults: list[str], where: str) -> ConfigError:
    """Put faults into one line."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return ConfigError(" ".join(f"{count} in {where}: {'; '.join(faults)}".split()))


def _task_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with where a task comes from: a name, a folder, or files of the user's own.

    Which columns a file of one's own needs is told by ``tasks``, which can name those that it has.
    """
    folder, train, validation = (values[name] for name in ("data_dir", "train_file", "validation_file"))
    if folder is not None and (train is not None or validation is not None):
        yield "data_dir: given together with a file of your own, give one or the other"
    elif train is not None and validation is None:
        yield "validation_file: missing, with train_file alone there is nothing to score on"
    elif values["task_name"] is None and folder is None and validation is None:
        yield "task_name: missing, give it or validation_file with text_columns and label_column"


def _train_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what does not fit together in how a model is trained."""
    if values["validation_file"] is not None and values["train_file"] is None:
        yield "train_file: missing, validation_file is only scored on"
    if values["lora_rank"] == 0:
        unused = [name for name in ("lora_alpha", "lora_target_modules") if values[name] is not None]
        yield from (f"{name}: given while lora_rank is 0, which trains all weights" for name in unused)


_TOGETHER: tuple[tuple[type, Callable[[Mapping[str, Any]], Iterator[str]]], ...] = (
    (TaskOptions, _task_faults),
    (TrainOptions, _train_faults),
    (RecoverOptions, _train_faults),
)
