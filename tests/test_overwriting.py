"""What a run may write over: what prune_bert wrote and nobody changed since, not what it reads, not through a link."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from prune_bert import storage
from prune_bert.cli import main
from prune_bert.search import Journal
from prune_bert.storage import (
    MANIFEST,
    OutputDirectory,
    OutputError,
    WorkingDirectory,
    files,
    foreign_file,
    output_directory,
    staged_directory,
)


def write(out, overwrite=False, **texts):
    with staged_directory(output_directory(out, overwrite)) as directory:
        for name, text in (texts or {"report": "ours"}).items():
            storage.write_text(directory / name, text)


def refused(out, overwrite=True, inputs=None):
    with pytest.raises(OutputError) as caught:
        output_directory(out, overwrite, inputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_what_is_listed_is_replaced(tmp_path):
    out = tmp_path / "out"
    write(out)
    assert names(out) == [MANIFEST, "report"]
    assert "exists and is not empty" in refused(out, overwrite=False)
    write(out, overwrite=True, score="new")
    assert names(out) == [MANIFEST, "score"]
    (out / "below").mkdir()
    (out / "below" / "thesis.txt").write_text("years")
    assert "thesis.txt', which prune_bert did not write" in refused(out)
    shutil.rmtree(out / "below")
    (out / "link").symlink_to(tmp_path)
    assert "link', which prune_bert did not write" in refused(out)
    (out / "link").unlink()
    write(out, overwrite=True)


@pytest.mark.parametrize("text", ["OURS", "ours, and my notes"])
def test_what_was_changed_since_is_not_replaced(tmp_path, text):
    out = tmp_path / "out"
    write(out)
    os.utime(out / "report", ns=(1, 1))  # a copy with other times is the same file
    assert foreign_file(out) is None
    (out / "report").write_text(text)
    os.utime(out / "report", ns=(2, 2))
    assert "was changed after prune_bert wrote it" in refused(out)
    assert (out / "report").read_text() == text


@pytest.mark.parametrize("content", ["{", "[]", '{"prune_bert_manifest": 1, "files": ["thesis.txt"]}', "[" * 100_000])
def test_a_manifest_that_is_none_allows_nothing(tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    (out / MANIFEST).write_text(content)
    assert "thesis.txt" in refused(out)


CONFIG = {"config.yaml": "# prune-bert prune --config THIS_FILE\n"}


@pytest.mark.parametrize(
    ("files_of_it", "mine"),
    [
        (
            {**CONFIG, "plan.json": "", "model/model.safetensors": ""},
            True,
        ),
        ({"report.json": '{"schema_version": 1}', "report.md": ""}, True),
        ({**CONFIG, "model/notes.txt": ""}, False),
        ({"config.yaml": "learning_rate: 1\n", "plan.json": ""}, False),
        ({"config.json": "{}", "model.safetensors": "", "vocab.txt": ""}, False),  # anybody's model
        ({"report.json": "{}"}, False),
    ],
)
def test_a_directory_of_an_earlier_version_is_known_by_its_files(tmp_path, files_of_it, mine):
    for name, text in files_of_it.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    if mine:
        write(tmp_path / "out", overwrite=True)
    else:
        assert "holds" in refused(tmp_path / "out")


def test_a_directory_within_one_of_ours_has_a_manifest_of_its_own(tmp_path):
    out = tmp_path / "out"
    with staged_directory(output_directory(out)) as directory:
        write(directory / "model", weights="w")
        storage.write_text(directory / "model" / "README.md", "card")
    write(out / "model", overwrite=True, weights="v")
    assert foreign_file(out) is None
    write(out, overwrite=True)


@pytest.mark.parametrize("place", ["out", "out/model", "out/data/dev.tsv"])
def test_an_input_is_never_written_over(tmp_path, place):
    write(tmp_path / "out")
    given = tmp_path / place
    if not given.exists():
        given.parent.mkdir(parents=True, exist_ok=True)
        given.write_text("precious")
    assert "data_dir of this run" in refused(tmp_path / "out", inputs={"data_dir": given})
    (tmp_path / "link").symlink_to(given)
    assert "data_dir of this run" in refused(tmp_path / "out", inputs={"data_dir": tmp_path / "link"})
    if place == "out":
        OutputDirectory(tmp_path / "out" / "below", True, {"data_dir": given})  # beside the data is no harm


def test_places_that_are_nobodys_to_replace(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert "home directory" in refused("~")
    assert "home directory" in refused(home)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "disk")
    assert "mount point" in refused(tmp_path / "disk")
    monkeypatch.chdir(home / "work")
    assert "working directory or above" in refused(".")
    assert "working directory or above" in refused(tmp_path)
    assert "root of the file system" in refused("/")
    assert "names no place" in refused("~nobody-of-this-name/x")
    assert "names no place" in refused("null\0byte")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a")


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    link, real = tmp_path / "link", tmp_path / "disk" / "real"
    link.symlink_to(real)  # to nothing yet
    write(link)
    assert link.is_symlink()
    write(link, overwrite=True, score="new")
    assert link.is_symlink()
    assert names(real) == [MANIFEST, "score"]
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.parametrize("name", [".out.unfinished", ".out.writing"])
def test_a_planted_working_directory_is_refused_and_left_alone(tmp_path, name):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "fingerprint").write_text("{}")
    (precious / "thesis.txt").write_text("years")
    (tmp_path / name).symlink_to(precious)
    working = WorkingDirectory(tmp_path / "out", name.rpartition(".")[2])
    with pytest.raises(OutputError, match="no working directory of prune_bert"):
        working.open(OutputDirectory(tmp_path / "out", False))
    assert "no working directory of prune_bert" in refused(tmp_path / "out")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years")
    assert "no working directory of prune_bert" in refused(tmp_path / "out")
    assert names(precious) == ["fingerprint", "thesis.txt"]
    assert names(tmp_path / name) == ["thesis.txt"]


def test_a_planted_lock_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    lock = tmp_path / ".out.lock"
    for plant in (lock.symlink_to, lock.hardlink_to, lambda file: lock.write_text("mine")):
        plant(tmp_path / "thesis.txt")
        with pytest.raises(OutputError, match="no lock file of prune_bert"):
            write(tmp_path / "out")
        assert (tmp_path / "thesis.txt").read_text() == "years"
        assert os.path.lexists(lock)
        lock.unlink()
    write(tmp_path / "out")


def test_a_journal_is_not_written_through_a_link(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "journal").symlink_to(tmp_path / "empty.txt")
    with pytest.raises(OutputError, match="is a link"):
        Journal.open(tmp_path / "journal", "run")
    assert (tmp_path / "empty.txt").read_text() == ""


def test_a_file_is_written_beside_its_place_and_not_through_a_link(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    (tmp_path / "report").symlink_to(tmp_path / "thesis.txt")
    with files.writing(tmp_path / "report") as file:
        (temporary,) = tmp_path.glob(files.TEMPORARY)
        assert not temporary.is_symlink()
        file.write(b"new")
    assert (tmp_path / "thesis.txt").read_text() == "years"
    assert (tmp_path / "report").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == stat.S_IMODE((tmp_path / "thesis.txt").stat().st_mode)


def one_error(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 600
    return lines[0]


@pytest.mark.parametrize("name", ["model_name_or_path", "data_dir", "plan", "config"])
def test_no_verb_writes_over_what_it_reads(tmp_path, capsys, tiny_checkpoint, data_dir, name):
    out = tmp_path / "out"
    write(out)
    shutil.copytree(tiny_checkpoint, out / "model")
    shutil.copytree(data_dir, out / "data")
    (out / "plan.json").write_text(json.dumps({"sites": ["layer:1"]}))
    (out / "config.yaml").write_text("seed: 1\n")
    given = {"model_name_or_path": tiny_checkpoint, "task_name": "sst2", "data_dir": data_dir, "plan": "layer:1"}
    own = {"model_name_or_path": "model", "data_dir": "data", "plan": "plan.json", "config": "config.yaml"}
    given |= {name: out / own[name], "output_dir": out, "overwrite_output_dir": "true", "device": "cpu"}
    before = sorted(out.rglob("*"))
    (out / "plan.json").write_text('{"text": "layer:1", "sites": [{"component": "layer", "layer": 1}], "norm": "keep"}')
    assert main(["prune", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]) == 2
    assert f"holds the {name} of this run" in one_error(capsys)
    assert sorted(out.rglob("*")) == before
