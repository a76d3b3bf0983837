"""Run the examples of the documentation and write what they print beneath them.

python scripts/run_examples.py                     # all pages of docs/
python scripts/run_examples.py docs/mistakes.md    # some
python scripts/run_examples.py --check             # exit code 1 where a page shows other output

Of each page, in order and in an empty folder:

- A ``python`` block runs; the blocks of a page share their names. A ``text title="Output"`` block that follows it holds
  what it printed.
- A line of a ``console`` block that begins with ``$`` runs; the lines beneath it hold what it printed, on stdout and
  stderr. ``prune-bert`` runs in this process, anything else by bash.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from pages import ROOT, write_or_check

sys.path.insert(0, str(ROOT))

OUTPUT = 'text title="Output"'
_FENCE = re.compile(r"^```(?P<info>[^`\n]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        info: What stands behind the opening fence, such as ``python``.
        text: The lines within.
        start: Where the text begins in the page, in characters.
    """

    info: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where the text ends in the page."""
        return self.start + len(self.text)


def main() -> int:
    """Run the examples and write or check their output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: every page of docs/")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page shows other output")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.pages] or sorted((ROOT / "docs").rglob("*.md"))
    return write_or_check({path: updated(path) for path in paths}, "scripts/run_examples.py", check=arguments.check)


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page, all or those of some languages."""
    found = [Block(match["info"], match["text"], match.start("text")) for match in _FENCE.finditer(page)]
    return [block for block in found if not languages or block.info.split()[0] in languages]


def updated(path: Path) -> str:
    """Run a page's examples and return the page with their output."""
    page = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    changes: list[tuple[Block, str]] = []
    all_blocks = blocks(page)
    with _empty_folder():
        for block, following in zip_longest(all_blocks, all_blocks[1:]):
            if block.info == "python":
                printed = run_python(block, path, page, names)
                if following and following.info == OUTPUT:
                    changes.append((following, printed))
            elif block.info == "console":
                changes.append((block, run_console(block.text)))
    for block, text in reversed(changes):
        page = page[: block.start] + text + page[block.end :]
    return page


def run_python(block: Block, path: Path, page: str, names: dict[str, Any]) -> str:
    """Run a block and return what it printed; a traceback names the page and the line in it."""
    line = page.count("\n", 0, block.start)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + block.text, str(path), "exec"), names)
    return printed.getvalue()


def run_console(text: str) -> str:
    """Run the commands of a console block and return the block with what they print now."""
    shown = []
    for command in commands(text):
        printed = _run_command(command)
        shown.append(f"$ {command}\n{printed}")
    return "".join(shown)


def commands(text: str) -> list[str]:
    """Return the commands of a console block, as they are written, over several lines or one."""
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE)


def _run_command(command: str) -> str:
    program, *words = shlex.split(command.replace("\\\n", " "))
    if program != "prune-bert":
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr
    from prune_bert.cli import main as prune_bert

    printed = io.StringIO()
    with _without_progress_bars(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        prune_bert(words)
    return printed.getvalue()


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Turn off the bars of transformers: the command line can do so only before transformers is imported."""
    logging: Any = sys.modules.get("transformers.utils.logging")
    if logging is None or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    """Work in an empty folder and leave no trace."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
