"""Several processes go the same way: where one of them must fall back or fails, all do."""

import os
import subprocess
from pathlib import Path

import pytest
from accelerate import Accelerator
from processes import torchrun

from prune_bert import PruningPlan, bypass, evaluate, load_model, load_task
from prune_bert.evaluation import EvaluationError, encode, evaluate_each, plan_forward
from prune_bert.evaluation.inference import together
from prune_bert.evaluation.plans import SharedWorkWarning
from prune_bert.training import state

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import datetime, sys
import torch
sys.path[:0] = [{root!r}]
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from prune_bert import PruningPlan, load_model, load_task
from prune_bert.evaluation import EvaluationError, encode, evaluate_each, plan_forward
from prune_bert.evaluation.inference import together
from prune_bert.training import state

limit = InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=90))  # else a process that waits does for ever
accelerator = Accelerator(cpu=True, kwargs_handlers=[limit])
rank = accelerator.process_index
if rank == 1:
    plan_forward._equal = lambda one, other: False
loaded = load_model({model!r})
data = load_task("sst2", data_dir={data!r})["validation"]
encoded = encode(loaded.tokenizer, data, 32)
said = []
plans = [PruningPlan.parse(text) for text in ("layer:1", "ffn:2", "attention:0")]
scores = evaluate_each(loaded.model, plans, encoded, accelerator=accelerator, batch_size=8, tell=said.append)
assert len(said) == 1 and said[0].startswith("plans were evaluated one at a time"), said

try:
    with together(accelerator):
        if rank == 1:
            raise MemoryError("too large")
    raise AssertionError("the fault was passed over")
except MemoryError:
    assert rank == 1
except RuntimeError as error:
    assert rank == 0 and "on process 1: MemoryError" in str(error), error

from pathlib import Path
folder = Path({folder!r})
if accelerator.is_main_process:
    for step in (1, 2):
        state.save_checkpoint(folder, step, {{"step": step}})
accelerator.wait_for_everyone()
if rank == 1:  # the newest cannot be read here
    load = torch.load
    def broken(path, **options):
        if "00000002" in str(path):
            raise OSError("cannot read")
        return load(path, **options)
    torch.load = broken
assert state.load_newest(folder, accelerator) == {{"step": 1}}
if rank == 0:
    print("LOSSES", *(repr(score.loss) for score in scores))
torch.distributed.destroy_process_group()
"""


def test_one_process_that_must_fall_back_takes_the_others_along(tiny_checkpoint, data_dir, tmp_path):
    script = tmp_path / "script.py"
    folder = tmp_path / "state"
    script.write_text(SCRIPT.format(root=str(ROOT), model=str(tiny_checkpoint), data=str(data_dir), folder=str(folder)))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun(script), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = next(line for line in done.stdout.splitlines() if line.startswith("LOSSES"))
    loaded = load_model(str(tiny_checkpoint))
    data = load_task("sst2", data_dir=str(data_dir))["validation"]
    expected = []
    for text in ("layer:1", "ffn:2", "attention:0"):
        with bypass(loaded.model, PruningPlan.parse(text)):
            score = evaluate(loaded.model, encode(loaded.tokenizer, data, 32), batch_size=8, n_resamples=20)
            expected.append(score.loss)
    assert [float(word) for word in losses.split()[1:]] == pytest.approx(expected)


def test_a_fallback_is_said_once_and_other_faults_are_not_a_fallback(tiny_bert, tiny_tokenizer, data_dir, monkeypatch):
    encoded = encode(tiny_tokenizer, load_task("sst2", data_dir=str(data_dir))["validation"], 32)
    plans = [PruningPlan.parse(text) for text in ("layer:1", "layer:2")]
    together_scores = evaluate_each(tiny_bert, plans, encoded)
    monkeypatch.setattr(plan_forward, "_equal", lambda one, other: False)
    with pytest.warns(SharedWorkWarning, match=r"one at a time, which takes longer: .*other logits than alone"):
        alone = evaluate_each(tiny_bert, plans, encoded)
    assert [score.loss for score in alone] == pytest.approx([score.loss for score in together_scores])
    with pytest.raises(EvaluationError, match="batch size is 0"):
        evaluate_each(tiny_bert, plans, encoded, batch_size=0)


def test_alone_the_own_fault_is_raised():
    with pytest.raises(KeyError), together(Accelerator(cpu=True)):
        raise KeyError


def test_a_damaged_checkpoint_is_passed_over_alone_as_ever(tmp_path, capsys):
    for step in (1, 2):
        state.save_checkpoint(tmp_path, step, {"step": step})
    (tmp_path / "checkpoint-00000002.pt").write_bytes(b"torn")
    assert state.load_newest(tmp_path) == {"step": 1}
    assert "passing over the damaged training checkpoint" in capsys.readouterr().err
