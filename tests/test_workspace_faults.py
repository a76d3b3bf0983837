"""A run that fails, or is killed, at any operation on the disk loses nothing, and the same command ends well."""

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from accelerate import Accelerator
from faults import Killed, faults, tree

from prune_bert import storage
from prune_bert.errors import UserError
from prune_bert.pipeline.workspace import Workspace
from prune_bert.search import Journal
from prune_bert.storage import MANIFEST, OutputError, files, hidden, output_directory, staged_directory


@dataclasses.dataclass
class Settings:
    """What a workspace wants to know of a run's settings."""

    output_dir: Path
    overwrite_output_dir: bool = False


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory where there is one: these tests make thousands of files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def cannot_exchange(one, other):
    """What ``exchange`` does where the system has no such step."""
    files.before("exchange", other)
    return False


def prune(accelerator, out, overwrite=False, value=1):
    """The shape of ``prune``: steps, a checkpoint staged within the directory, files, the end."""
    workspace = Workspace(Settings(out, overwrite), accelerator)
    workspace.open({"value": value})
    with workspace:
        results = workspace.step("score", lambda: [1, value], list, list)
        workspace.remove("model")
        with staged_directory(output_directory(workspace.directory / "model")) as model:
            storage.write_text(model / "weights", str(results))
        storage.write_text(workspace.directory / "model" / "README.md", "card")
        storage.write_text(workspace.directory / "report", str(results))
        workspace.finish()


def recover(accelerator, out, overwrite=False, value=1):
    """The shape of ``recover`` and ``train``: training checkpoints beside the steps."""
    workspace = Workspace(Settings(out, overwrite), accelerator)
    workspace.open({"value": value}, precious="state")
    with workspace:
        step = workspace.step("score", lambda: value, int, int)
        state = workspace.root / "state" / "checkpoint-00000001.pt"
        if not state.is_file():
            files.make_parents(state)
            storage.write_text(state, f"trained {step}")
        storage.write_text(workspace.directory / "model", state.read_text())
        workspace.finish()


def search(accelerator, out, overwrite=False, value=1):
    """The shape of ``search``: a journal beside the directory, which ends with the run."""
    workspace = Workspace(Settings(out, overwrite), accelerator, companions=("journal.jsonl",))
    with Journal.open(hidden(out, "journal.jsonl"), {"value": value}) as journal:
        workspace.open({"value": value})
        with workspace:
            workspace.step("baseline", lambda: value, int, int)
            if "plan" not in journal.known:
                journal.record({"plan": value})
            storage.write_text(workspace.directory / "front", str(journal.known["plan"]))
            workspace.finish()


def evaluate(accelerator, out, overwrite=False, value=1):
    """The shape of ``evaluate``, ``benchmark`` and ``save_pruned``: no steps."""
    with staged_directory(output_directory(out, overwrite)) as directory:
        storage.write_text(directory / "score", str(value))


VERBS = [prune, recover, search, evaluate]


def results(out):
    """What a run leaves, without the manifest."""
    return {name: content for name, content in tree(out).items() if not name.endswith(MANIFEST)}


def beside(out):
    return sorted(path.name for path in out.parent.iterdir())


def operations(verb, accelerator, folder):
    """How many operations the second of two runs takes, which replaces what the first has left."""
    verb(accelerator, folder / "out", value=1)
    with faults() as counted:
        verb(accelerator, folder / "out", overwrite=True, value=2)
    return counted.count


CASES = [
    *((verb, kind, "exchange") for verb in VERBS for kind in ("kill", "full")),
    *((verb, "kill", "retire") for verb in (prune, evaluate)),
    *((verb, "kill", "nothing there") for verb in VERBS),
]


@pytest.mark.parametrize(("verb", "kind", "replacing"), CASES)
def test_any_operation_may_fail(tmp_path, accelerator, monkeypatch, verb, kind, replacing):
    overwrite = replacing != "nothing there"
    if replacing == "retire":
        monkeypatch.setattr(files, "exchange", cannot_exchange)
    (tmp_path / "count").mkdir()
    total = operations(verb, accelerator, tmp_path / "count")
    whole = results(tmp_path / "count" / "out")
    assert total > 10
    for at in range(1, total + 1):
        out = tmp_path / str(at) / "out"
        out.parent.mkdir()
        if overwrite:
            verb(accelerator, out, value=1)
        old = results(out)
        ended = fail(verb, accelerator, out, overwrite, at, kind)
        if out.exists() or replacing != "retire":  # a retired result comes back at the next start
            assert results(out) in (old, whole), at
        if ended or results(out) == whole:
            verb(accelerator, out, overwrite=True, value=2)
        else:
            verb(accelerator, out, overwrite=overwrite, value=2)
        assert results(out) == whole, at
        assert beside(out) == ["out"], at


def fail(verb, accelerator, out, overwrite, at, kind, value=2):
    """Run with a fault; return whether the run ended well all the same."""
    with faults(at, kind):
        try:
            verb(accelerator, out, overwrite=overwrite, value=value)
        except (Killed, OSError, UserError):
            return False
    return True


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_with_other_settings_starts_afresh_after_any_kill(tmp_path, accelerator, verb):
    (tmp_path / "count").mkdir()
    total = operations(verb, accelerator, tmp_path / "count")
    whole = results(tmp_path / "count" / "out")
    for at in range(1, total + 1):
        out = tmp_path / str(at) / "out"
        out.parent.mkdir()
        fail(verb, accelerator, out, overwrite=False, at=at, kind="kill", value=1)
        if out.exists():
            continue
        try:
            verb(accelerator, out, value=2)
        except UserError as error:
            said = str(error)
        else:
            said = ""
            assert results(out) == whole, at
            assert beside(out) == ["out"], at
        # what may be worth hours is not thrown away unasked
        assert not said or (verb in (recover, search) and "of another run" in said)


def test_steps_of_a_killed_run_are_taken_up(tmp_path, accelerator):
    out, computed = tmp_path / "out", []

    def run():
        workspace = Workspace(Settings(out), accelerator)
        resumed = workspace.open({})
        with workspace:
            workspace.step("first", lambda: computed.append("first"), str, str)
            storage.write_text(workspace.directory / "report", "done")
            workspace.finish()
        return resumed

    with faults() as counted:
        run()
    publishing = next(n for n, (what, name) in enumerate(counted.seen, 1) if (what, name) == ("rename", "out"))
    files.remove(out)
    computed.clear()
    with faults(publishing), pytest.raises(Killed):
        run()
    assert computed == ["first"]
    assert run()
    assert computed == ["first"]
    assert tree(out).keys() == {"report", MANIFEST}


def test_a_mistake_before_anything_is_finished_leaves_nothing(tmp_path, accelerator):
    out = tmp_path / "new" / "parents" / "out"

    def mistaken(finished):
        workspace = Workspace(Settings(out), accelerator)
        workspace.open({})
        with workspace:
            storage.write_text(workspace.directory / "half", "")
            if finished:
                workspace.step("first", lambda: 1, int, int)
            raise UserError("too late")

    with pytest.raises(UserError, match="too late"):
        mistaken(finished=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="too late"):
        mistaken(finished=True)
    assert beside(out) == [".out.unfinished"]


def test_what_comes_while_a_run_works_is_not_replaced(tmp_path, accelerator):
    out = tmp_path / "out"
    prune(accelerator, out)
    workspace = Workspace(Settings(out, overwrite_output_dir=True), accelerator)
    workspace.open({})
    (out / "thesis.txt").write_text("years")
    with workspace, pytest.raises(OutputError, match=r"thesis\.txt', which prune_bert did not write"):
        workspace.finish()
    assert (out / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("replacing", ["exchange", "retire"])
def test_what_comes_between_the_last_look_and_the_exchange_stays(tmp_path, accelerator, replacing, monkeypatch):
    out = tmp_path / "out"
    if replacing == "retire":
        monkeypatch.setattr(files, "exchange", cannot_exchange)
    prune(accelerator, out)
    before = tree(out)

    def late(operation, path):
        if operation == "exchange" and not (out / "thesis.txt").exists():
            (out / "thesis.txt").write_text("years")

    monkeypatch.setattr(files, "before", late)
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        prune(accelerator, out, overwrite=True, value=2)
    assert tree(out) == before | {"thesis.txt": b"years"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_result_of_a_run_that_finished_meanwhile_stays(tmp_path, accelerator, overwrite):
    out = tmp_path / "out"
    late = Workspace(Settings(out, overwrite), accelerator)
    prune(accelerator, out)
    with pytest.raises(OutputError, match="written by another run meanwhile"):
        late.open({})
    assert results(out)["report"] == b"[1, 1]"
    assert beside(out) == ["out"]


def test_two_runs_at_once(tmp_path, accelerator):
    out = tmp_path / "out"
    first, second = (Workspace(Settings(out), accelerator) for _ in range(2))
    first.open({})
    with first:
        with pytest.raises(OutputError, match="another run is at work on this output_dir"):
            second.open({})
        with pytest.raises(OutputError, match="another run is at work on this output_dir"):
            Workspace(Settings(out), accelerator)
        first.finish()
    assert beside(out) == ["out"]
