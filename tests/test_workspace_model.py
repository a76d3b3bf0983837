"""The workspace against a model of it: runs, kills at any operation, other settings, foreign files, second runs."""

import shutil
import tempfile
from pathlib import Path

import pytest
from accelerate import Accelerator
from faults import Killed, faults
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_workspace_faults import Settings, cannot_exchange

from prune_bert import storage
from prune_bert.pipeline.workspace import Workspace
from prune_bert.storage import OutputError, files
from prune_bert.storage.working import recover

VALUES = st.integers(1, 3)
OPERATIONS = st.integers(1, 70)  # a run has some 60


class WorkspaceMachine(RuleBasedStateMachine):
    """One output directory; the model knows what it holds, and whether somebody's file is beside it."""

    @initialize(exchange=st.booleans())
    def begin(self, exchange):
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.out, self.accelerator = self.folder / "out", Accelerator(cpu=True)
        self.result, self.thesis, self.killed = None, False, False
        self.exchange = files.exchange
        if not exchange:
            files.exchange = cannot_exchange

    def teardown(self):
        files.exchange = self.exchange
        shutil.rmtree(self.folder)

    def workspace(self, overwrite):
        return Workspace(Settings(self.out, overwrite), self.accelerator)

    def work(self, workspace, value):
        """What a run does once it is open: a step that is taken up after a kill, and a file."""
        with workspace:
            found = workspace.step("score", lambda: value, int, int)
            storage.write_text(workspace.directory / "report", str(found))
            workspace.finish()

    def run(self, value, overwrite, at=0):
        """Run, perhaps up to an operation; return how it ended."""
        with faults(at):
            try:
                workspace = self.workspace(overwrite)
                workspace.open({"value": value})
                self.work(workspace, value)
            except Killed:
                return "killed"
            except OutputError as error:
                return str(error)
        return "done"

    def expected(self, overwrite):
        """What the model says of a run that nobody kills."""
        if self.thesis:
            return "which prune_bert did not write" if overwrite else "is not empty"
        return "done" if overwrite or self.result is None else "is not empty"

    @rule(value=VALUES, overwrite=st.booleans())
    def a_run(self, value, overwrite):
        ended, expected = self.run(value, overwrite), self.expected(overwrite)
        assert expected in ended
        if expected == "done":
            self.result, self.killed = value, False
            assert [path.name for path in self.folder.iterdir()] == ["out"]

    @rule(value=VALUES, overwrite=st.booleans(), at=OPERATIONS)
    def a_run_that_is_killed(self, value, overwrite, at):
        ended, expected = self.run(value, overwrite, at), self.expected(overwrite)
        assert ended == "killed" or expected in ended
        if not self.out.exists():  # what was retired comes back at the next start
            recover(self.out)
        found = self.found()
        allowed = {self.result} | ({value} if expected == "done" else set())
        assert found in ({value} if ended == "done" else allowed)
        self.result, self.killed = found, ended == "killed" or self.killed

    @precondition(lambda self: not self.thesis)
    @rule()
    def a_foreign_file_appears(self):
        self.out.mkdir(exist_ok=True)
        (self.out / "thesis.txt").write_text("years")
        self.thesis = True

    @precondition(lambda self: self.thesis)
    @rule()
    def it_is_moved_away(self):
        (self.out / "thesis.txt").unlink()
        self.thesis = False
        if self.result is None:
            self.out.rmdir()

    @precondition(lambda self: not self.thesis)
    @rule(value=VALUES, other=VALUES)
    def a_second_run_while_one_works(self, value, other):
        first, late = (self.workspace(overwrite=True) for _ in range(2))
        first.open({"value": value})
        assert "another run is at work" in self.run(other, overwrite=True)
        self.work(first, value)
        self.result = value
        with pytest.raises(OutputError, match="another run meanwhile"):
            late.open({"value": other})

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "out"):
            assert self.found() == self.result
            assert (self.out / "thesis.txt").exists() == self.thesis

    def found(self):
        report = self.out / "report"
        return int(report.read_text()) if report.exists() else None


WorkspaceMachine.TestCase.settings = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, stateful_step_count=12
)
TestWorkspace = WorkspaceMachine.TestCase
