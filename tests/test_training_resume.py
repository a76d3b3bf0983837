"""A training run that was interrupted ends at the weights of one that was not, bit for bit."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_bert
from processes import run_code_until_killed, torchrun
from test_training import NO_DROPOUT, light, settings, toy_data  # noqa: F401 - light is a fixture

from prune_bert.lora import add_lora
from prune_bert.training import ResumeError, clear_checkpoints, train
from prune_bert.training.losses import classification_loss
from prune_bert.training.state import load_newest

STEPS = 15  # 6 an epoch: two and a half epochs
TESTS = Path(__file__).parent


def fresh_model(lora=False):
    model = make_tiny_bert()  # with dropout, so that the random state matters
    torch.manual_seed(4)
    return add_lora(model, 2, dropout=0.1) if lora else model


def run(tokenizer, state_dir, model=None, loss_function=None, validation=None, data=None, **given):
    model = fresh_model() if model is None else model
    given = {"max_steps": STEPS, "checkpointing_steps": 4} | given
    result = train(
        model,
        data or toy_data(),
        tokenizer,
        settings(**given),
        state_dir=state_dir,
        loss_function=loss_function,
        validation=validation,
    )
    return model, result


def assert_same_weights(model, other):
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


class InterruptionError(Exception):
    pass


def interrupted_at(step):
    """The usual loss, which gives up at a step, under the usual loss's name."""
    count = 0

    def loss(model, batch):
        nonlocal count
        count += 1
        if count == step:
            raise InterruptionError
        return classification_loss(model, batch)

    loss.__qualname__ = classification_loss.__qualname__
    return loss


def interrupt(tokenizer, state_dir, step, **given):
    with pytest.raises(InterruptionError):
        run(tokenizer, state_dir, loss_function=interrupted_at(step), **given)


def checkpoints(state_dir):
    return sorted(path.name for path in state_dir.glob("*"))


KILLED_RUN = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
from transformers import BertTokenizerFast
from processes import kill_in_call
from prune_bert.training import losses

kill_in_call("prune_bert.training.losses.classification_loss",
             lambda: any(Path({state!r}).glob("checkpoint-0000000[5-9].pt")))
from test_training_resume import run
run(BertTokenizerFast.from_pretrained({vocab!r}, model_max_length=64), Path({state!r}),
    loss_function=losses.classification_loss, checkpointing_steps=1)
"""


def test_a_killed_run_ends_at_the_weights_of_an_uninterrupted_one(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    state_dir = tmp_path / "state"
    code = KILLED_RUN.format(
        tests=str(TESTS), root=str(TESTS.parent), vocab=str(tmp_path / "tokenizer"), state=str(state_dir)
    )
    run_code_until_killed(code)

    resumed, result = run(tiny_tokenizer, state_dir, checkpointing_steps=1)
    whole, uninterrupted = run(tiny_tokenizer, None)
    assert 5 <= result.resumed_from < STEPS
    assert_same_weights(resumed, whole)
    assert result.history == uninterrupted.history


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("step", [3, 7, 13])
def test_wherever_it_stops_it_goes_on_exactly(tiny_tokenizer, tmp_path, step, lora):
    given = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    interrupt(tiny_tokenizer, tmp_path, 2 * step, model=fresh_model(lora), **given)
    resumed, result = run(tiny_tokenizer, tmp_path, model=fresh_model(lora), **given)
    whole, uninterrupted = run(tiny_tokenizer, None, model=fresh_model(lora), **given)
    assert result.resumed_from == {3: None, 7: 4, 13: 12}[step]
    assert_same_weights(resumed, whole)
    assert (result.history, result.mean_loss) == (uninterrupted.history, uninterrupted.mean_loss)


def test_a_validation_that_draws_random_numbers_changes_nothing(tiny_tokenizer, tmp_path):
    def validate(model):
        return torch.rand(()).item() + 1

    interrupt(tiny_tokenizer, tmp_path, 8, validation=validate)
    resumed, result = run(tiny_tokenizer, tmp_path, validation=validate)
    assert_same_weights(resumed, run(tiny_tokenizer, None)[0])
    assert [step for step, _ in result.validation] == [6, 12, 15]


def test_two_checkpoints_are_kept_and_a_finished_run_does_nothing_more(tiny_tokenizer, tmp_path):
    model, _ = run(tiny_tokenizer, tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-00000012.pt", "checkpoint-00000015.pt"]

    def never(*_):
        raise AssertionError("a finished run took a step")

    never.__qualname__ = classification_loss.__qualname__
    again, result = run(tiny_tokenizer, tmp_path, loss_function=never)
    assert (result.steps, result.resumed_from) == (STEPS, STEPS)
    assert_same_weights(model, again)


def test_without_checkpointing_steps_each_epoch_is_saved(tiny_tokenizer, tmp_path):
    interrupt(tiny_tokenizer, tmp_path, 14, checkpointing_steps=None)
    assert checkpoints(tmp_path) == ["checkpoint-00000006.pt", "checkpoint-00000012.pt"]


def test_a_checkpoint_of_another_run_is_refused(tiny_tokenizer, tmp_path):
    interrupt(tiny_tokenizer, tmp_path, 6)
    with pytest.raises(ResumeError, match=r"learning_rate was 0.001 and is now 0.002; seed was 3 and is now 4"):
        run(tiny_tokenizer, tmp_path, learning_rate=2e-3, seed=4)
    with pytest.raises(ResumeError, match="training examples was"):
        run(tiny_tokenizer, tmp_path, data=toy_data(40))
    other = fresh_model()
    torch.nn.init.ones_(other.classifier.weight)
    with pytest.raises(ResumeError, match="initial weights was") as caught:
        run(tiny_tokenizer, tmp_path, model=other)
    assert "\n" not in str(caught.value)
    assert "learning_rate" not in str(caught.value)
    assert checkpoints(tmp_path) == ["checkpoint-00000004.pt"]


def test_how_often_it_is_saved_is_not_part_of_the_run(tiny_tokenizer, tmp_path):
    interrupt(tiny_tokenizer, tmp_path, 6)
    _, result = run(tiny_tokenizer, tmp_path, checkpointing_steps=100)
    assert result.resumed_from == 4


def test_with_resume_off_it_starts_anew(tiny_tokenizer, tmp_path):
    interrupt(tiny_tokenizer, tmp_path, 10)
    (tmp_path / "notes.txt").write_text("mine")
    interrupt(tiny_tokenizer, tmp_path, 2, resume=False, learning_rate=5e-3)
    assert checkpoints(tmp_path) == ["notes.txt"]


def test_a_damaged_checkpoint_is_passed_over_and_said(tiny_tokenizer, tmp_path, capsys):
    interrupt(tiny_tokenizer, tmp_path, 10)
    newest = tmp_path / "checkpoint-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:2000])
    (tmp_path / "checkpoint-00000012.pt.tmp").write_bytes(b"half")
    resumed, result = run(tiny_tokenizer, tmp_path)
    assert result.resumed_from == 4
    assert "warning: passing over the damaged training checkpoint" in capsys.readouterr().err
    assert_same_weights(resumed, run(tiny_tokenizer, None)[0])


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(tiny_tokenizer, tmp_path, monkeypatch):
    def full(payload, file):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    interrupt(tiny_tokenizer, tmp_path, 6)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResumeError, match=r"checkpoint-00000008.pt: .*No space left.*; free some space"):
        run(tiny_tokenizer, tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-00000004.pt"]
    assert load_newest(tmp_path)["record"]["step"] == 4


def test_a_checkpoint_holds_only_what_is_trained(tiny_tokenizer, tmp_path):
    run(tiny_tokenizer, tmp_path, model=fresh_model(lora=True), max_steps=1)
    saved = load_newest(tmp_path)["weights"]
    assert all("lora_" in name or "modules_to_save" in name for name in saved)


def test_clearing_removes_checkpoints_only(tmp_path):
    for name in ("checkpoint-00000001.pt", "checkpoint-00000002.pt.tmp", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    clear_checkpoints(tmp_path)
    assert checkpoints(tmp_path) == ["model.safetensors"]


PROCESS = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from conftest import make_tiny_bert
from test_training import NO_DROPOUT
from test_training_resume import InterruptionError, assert_same_weights, interrupted_at, run
from transformers import BertTokenizerFast

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
tokenizer = BertTokenizerFast.from_pretrained({vocab!r}, model_max_length=64)
out = Path({out!r})
model, result = run(tokenizer, None, model=make_tiny_bert(**NO_DROPOUT), per_device_train_batch_size=5)
if accelerator.is_main_process:
    torch.save((model.state_dict(), [point.loss for point in result.history]), out / "two.pt")

try:
    run(tokenizer, out / "state", loss_function=interrupted_at(7))
except InterruptionError:
    pass
resumed, result = run(tokenizer, out / "state")
assert result.resumed_from == 4
assert_same_weights(resumed, run(tokenizer, None)[0])
accelerator.wait_for_everyone()
accelerator.end_training()  # an exit with the group still there can end in "terminate called"
"""


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_exactly(tiny_tokenizer, tmp_path):
    """48 examples in fives: ten micro-batches, the last one short, for two processes or in pairs on one."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    code = PROCESS.format(
        tests=str(TESTS), root=str(TESTS.parent), vocab=str(tmp_path / "tokenizer"), out=str(tmp_path)
    )
    script = tmp_path / "process.py"
    script.write_text(code)
    # on CPUs, `accelerate launch --num_processes 2` starts one process only (it leaves more to mpirun)
    done = subprocess.run(
        torchrun(script), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr

    weights, losses = torch.load(tmp_path / "two.pt", weights_only=True)
    model, result = run(
        tiny_tokenizer,
        None,
        model=make_tiny_bert(**NO_DROPOUT),
        per_device_train_batch_size=5,
        gradient_accumulation_steps=2,
    )
    assert [point.loss for point in result.history] == pytest.approx(losses, abs=1e-5)
    for name, value in model.state_dict().items():
        if "key.bias" not in name:  # a gradient of zero but for rounding
            torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0)
