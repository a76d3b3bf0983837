"""YAML, read strictly and written so that it reads back the same.

Plain words mean what the core schema of YAML 1.2 says: ``no`` is a text (a value of ``mixed_precision``) and
``1e-5`` a number. PyYAML is at version 1.1 and would make ``False`` and a text of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = (  # tag, what a plain word of it looks like, what it begins with
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    "str": str,
}


def read_mapping(text: str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ValueError: If the text is not YAML, not a mapping, or names a key twice; the message tells the line.
    """
    import yaml

    try:
        node = yaml.compose(text, _loader())
        if not isinstance(node, yaml.MappingNode):
            found = "nothing" if node is None else "a list or a text"
            raise ValueError(f"expected lines such as 'seed: 42', found {found}")
        return _mapping(node, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"not YAML: {where}{reason}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError("not a configuration: its values are nested without end") from error


def write_mapping(values: Mapping[str, Any]) -> str:
    """Write a mapping of plain values as YAML: a line for each key, in the order given."""
    import yaml

    return yaml.dump(dict(values), Dumper=_dumper(), sort_keys=False, default_flow_style=False, width=10**6)


def _mapping(node: yaml.MappingNode, known: dict[int, Any]) -> dict[str, Any]:
    first_line: dict[str, int] = {}
    content = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ValueError(f"line {line}: expected a name before the colon, found a list or a mapping")
        if key in first_line:
            raise ValueError(f"line {line}: {key!r} is given twice, first on line {first_line[key]}")
        first_line[key] = line
        content[key] = _value(value_node, known)
    return content


def _value(node: yaml.Node, known: dict[int, Any]) -> Any:
    """Turn a node into a value; ``known`` holds the nodes done before, which an alias names again."""
    import yaml

    if id(node) not in known:
        if isinstance(node, yaml.MappingNode):
            known[id(node)] = _mapping(node, known)
        elif isinstance(node, yaml.SequenceNode):
            known[id(node)] = [_value(item, known) for item in node.value]
        else:
            known[id(node)] = _scalar(node)
    return known[id(node)]


def _scalar(node: yaml.Node) -> Any:
    read = _SCALARS.get(node.tag.removeprefix(_TAG))
    line = node.start_mark.line + 1
    if read is None:
        raise ValueError(f"line {line}: the tag {node.tag!r} is not allowed; write plain text, numbers or lists")
    try:
        return read(node.value)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class CoreLoader(yaml.SafeLoader):
        """Resolves plain words by YAML 1.2's core schema alone."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own attribute

    _add_core_schema(CoreLoader)
    return CoreLoader


@cache
def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    class CoreDumper(yaml.SafeDumper):
        """Quotes what either version of YAML would take for something other than a text."""

    _add_core_schema(CoreDumper)
    for kind in (list, tuple):
        CoreDumper.add_representer(
            kind, lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, flow_style=True)
        )
    return CoreDumper


def _add_core_schema(cls: Any) -> None:
    for name, pattern, first in _CORE_SCHEMA:
        cls.add_implicit_resolver(f"{_TAG}{name}", re.compile(f"^(?:{pattern})$"), first)
