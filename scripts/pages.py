"""Files that scripts write: a part of a page between two markers, and whether what is on disk is up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def between_markers(page: str, name: str, text: str) -> str:
    """Replace what stands between ``<!-- NAME: begin ... -->`` and ``<!-- NAME: end -->``."""
    head, begin, rest = page.partition(f"<!-- {name}: begin")
    comment, close, rest = rest.partition("-->\n")
    _, end, tail = rest.partition(f"<!-- {name}: end -->")
    if not (begin and close and end):
        raise SystemExit(f"the page has no markers '{name}: begin' and '{name}: end'")
    return f"{head}{begin}{comment}{close}\n{text}\n\n{end}{tail}"


def write_or_check(documents: Mapping[Path, str], script: str, *, check: bool) -> int:
    """Write each file that differs, or only name it.

    Args:
        documents: The complete text of each file.
        script: What to run where a file is out of date.
        check: Write nothing.

    Returns:
        The exit code: 1 where ``check`` found a file out of date.
    """
    stale = [path for path, text in documents.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run python {script}\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(documents[path], encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 1 if check and stale else 0
