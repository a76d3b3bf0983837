"""The documentation site builds without a warning, and its pages fetch nothing from another host."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra docs")

ROOT = Path(__file__).resolve().parents[1]
# What a browser loads by itself, as opposed to a link that a reader follows.
FETCHED = re.compile(r"""<(?:script|img|iframe|source)[^>]+src="?(?:https?:)?//|<link[^>]+href="?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_has_its_title(site):
    pages = list(site.rglob("index.html"))
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    assert all("<h1" in page.read_text() for page in pages)


def test_no_page_fetches_from_another_host(site):
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style


def test_the_reference_shows_the_docstrings(site):
    page = (site / "api" / "models" / "index.html").read_text()
    assert "Skip the sites of a plan while a" in page
    assert page.count("<h2") == len(re.findall("^:::", (ROOT / "docs/api/models.md").read_text(), re.MULTILINE))
