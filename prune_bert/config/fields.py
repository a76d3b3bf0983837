"""The fields of a configuration as data: their groups, types, and metadata."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple, cast, get_type_hints

from prune_bert.config.options import About


class Group(NamedTuple):
    """Fields that belong together, in the order in which they are shown."""

    title: str
    fields: tuple[dataclasses.Field[Any], ...]


def groups(cls: Any) -> tuple[Group, ...]:
    """Return the fields of a configuration class by the option groups it is composed of, then its own."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    found: list[Group] = []
    for part in [*cls.__bases__, cls]:
        shown = {field.name for group in found for field in group.fields}  # a default of the class's own stays in place
        own = tuple(fields[name] for name in inspect.get_annotations(part) if name in fields and name not in shown)
        if own:
            title = part.__name__.removesuffix("Options").removesuffix("Config").lower()
            found.append(Group(title, own))
    return tuple(found)


def fields_in_order(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of a configuration class in the order of its groups."""
    return tuple(field for group in groups(cls) for field in group.fields)


def type_hints(cls: Any) -> dict[str, Any]:
    """Return the type of each field by its name."""
    return get_type_hints(cls)


def about(field: dataclasses.Field[Any]) -> About:
    """Return a field's metadata."""
    return cast(About, field.metadata)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field has no default."""
    return field.default is dataclasses.MISSING
