"""Laws of the profile: interleaved, synchronised, honest about noise; sizes that agree with arithmetic."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaModel

from prune_bert.errors import UserError
from prune_bert.profiling import (
    LatencyPoint,
    ProfilingError,
    environment,
    machine,
    measure_size,
    profile_model,
)
from prune_bert.profiling.inputs import longest_sequence, random_inputs
from prune_bert.profiling.latency import round_order, speedup_interval
from prune_bert.profiling.running import eval_mode
from prune_bert.profiling.size import count_flops, count_parameters, peak_memory

CPU = torch.device("cpu")
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none here"),
]


class FakeClock:
    """A clock that stands still but for what a module puts on it; a forward that puts nothing takes 1 ms."""

    def __init__(self):
        self.now_ms = 0.0

    def __call__(self, run, times):
        start = self.now_ms
        for _ in range(times):
            run()
        return (self.now_ms - start) or float(times)


CLOCK = FakeClock()


class Sleeper(nn.Module):
    """A module whose forward takes a known time on the fake clock, and none on any other."""

    def __init__(self, seconds, journal=None, name=""):
        super().__init__()
        self.seconds, self.journal, self.name = seconds, journal, name

    def forward(self, x):
        if self.journal is not None:
            self.journal.append((self.name, self.training, torch.is_inference_mode_enabled(), gc.isenabled()))
        CLOCK.now_ms += 1e3 * self.seconds
        return x


def one_number(model, batch_size, sequence_length):
    return {"x": torch.zeros(1)}


def profile_sleepers(variants, **options):
    options = {"batch_sizes": [1], "sequence_lengths": [8], "rounds": 6, "warmup": 1} | options
    return profile_model(variants, make_inputs=one_number, clock=CLOCK, **options)


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on a machine with other work wait for one another, which is no part of these laws."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# latency


def test_a_slower_variant_is_measured_to_be_slower_and_a_faster_one_faster():
    base, slow, fast = profile_sleepers(
        {"baseline": Sleeper(0.006), "slow": Sleeper(0.012), "fast": Sleeper(0.002)}, rounds=8
    )
    assert (base.speedup, base.speedup_ci95, base.measurable) == (1.0, (1.0, 1.0), False)
    assert slow.measurable
    assert slow.speedup_ci95[1] < 1
    assert fast.measurable
    assert fast.speedup_ci95[0] > 1
    assert slow.speedup == pytest.approx(base.p50_ms / slow.p50_ms)
    assert (slow.speedup, fast.speedup) == pytest.approx((0.5, 3))
    assert (base.p50_ms, slow.p50_ms, fast.p50_ms) == pytest.approx((6, 12, 2))


def test_a_module_against_itself_gains_nothing():
    module = Sleeper(0.005)
    *_, same = profile_sleepers({"baseline": module, "same": module}, rounds=10)
    assert (same.speedup, *same.speedup_ci95) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("drift", [1.0, -0.2], ids=["slower and slower", "faster and faster"])
def test_a_drift_of_the_machine_slows_both_variants_alike(drift):
    class Drifts(nn.Module):
        def forward(self, x):
            forwards.append(1)
            CLOCK.now_ms += 100.0 + drift * len(forwards)

    forwards = []
    module = Drifts()
    *_, same = profile_sleepers({"baseline": module, "same": module}, rounds=20)
    assert same.speedup == pytest.approx(1, abs=0.01)
    assert not same.measurable


def test_measurable_is_the_interval_excluding_one():
    def point(low, high):
        return LatencyPoint("v", 1, 8, 1.0, 1.0, 1.0, (1.0,), 1.0, (low, high))

    assert point(1.01, 1.2).measurable
    assert point(0.8, 0.99).measurable
    assert not point(0.99, 1.01).measurable
    assert not point(1.0, 1.2).measurable


def test_there_is_one_sample_a_round_at_every_setting_and_all_figures_come_from_them():
    points = profile_sleepers(
        {"a": Sleeper(0), "b": Sleeper(0)}, batch_sizes=[1, 4], sequence_lengths=[8, 16], rounds=5
    )
    settings = [(p.batch_size, p.sequence_length, p.variant) for p in points]
    assert settings == [(b, s, v) for b in (1, 4) for s in (8, 16) for v in ("a", "b")]
    for point in points:
        assert len(point.samples_ms) == 5
        assert min(point.samples_ms) <= point.p50_ms <= point.p95_ms <= max(point.samples_ms)
        assert point.throughput == pytest.approx(point.batch_size * 1e3 / point.p50_ms)


def test_a_short_forward_is_timed_several_times_a_sample_and_reported_for_one():
    short, _ = profile_sleepers({"a": Sleeper(0.0005), "b": Sleeper(0.0005)}, rounds=3)
    assert short.forwards_per_sample == 10  # 5 ms a sample
    assert short.p50_ms == pytest.approx(0.5)
    long, _ = profile_sleepers({"a": Sleeper(0.008), "b": Sleeper(0.008)}, rounds=3)
    assert long.forwards_per_sample == 1


def test_variants_take_turns_in_every_round():
    entered = []

    def variant(name):
        module = Sleeper(0.06)  # too long for untimed forwards, so that an entry is a sample

        @contextmanager
        def context():
            entered.append(name)
            yield module

        return context

    profile_sleepers({"a": variant("a"), "b": variant("b")}, rounds=4, warmup=1)
    assert entered == [*"a", *"ab", *"ab", *"ba", *"ba", *"ab"]  # inputs, warm-up, then the rounds


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_over_two_full_cycles_every_variant_has_the_same_mean_position(count):
    names = list("abcd"[:count])
    orders = [round_order(names, index) for index in range(2 * count)]
    assert all(sorted(order) == names for order in orders)
    positions = {name: sum(order.index(name) for order in orders) for name in names}
    assert len(set(positions.values())) == 1


def test_a_forward_is_timed_in_eval_and_inference_mode_without_gc_and_all_is_put_back():
    journal = []
    module = nn.Sequential(Sleeper(0, journal, "inner"), nn.Dropout()).train()
    module[1].eval()
    with torch.no_grad():
        variants = {"a": Wrap(module), "b": Wrap(module)}
        profile_sleepers(variants, rounds=2)
    assert {(training, inference) for _, training, inference, _ in journal} == {(False, True)}
    assert not journal[-1][-1]
    assert gc.isenabled()
    assert module.training
    assert module[0].training
    assert not module[1].training


class Wrap(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_modes_are_put_back_after_an_exception():
    module = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError), eval_mode(module):
        raise RuntimeError
    assert module.training


def test_gc_is_enabled_again_after_an_exception():
    class Breaks(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        profile_sleepers({"a": Breaks()}, rounds=3)
    assert gc.isenabled()


def test_the_interval_resamples_rounds_in_pairs():
    """Drift that both share widens an unpaired interval, and leaves the paired one at the ratio."""
    baseline = [10.0 + 5 * math.sin(index) for index in range(20)]
    low, high = speedup_interval(baseline, [sample / 2 for sample in baseline])
    assert (low, high) == pytest.approx((2, 2))
    assert speedup_interval(baseline, baseline[::-1], seed=3) == speedup_interval(baseline, baseline[::-1], seed=3)


def test_a_real_model_is_profiled_with_and_without_a_context(tiny_bert):
    @contextmanager
    def half():
        layers = tiny_bert.bert.encoder.layer
        tiny_bert.bert.encoder.layer = layers[:2]
        try:
            yield tiny_bert
        finally:
            tiny_bert.bert.encoder.layer = layers

    points = profile_model({"baseline": tiny_bert, "pruned": half}, batch_sizes=[2], sequence_lengths=[16], rounds=4)
    assert [p.variant for p in points] == ["baseline", "pruned"]
    assert len(tiny_bert.bert.encoder.layer) == 4


def test_autocast_reaches_the_model():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))

    profile_sleepers({"a": Probe()}, rounds=2, mixed_precision="bf16")
    assert all(seen)
    seen.clear()
    profile_sleepers({"a": Probe()}, rounds=2)
    assert not any(seen)


def test_progress_goes_to_stderr_and_only_when_asked(capsys):
    profile_sleepers({"a": Sleeper(0)}, rounds=2)
    assert capsys.readouterr() == ("", "")
    profile_sleepers({"a": Sleeper(0)}, rounds=2, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 1}, "rounds is 1"),
        ({"batch_sizes": []}, "batch sizes"),
        ({"batch_sizes": [0]}, "batch sizes"),
        ({"sequence_lengths": [-1]}, "sequence lengths"),
        ({"mixed_precision": "fp8"}, "fp8"),
    ],
)
def test_a_profile_that_cannot_be_taken_is_refused(change, message):
    with pytest.raises(ProfilingError, match=message) as caught:
        profile_sleepers({"a": Sleeper(0)}, **change)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_no_variants_are_refused():
    with pytest.raises(ProfilingError, match="baseline first"):
        profile_sleepers({})


# inputs


def test_inputs_are_seeded_inside_the_vocabulary_and_free_of_specials(tiny_bert):
    inputs = random_inputs(tiny_bert, 3, 16, device=CPU, seed=1)
    ids = inputs["input_ids"]
    assert ids.shape == (3, 16)
    assert int(ids.min()) >= 128
    assert int(ids.max()) < 256
    assert inputs["attention_mask"].all()
    assert not inputs["token_type_ids"].any()
    assert torch.equal(ids, random_inputs(tiny_bert, 3, 16, device=CPU, seed=1)["input_ids"])
    assert not torch.equal(ids, random_inputs(tiny_bert, 3, 16, device=CPU, seed=2)["input_ids"])


def test_a_length_over_the_positions_is_refused_before_it_runs(tiny_bert):
    with pytest.raises(ProfilingError, match="64"):
        profile_model({"a": tiny_bert}, batch_sizes=[1], sequence_lengths=[65], rounds=2)


def test_roberta_loses_the_positions_up_to_its_padding_index():
    config = RobertaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = RobertaModel(config).eval()
    assert longest_sequence(model) == 32
    model(**random_inputs(model, 1, 32, device=CPU))
    with pytest.raises(ProfilingError, match="positions for 32"):
        random_inputs(model, 1, 33, device=CPU)


def test_a_model_without_a_vocabulary_is_told_what_to_pass():
    with pytest.raises(ProfilingError, match="make_inputs"):
        profile_model({"a": nn.Linear(2, 2)})


# size


def bert(attention, layers=3, hidden=32, feed_forward=128):
    config = BertConfig(
        vocab_size=100,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=feed_forward,
        max_position_embeddings=64,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [8, 48])
def test_flops_follow_the_closed_form(attention, length):
    """Projections 8sh², feed-forward 16sh² (it is four times as wide), attention 4s²h; pooler, head once."""
    hidden, layers = 32, 3
    a_layer = 24 * length * hidden**2 + 4 * length**2 * hidden
    expected = layers * a_layer + 2 * hidden**2 + 2 * hidden * 2
    size = measure_size(bert(attention), sequence_length=length, batch_size=4)
    assert size.flops == expected
    assert (size.sequence_length, size.batch_size, size.checkpoint_bytes) == (length, 4, None)


def test_counting_leaves_the_attention_kernels_as_they_were(tiny_bert):
    before = torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()
    count_flops(tiny_bert, random_inputs(tiny_bert, 1, 8, device=CPU))
    assert (torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


def test_shared_parameters_are_counted_once():
    shared = nn.Linear(10, 10)
    tied = nn.Linear(10, 10, bias=False)
    tied.weight = shared.weight
    assert count_parameters(nn.Sequential(shared, shared, tied)) == 110


def test_a_model_in_train_mode_stays_in_train_mode(tiny_bert):
    tiny_bert.train()
    measure_size(tiny_bert, sequence_length=8)
    assert all(module.training for module in tiny_bert.modules())


class Widens(nn.Module):
    """Holds 1 MiB and then 3 MiB at once, and returns little."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))

    def forward(self):
        first = torch.ones(2**18)
        second = torch.ones(2**19)
        return (first.sum() + second.sum()) * self.weight[0]


def test_peak_memory_on_a_cpu_is_the_weights_and_what_is_held_at_once(capfd):
    peak = peak_memory(Widens(), {}, device=CPU)
    assert peak is not None
    assert peak == pytest.approx(4000 + 3 * 2**20, rel=0.01)
    assert capfd.readouterr() == ("", "")


def test_peak_memory_grows_with_the_batch_and_shrinks_with_the_model():
    def peak(model, batch_size):
        return measure_size(model, sequence_length=32, batch_size=batch_size).peak_memory_bytes

    big, small = bert("sdpa"), bert("sdpa", layers=1)
    assert peak(big, 8) > peak(big, 1) > peak(small, 1)


# environment


def test_the_environment_says_where_and_with_what():
    found = environment("cpu", "bf16")
    assert found["device"]
    assert found["device_type"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["dtype"] == "float32, bfloat16 by autocast"
    assert set(found["versions"]) == {
        "python",
        "prune_bert",
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "evaluate",
    }
    assert environment()["dtype"] == "float32"


def test_the_environment_does_without_git(monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert machine.git_commit() is None
    assert environment()["git_commit"] is None


def test_the_records_load_without_torch():
    code = "import prune_bert.profiling as p, sys; p.LatencyPoint; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# GPU


@pytest.mark.parametrize("_", [pytest.param(None, marks=needs_gpu)])
def test_on_a_gpu_the_same_laws_hold(_):
    model = bert("sdpa").cuda()
    points = profile_model({"a": model, "b": model}, batch_sizes=[2], sequence_lengths=[16], rounds=4)
    assert all(len(point.samples_ms) == 4 and point.p50_ms > 0 for point in points)
    size = measure_size(model, sequence_length=16)
    assert size.flops == measure_size(bert("eager"), sequence_length=16).flops
    weights = sum(p.nbytes for p in model.parameters())
    assert size.peak_memory_bytes is not None
    assert size.peak_memory_bytes > weights
    assert environment("cuda")["device"] == torch.cuda.get_device_name()
