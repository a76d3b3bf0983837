"""A configuration from a file and flags, and back into a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from prune_bert.config.checking import Config, ConfigError, check, config_error
from prune_bert.config.fields import fields_in_order
from prune_bert.config.values import nearest
from prune_bert.config.verbs import VERBS
from prune_bert.config.yaml_text import read_mapping, write_mapping
from prune_bert.text_files import UnreadableError, read_text_file

AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(
    cls: type[AnyConfig], path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> AnyConfig:
    """Put a configuration together: a flag wins over the file, the file over the default.

    Presence decides: a flag that says ``none`` or ``false`` wins over a file that says otherwise.

    Args:
        cls: Which configuration.
        path: A YAML file, or None.
        overrides: What was given as flags, by field name: texts, or lists of them. ``"none"`` is null.

    Raises:
        ConfigError: If the file cannot be read, or anything in it or in the flags is at fault; the message
            lists every fault.
    """
    overrides = overrides or {}
    from_file = _read(Path(path)) if path is not None else {}
    known = {field.name for field in dataclasses.fields(cls)}
    strangers = [_unknown(cls, name) for name in from_file if name not in known]
    strangers += [f"--{_unknown(cls, name)}" for name in overrides if name not in known]
    given = {name: value for name, value in {**from_file, **overrides}.items() if name in known}
    values, faults = check(cls, given, flags=frozenset(overrides))
    if strangers or faults:
        sources = [str(path)] if path is not None else []
        if overrides or not sources:
            sources.append("the flags")
        raise config_error(strangers + faults, " and ".join(sources))
    return cls(**values)


def dump(config: Config) -> str:
    """Write a configuration as YAML, complete; ``load_config`` of it gives an equal one."""
    verb = next((verb for verb, cls in VERBS.items() if type(config) is cls), None)
    heading = f"# prune-bert {verb} --config THIS_FILE\n" if verb else ""
    names = [field.name for field in fields_in_order(type(config))]
    return heading + write_mapping({name: getattr(config, name) for name in names})


def _read(path: Path) -> dict[str, Any]:
    """Read a file's mapping, or say in one line why not."""
    try:
        return read_mapping(read_text_file(path))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}{_nearest_file(path)}") from None
    except UnreadableError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from None
    except ValueError as error:
        raise ConfigError(" ".join(f"{path}: {error}".split())) from None


def _nearest_file(path: Path) -> str:
    beside = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    return nearest(path.name, beside)


def _unknown(cls: type[Config], name: str) -> str:
    """Describe an unknown name: a misspelling, or a field of another verb."""
    elsewhere = [verb for verb, other in VERBS.items() if any(f.name == name for f in dataclasses.fields(other))]
    verb = next((verb for verb, other in VERBS.items() if other is cls), cls.__name__)
    if elsewhere:
        return f"{name}: a field of {' and '.join(elsewhere)}, not of {verb}"
    return f"{name[:60]}: unknown{nearest(name, [field.name for field in dataclasses.fields(cls)])}"
