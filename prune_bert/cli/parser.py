"""The flags of every verb, made from the fields of its configuration."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from prune_bert.config import VERBS, Config, groups
from prune_bert.config.fields import about, fields_in_order, is_required, type_hints
from prune_bert.config.values import choices, is_list, nearest, show
from prune_bert.errors import UserError

PROGRAM = "prune-bert"
EPILOG = """\
A flag wins over the file, the file over the default. A list is written as words: --text_columns first second.
A switch is turned off by --no_NAME or --NAME false. The word none is null; a folder of that name is ./none.
"""


class UsageError(UserError, ValueError):
    """A command line that cannot be read."""


class Command(NamedTuple):
    """A command line, read: flags hold what was typed, as text, and only what was typed."""

    verb: str
    config_class: type[Config]
    config_path: str | None
    print_config: bool
    flags: dict[str, str | list[str]]


def read_command(arguments: Sequence[str]) -> Command:
    """Read a command line; ``--help`` and ``--version`` print and exit.

    Raises:
        UsageError: If the verb or a flag is unknown or a flag lacks its value.
    """
    _refuse_unknown_verb(arguments)
    known, rest = make_parser().parse_known_args(list(arguments))
    typed = vars(known)
    verb, path, print_config = (typed.pop(name) for name in ("verb", "config", "print_config"))
    if rest:
        raise UsageError(f"{_say_unknown(rest, VERBS[verb])} (try: {PROGRAM} {verb} --help)")
    return Command(verb, VERBS[verb], path, print_config, typed)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all verbs."""
    parser = _Parser(prog=PROGRAM, description="Remove layers of a BERT-style encoder; report accuracy against speed.")
    parser.add_argument("--version", action=_Version)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for verb, cls in VERBS.items():
        summary = (cls.__doc__ or "").partition("\n")[0]
        usage = f"{PROGRAM} {verb} [--config FILE] [--print_config] [--field value ...]"
        command = verbs.add_parser(verb, usage=usage, help=summary, description=summary, epilog=EPILOG)
        _add_flags(command, cls)
    return parser


def _add_flags(parser: argparse.ArgumentParser, cls: type[Config]) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for any of the fields below")
    parser.add_argument("--print_config", action="store_true", help="print the complete configuration as YAML and exit")
    for title, fields in groups(cls):
        section = parser.add_argument_group(title)
        for field in fields:
            _add_flag(section, field, type_hints(cls)[field.name])


def _add_flag(section: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    """Add a flag that leaves no trace where it is not typed, and text where it is."""
    default = "required" if is_required(field) else f"default: {_show_default(field.default)}"
    text = f"{about(field)['help']} ({default})".replace("%", "%%")
    settings: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    if hint is bool:
        section.add_argument(f"--{field.name}", nargs="?", const="true", metavar="true|false", help=text, **settings)
        section.add_argument(
            f"--no_{field.name}", action="store_const", const="false", help=argparse.SUPPRESS, **settings
        )
        return
    metavar = about(field).get("metavar") or f"{{{','.join(choices(hint))}}}"
    words = ("*" if about(field).get("may_be_empty") else "+") if is_list(hint) else None
    section.add_argument(f"--{field.name}", nargs=words, metavar=metavar, help=text, **settings)


def _show_default(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else show(value)


def _refuse_unknown_verb(arguments: Sequence[str]) -> None:
    first = arguments[0] if arguments else ""
    if first in VERBS or first in ("-h", "--help", "--version"):
        return
    verbs = f"expected one of {', '.join(VERBS)}"
    if not first or first.startswith("-"):
        raise UsageError(f"the verb comes first, {verbs} (try: {PROGRAM} --help)")
    raise UsageError(f"unknown verb {first!r}, {verbs}{nearest(first, VERBS)} (try: {PROGRAM} --help)")


def _say_unknown(rest: Sequence[str], cls: type[Config]) -> str:
    """Describe what is left over: flags that do not exist, or else words that belong to no flag."""
    flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
    if not flags:
        return f"stray words {' '.join(rest)!r}: put a value with spaces in quotes"
    known = [field.name for field in fields_in_order(cls)] + ["config", "print_config"]
    return "; ".join(f"unknown flag {flag}{_nearest_flag(flag, known)}" for flag in flags)


def _nearest_flag(flag: str, known: Sequence[str]) -> str:
    return nearest(flag.lstrip("-"), known).replace("'", "--", 1).replace("'", "")


class _Parser(argparse.ArgumentParser):
    """Knows no abbreviations, and tells a fault in one line, without the usage of fifty flags."""

    def __init__(self, **settings: Any) -> None:
        def wide(prog: str) -> argparse.HelpFormatter:
            return argparse.HelpFormatter(prog, max_help_position=36)

        super().__init__(allow_abbrev=False, formatter_class=wide, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (try: {self.prog} --help)")


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        from prune_bert import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        parser.exit()
