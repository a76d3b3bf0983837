"""A recovery that was interrupted ends at the weights of one that was not; two processes equal one."""

import copy
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_bert
from processes import run_code_until_killed, torchrun
from test_recovery import PLAN, settings
from test_training import NO_DROPOUT, light, toy_data  # noqa: F401 - light is a fixture
from test_training_resume import InterruptionError, assert_same_weights

from prune_bert.recovery import DistillationLoss, recover
from prune_bert.surgery import drop, pruning_record

TESTS = Path(__file__).parent
KNOBS = {
    "at_once": {"training": {"checkpointing_steps": 2, "max_steps": 14, "evaluation_steps": 2}},
    "gradual": {"training": {"checkpointing_steps": 2, "max_steps": 14}, "schedule": "gradual", "steps_per_site": 4},
    "lora": {"training": {"checkpointing_steps": 2, "max_steps": 14}, "lora_rank": 2, "lora_dropout": 0.1},
}
KNOBS["gradual lora"] = KNOBS["gradual"] | KNOBS["lora"]


def run(tokenizer, state_dir, kind, start=None, accelerator=None, **training):
    """Recover what a plan costs a model with dropout, from a teacher with another head."""
    start = make_tiny_bert() if start is None else start
    teacher = copy.deepcopy(start)
    torch.nn.init.normal_(teacher.classifier.weight, generator=torch.Generator().manual_seed(1))
    gradual = kind.startswith("gradual")
    given = dict(KNOBS[kind])
    model = start if gradual else drop(start, PLAN)
    result = recover(
        model,
        toy_data(),
        tokenizer,
        settings(given.pop("training") | training, hidden_weight=0.5, **given),
        teacher=teacher,
        plan=PLAN if gradual else None,
        accelerator=accelerator,
        state_dir=state_dir,
    )
    return model, result


def outcome(result):
    """What a result says but for how long it took and where it was taken up."""
    return [
        (phase.site, phase.training.history, phase.training.validation, phase.training.stopped_early)
        for phase in result.phases
    ]


def interrupt(tokenizer, state_dir, kind, call, monkeypatch):
    """Give up at the n-th loss, counted over all phases, those of the slice set aside too."""
    whole, count = DistillationLoss.__call__, 0

    def loss(self, model, batch):
        nonlocal count
        count += 1
        if count == call:
            raise InterruptionError
        return whole(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationLoss, "__call__", loss)
        with pytest.raises(InterruptionError):
            run(tokenizer, state_dir, kind)


KILLED_RUN = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
from transformers import BertTokenizerFast
from processes import kill_in_call
from test_recovery_resume import run

kill_in_call("prune_bert.recovery.DistillationLoss.__call__", lambda: any(Path({state!r}).glob({awaited!r})))
run(BertTokenizerFast.from_pretrained({vocab!r}, model_max_length=64), Path({state!r}), {kind!r})
"""


@pytest.mark.parametrize(
    ("kind", "awaited"),
    [
        pytest.param("at_once", "phase-000/checkpoint-0000000[68].pt", marks=pytest.mark.slow),
        ("gradual", "phase-001/checkpoint-00000002.pt"),
    ],
)
def test_a_killed_recovery_ends_at_the_weights_of_an_uninterrupted_one(tiny_tokenizer, tmp_path, kind, awaited):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    state_dir = tmp_path / "state"
    code = KILLED_RUN.format(
        tests=str(TESTS),
        root=str(TESTS.parent),
        vocab=str(tmp_path / "tokenizer"),
        state=str(state_dir),
        kind=kind,
        awaited=awaited,
    )
    run_code_until_killed(code)

    resumed, result = run(tiny_tokenizer, state_dir, kind)
    whole, uninterrupted = run(tiny_tokenizer, None, kind)
    if kind == "at_once":  # the best was known when it was killed
        assert 0 < uninterrupted.best_step < 6 <= result.phases[0].training.resumed_from
    assert_same_weights(resumed, whole)
    assert outcome(result) == outcome(uninterrupted)


@pytest.mark.parametrize("call", [4, 7, 15])
@pytest.mark.parametrize("kind", ["gradual lora", "lora"])
def test_wherever_it_stops_it_goes_on_exactly(tiny_tokenizer, tmp_path, kind, call, monkeypatch):
    interrupt(tiny_tokenizer, tmp_path, kind, call, monkeypatch)
    resumed, result = run(tiny_tokenizer, tmp_path, kind)
    whole, uninterrupted = run(tiny_tokenizer, None, kind)
    assert_same_weights(resumed, whole)
    assert outcome(result) == outcome(uninterrupted)
    assert pruning_record(resumed.config) == pruning_record(whole.config)


@pytest.mark.parametrize("kind", list(KNOBS))
def test_a_finished_recovery_does_nothing_more(tiny_tokenizer, tmp_path, kind, monkeypatch):
    model, result = run(tiny_tokenizer, tmp_path, kind)
    last = len(result.phases)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"checkpoint-{number:08d}.pt" for number in range(max(1, last - 1), last + 1)
    ]
    monkeypatch.setattr(DistillationLoss, "__call__", None)
    again, repeated = run(tiny_tokenizer, tmp_path, kind)
    assert repeated == result
    assert_same_weights(model, again)
    assert list(model.state_dict()) == list(again.state_dict())


def test_with_resume_off_it_starts_anew(tiny_tokenizer, tmp_path, monkeypatch):
    interrupt(tiny_tokenizer, tmp_path, "gradual", 7, monkeypatch)
    (tmp_path / "notes.txt").write_text("mine")
    _, result = run(tiny_tokenizer, tmp_path, "gradual", resume=False, learning_rate=1e-4)
    assert [phase.training.resumed_from for phase in result.phases] == [None] * 3
    assert (tmp_path / "notes.txt").exists()


PROCESS = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from conftest import make_tiny_bert
from test_recovery_resume import NO_DROPOUT, outcome, run
from test_training_resume import assert_same_weights
from transformers import BertTokenizerFast

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
tokenizer = BertTokenizerFast.from_pretrained({vocab!r}, model_max_length=64)
out = Path({out!r})
for kind in ("gradual", "gradual lora", "at_once"):
    model, result = run(tokenizer, out / kind, kind, make_tiny_bert(**NO_DROPOUT), accelerator,
                        per_device_train_batch_size=4)
    again, repeated = run(tokenizer, out / kind, kind, make_tiny_bert(**NO_DROPOUT), accelerator,
                          per_device_train_batch_size=4)
    assert outcome(repeated) == outcome(result)
    assert_same_weights(model, again)
    if accelerator.is_main_process:
        torch.save((model.state_dict(), result.selection_losses), out / (kind + ".pt"))
accelerator.wait_for_everyone()
accelerator.end_training()  # an exit with the group still there can end in "terminate called"
"""


@pytest.mark.slow
def test_two_processes_equal_one(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = tmp_path / "process.py"
    script.write_text(
        PROCESS.format(tests=str(TESTS), root=str(TESTS.parent), vocab=str(tmp_path / "tokenizer"), out=str(tmp_path))
    )
    launch = torchrun(script)
    done = subprocess.run(
        launch, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for kind in ("gradual", "at_once"):
        weights, losses = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        start = make_tiny_bert(**NO_DROPOUT)
        model, result = run(
            tiny_tokenizer, None, kind, start, per_device_train_batch_size=4, gradient_accumulation_steps=2
        )
        assert [step for step, _ in result.selection_losses] == [step for step, _ in losses]
        assert [loss for _, loss in result.selection_losses] == pytest.approx([loss for _, loss in losses], abs=1e-4)
        for name, value in model.state_dict().items():
            if "key.bias" not in name:  # a gradient of zero but for rounding
                torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0)
