"""Write the configuration reference, ``docs/configuration.md``, from the settings themselves.

python scripts/write_configuration.py           # write it
python scripts/write_configuration.py --check   # exit code 1 where it is out of date

Only `settings_of` knows how the package declares its settings; the rest works on plain values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pages import ROOT, between_markers, write_or_check

sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "configuration.md"


class Setting(NamedTuple):
    """One setting, in words."""

    name: str
    values: str
    default: str
    help: str


Section = tuple[Setting, ...]


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    arguments = parser.parse_args()
    return write_or_check(documents(), "scripts/write_configuration.py", check=arguments.check)


def documents() -> dict[Path, str]:
    """Return the complete text of the page."""
    verbs = settings_of()
    page = between_markers(PAGE.read_text(encoding="utf-8"), "verbs", _verb_table(verbs))
    return {PAGE: between_markers(page, "settings", _sections(verbs))}


def settings_of() -> dict[str, tuple[str, dict[str, Section]]]:
    """Return, for each verb, what it does and its settings by the title of their group."""
    from prune_bert.config import VERBS, groups
    from prune_bert.config.fields import about, is_required, type_hints
    from prune_bert.config.values import choices, is_list, without_null

    def setting(field: Any, hint: Any) -> Setting:
        kind = " ".join(f"`{choice}`" for choice in choices(hint)) or _kind(str(without_null(hint)[0]))
        limits = [f"{words} {about(field)[key]:,}" for key, words in _LIMITS.items() if key in about(field)]
        values = ", ".join([f"list: {kind}" if is_list(hint) else kind, *limits])
        default = "required" if is_required(field) else _default(field.default)
        return Setting(field.name, values, default, about(field)["help"])

    found = {}
    for verb, cls in VERBS.items():
        sections: dict[str, Section] = {}
        for title, fields in groups(cls):  # a title comes twice where a verb adds to a group
            own = tuple(setting(field, type_hints(cls)[field.name]) for field in fields)
            sections[title] = sections.get(title, ()) + own
        found[verb] = ((cls.__doc__ or "").partition("\n")[0], sections)
    return found


_LIMITS = {"at_least": "at least", "above": "more than", "at_most": "at most", "below": "less than"}
_KINDS = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` `false`"}


def _kind(hint: str) -> str:
    return next((words for name, words in _KINDS.items() if name in hint), hint)


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"`{item}`" for item in value)
    return f"`{'none' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _verb_table(verbs: Mapping[str, tuple[str, Mapping[str, Section]]]) -> str:
    titles = _titles(verbs)
    rows = ["| verb | what it does | groups of settings |", "|---|---|---|"]
    for verb, (summary, sections) in verbs.items():
        links = ", ".join(_link(titles[group, section]) for group, section in sections.items())
        rows.append(f"| `{verb}` | {summary} | {links} |")
    return "\n".join(rows)


def _sections(verbs: Mapping[str, tuple[str, Mapping[str, Section]]]) -> str:
    parts: list[str] = []
    for (group, section), title in _titles(verbs).items():
        users = [verb for verb, (_, sections) in verbs.items() if sections.get(group) == section]
        parts += [f"## {title}", f"Settings of {', '.join(f'`{verb}`' for verb in users)}.", _table(section)]
    return "\n\n".join(parts)


def _table(section: Sequence[Setting]) -> str:
    rows = ["| setting | values | default | what it does |", "|---|---|---|---|"]
    rows += [f"| `{one.name}` | {one.values} | {one.default} | {one.help} |" for one in section]
    return "\n".join(rows)


def _titles(verbs: Mapping[str, tuple[str, Mapping[str, Section]]]) -> dict[tuple[str, Section], str]:
    """Return one title for each distinct group: its name, with the verb where verbs differ in it."""
    distinct: dict[tuple[str, Section], list[str]] = {}
    for verb, (_, sections) in verbs.items():
        for group, section in sections.items():
            distinct.setdefault((group, section), []).append(verb)
    names = [group for group, _ in distinct]
    return {
        (group, section): group.capitalize() + (f" ({', '.join(users)})" if names.count(group) > 1 else "")
        for (group, section), users in distinct.items()
    }


def _link(title: str) -> str:
    anchor = "".join(c if c.isalnum() else "-" if c in " -" else "" for c in title.lower())
    return f"[{title}](#{anchor})"


if __name__ == "__main__":
    sys.exit(main())
