from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_bert.config import (
    VERBS,
    BenchmarkConfig,
    ConfigError,
    EvaluateConfig,
    RecoverConfig,
    ReportConfig,
    RunConfig,
    ScoreConfig,
    SearchConfig,
    TrainConfig,
    dump,
    groups,
    load_config,
)
from prune_bert.config.fields import about, fields_in_order, is_required, type_hints
from prune_bert.config.options import About
from prune_bert.config.values import choices, element, is_list, without_null
from prune_bert.config.yaml_text import read_mapping, write_mapping
from prune_bert.errors import UserError

REQUIRED = {"model_name_or_path": "model", "task_name": "sst2", "plan": "layer:4", "output_dir": "out"}
OF_VERB = {
    "prune": REQUIRED,
    "evaluate": {name: REQUIRED[name] for name in ("model_name_or_path", "task_name", "output_dir")},
    "benchmark": {name: REQUIRED[name] for name in ("model_name_or_path", "plan", "output_dir")},
    "train": {name: REQUIRED[name] for name in ("model_name_or_path", "task_name", "output_dir")},
    "score": {name: REQUIRED[name] for name in ("model_name_or_path", "task_name", "output_dir")},
    "search": {name: REQUIRED[name] for name in ("model_name_or_path", "task_name", "output_dir")},
    "recover": REQUIRED,
    "report": {"report": "out/report.json", "output_dir": "again"},
}
NOT_TOGETHER = ("data_dir", "train_file", "validation_file", "lora_rank", "lora_alpha", "lora_target_modules")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def faults(cls, tmp_path, text=None, **overrides) -> str:
    path = None if text is None else write(tmp_path / "config.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(cls, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "config.yaml")


def with_required(text: str) -> str:
    return write_mapping(REQUIRED) + text


def scalars(hint, limits: About):
    if choices(hint):
        return st.sampled_from(choices(hint))
    if hint is bool:
        return st.booleans()
    if hint is str:
        texts = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and "\0" not in text)
        return texts.filter(lambda text: text != "none")
    low = max(limits.get("at_least", -100), limits.get("above", -100))
    high = min(limits.get("at_most", 10**6), limits.get("below", 10**6))
    if hint is int:
        return st.integers(int(low), int(high))
    open_ends = {"exclude_min": "above" in limits, "exclude_max": "below" in limits}
    return st.floats(low, high, allow_nan=False, **open_ends)


def values(cls, name):
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    hint, nullable = without_null(type_hints(cls)[name])
    inner = scalars(element(hint), about(field))
    if is_list(hint):
        longest = about(field).get("max_items", 4)
        inner = st.lists(inner, min_size=1, max_size=longest, unique=True).map(tuple)
    return st.none() | inner if nullable else inner


@st.composite
def given_values(draw, cls):
    """Values for some fields, each given in the file, as a flag, or in both."""
    names = [field.name for field in fields_in_order(cls) if field.name not in NOT_TOGETHER]
    some = st.sets(st.sampled_from(names), max_size=8)
    in_file = {name: draw(values(cls, name)) for name in sorted(draw(some))}
    as_flags = {name: draw(values(cls, name)) for name in sorted(draw(some))}
    return in_file, as_flags


def typed(value):
    """What a user types for a value."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return [typed(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_flag_wins_over_the_file_and_the_file_over_the_default(verb, data, tmp_path_factory):
    cls = VERBS[verb]
    in_file, as_flags = data.draw(given_values(cls))
    in_file = {**OF_VERB[verb], **in_file}
    if "task_name" in in_file:
        in_file["task_name"] = as_flags["task_name"] = "sst2"
    path = write(tmp_path_factory.mktemp("config") / "c.yaml", write_mapping(in_file))
    config = load_config(cls, path, {name: typed(value) for name, value in as_flags.items()})
    defaults = {field.name: field.default for field in fields_in_order(cls) if not is_required(field)}
    assert dataclasses.asdict(config) == {**defaults, **in_file, **as_flags}


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_dumped_loads_as_the_equal_config(verb, data, tmp_path_factory):
    cls = VERBS[verb]
    in_file, as_flags = data.draw(given_values(cls))
    chosen = {**OF_VERB[verb], **in_file, **as_flags}
    if "task_name" in chosen:
        chosen["task_name"] = "sst2"
    config = cls(**chosen)
    path = write(tmp_path_factory.mktemp("config") / "c.yaml", dump(config))
    assert load_config(cls, path) == config
    assert dump(load_config(cls, path)) == dump(config)


def test_a_dump_is_complete_and_says_how_to_run_it():
    text = dump(RunConfig(**REQUIRED, mixed_precision="no"))
    assert text.startswith("# prune-bert prune --config ")
    assert list(read_mapping(text)) == [field.name for field in fields_in_order(RunConfig)]
    assert "mixed_precision: 'no'" in text  # any YAML reader gets a text


def test_false_null_and_zero_are_values_like_others(tmp_path):
    path = write(tmp_path / "c.yaml", with_required("profile: true\nnum_threads: 4\nseed: 7\nreport_to: [wandb]\n"))
    flags = {"profile": "false", "num_threads": "none", "seed": "0", "report_to": ["none"]}
    config = load_config(RunConfig, path, flags)
    assert (config.profile, config.num_threads, config.seed, config.report_to) == (False, None, 0, None)


def test_all_faults_are_listed_at_once_on_one_line(tmp_path):
    text = (
        "model_name_or_path: 7\nsede: 1\nper_device_eval_batch_size: 0\nmixed_precision: bf61\n"
        "validation_file: a.csv\ndata_dir: glue\nprofile: yes please\n"
    )
    message = faults(RunConfig, tmp_path, text, seed="many", profile_batch_sizes=["1", "-2"])
    assert message.startswith("10 faults in config.yaml and the flags: ")
    for expected in (
        "sede: unknown, did you mean 'seed'?",
        "model_name_or_path: expected text, got 7: put it in quotes",
        "plan: missing, give it in the file or as --plan",
        "output_dir: missing, give it in the file or as --output_dir",
        "per_device_eval_batch_size: expected at least 1, got 0",
        "mixed_precision: expected one of no, bf16, fp16, or null, got 'bf61', did you mean 'bf16'?",
        "profile: expected true or false, got 'yes please'",
        "--seed: expected a whole number, got 'many'",
        "--profile_batch_sizes: expected at least 1, got -2",
        "data_dir: given together with a file of your own",
    ):
        assert expected in message, expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seed: '42'", "seed: expected a whole number, got '42'"),
        ("seed: 4.0", "seed: expected a whole number, got 4.0"),
        ("seed: true", "seed: expected a whole number, got true"),
        ("seed: null", "seed: expected a whole number, got null"),
        ("seed: -1", "seed: expected at least 0, got -1"),
        ("seed: 4294967296", "seed: expected at most 4294967295, got 4294967296"),
        ("seed: {a: 1}", "seed: expected a whole number, got {'a': 1}"),
        ("save_model: 1", "save_model: expected true or false, got 1"),
        ("max_eval_samples: many", "max_eval_samples: expected a whole number, or null, got 'many'"),
        ("max_eval_samples: 99999999999", "max_eval_samples: expected at most 2147483647"),
        ("text_columns: sentence", "expected a list of texts, or null, got 'sentence': write [sentence]"),
        ("text_columns: [a, 1]", "text_columns: expected a list of texts, or null, got ['a', 1]"),
        ("text_columns: [a, b, c]", "text_columns: expected at most 2 values, got 3"),
        ("text_columns: [a, a]", "text_columns: 'a' is given twice"),
        ("text_columns: []", "text_columns: expected at least one value, got an empty list"),
        ("profile_batch_sizes: 8", "expected a list of whole numbers, got 8: write [8]"),
        ("profile_batch_sizes: null", "profile_batch_sizes: expected a list of whole numbers, got null"),
        ("profile_rounds: 1", "profile_rounds: expected at least 2, got 1"),
        ("report_to: [tensorbord]", "got ['tensorbord'], did you mean 'tensorboard'?"),
        ("device: gpu", "device: expected one of auto, cpu, cuda, got 'gpu'"),
        ("tokenizer_name: ''", "tokenizer_name: expected text, got an empty one"),
        ('tokenizer_name: "a\\0b"', "tokenizer_name: expected text without a null character"),
        ("model_revision: 1234567", "model_revision: expected text, got 1234567: put it in quotes"),
        ("per-device-eval-batch-size: 8", "unknown, did you mean 'per_device_eval_batch_size'?"),
        ("learning_rate: 1", "learning_rate: a field of train and recover, not of prune"),
        ("train_file: a.csv", "validation_file: missing, with train_file alone there is nothing to score on"),
    ],
)
def test_a_fault_names_the_field_what_was_given_and_what_was_expected(line, expected, tmp_path):
    message = faults(RunConfig, tmp_path, with_required(line))
    assert message.startswith("1 fault in config.yaml: ")
    assert expected in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: 0", "learning_rate: expected more than 0, got 0"),
        ("learning_rate: .nan", "learning_rate: expected a finite number, got nan"),
        ("weight_decay: .inf", "weight_decay: expected a finite number, got inf"),
        ("learning_rate: fast", "learning_rate: expected a number, got 'fast'"),
        ("warmup_ratio: 1.5", "warmup_ratio: expected at most 1, got 1.5"),
        ("lora_dropout: 1", "lora_dropout: expected less than 1, got 1"),
        ("lora_target_modules: [query]", "lora_target_modules: given while lora_rank is 0"),
        ("lora_alpha: 3", "lora_alpha: given while lora_rank is 0"),
        ("validation_file: a.csv", "train_file: missing, validation_file is only scored on"),
        ("plan: layer:4", "plan: a field of prune and evaluate and benchmark and recover, not of train"),
    ],
)
def test_faults_of_a_training_config(line, expected, tmp_path):
    message = faults(TrainConfig, tmp_path, write_mapping(OF_VERB["train"]) + line)
    assert message.startswith("1 fault in config.yaml: ")
    assert expected in message


def test_a_task_is_required_where_a_score_is_asked():
    rest = {"model_name_or_path": "model", "output_dir": "out"}
    for cls in (EvaluateConfig, TrainConfig):
        with pytest.raises(ConfigError, match="task_name: missing, give it or validation_file"):
            cls(**rest)
    assert EvaluateConfig(**rest, validation_file="mine.csv").task_name is None
    assert BenchmarkConfig(**rest, plan="layer:1").plan == "layer:1"


def test_an_empty_plan_is_a_plan_and_an_empty_list_of_labels_a_regression():
    config = EvaluateConfig(**OF_VERB["evaluate"], plan="", label_names=[])
    assert (config.plan, config.label_names) == ("", ())
    assert load_config(EvaluateConfig, None, {**OF_VERB["evaluate"], "label_names": []}).label_names == ()


def test_words_mean_what_yaml_1_2_says(tmp_path):
    text = "mixed_precision: no\nmodel_revision: 2024-01-31\nattn_implementation: ~\nseed: 010\n"
    config = load_config(RunConfig, write(tmp_path / "c.yaml", with_required(text)))
    assert (config.mixed_precision, config.model_revision, config.seed) == ("no", "2024-01-31", 10)
    text = write_mapping(OF_VERB["train"]) + "learning_rate: 1e-5\nnum_train_epochs: 2\n"
    config = load_config(TrainConfig, write(tmp_path / "t.yaml", text))
    assert (config.learning_rate, config.num_train_epochs) == (1e-5, 2.0)
    assert isinstance(config.num_train_epochs, float)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text()),
    )
)
@settings(max_examples=80, deadline=None)
def test_what_is_written_as_yaml_reads_back_the_same(content):
    if content:
        assert read_mapping(write_mapping(content)) == content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected lines such as 'seed: 42', found nothing"),
        ("# only a comment\n", "found nothing"),
        ("- seed\n- 42\n", "found a list or a text"),
        ("just words", "found a list or a text"),
        ("seed: 1\nplan: x\nseed: 2\n", "line 3: 'seed' is given twice, first on line 1"),
        ("seed: {a: 1, a: 2}\n", "line 1: 'a' is given twice"),
        ("seed: 1\nplan: [a\noutput_dir: x\n", "not YAML: line 3: "),
        ("seed: 1\n\tplan: x\n", "not YAML: line 2: "),
        ("plan: layer: 4\n", "not YAML: line 1: "),
        ("seed: 1\n---\nseed: 2\n", "not YAML: line 2: "),
        ("? [seed]\n: 1\n", "line 1: expected a name before the colon"),
        ("seed: *gone\n", "not YAML: line 1: "),
        ("seed: !!python/object/apply:os.getcwd []\n", "seed: expected a whole number, got []"),
        ("seed: !!python/name:os.getcwd\n", "line 1: the tag"),
        ("seed: !!int many\n", "line 1: "),
        ("seed: " + "9" * 5000, "line 1: "),
        ("seed: &a [*a]\n", "nested without end"),
        ("seed: " + "[" * 2000, "nested without end"),
        ("seed: \x00\n", "not YAML: "),
    ],
)
def test_a_file_that_is_no_configuration_is_told_with_its_line(text, expected, tmp_path):
    assert expected in faults(RunConfig, tmp_path, text)


def test_aliases_do_not_blow_up(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    message = faults(RunConfig, tmp_path, "\n".join([*lines, "seed: *a19"]))
    assert len(message) < 5000


def test_a_file_that_cannot_be_read_is_told_with_the_nearest(tmp_path):
    write(tmp_path / "quickstart.yaml", "seed: 1")
    with pytest.raises(ConfigError, match=r"no configuration file at .*quikstart.yaml, did you mean 'quickstart.yaml'"):
        load_config(RunConfig, tmp_path / "quikstart.yaml")
    with pytest.raises(ConfigError, match="no configuration file at"):
        load_config(RunConfig, tmp_path / "nowhere" / "a.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(RunConfig, tmp_path)
    (tmp_path / "latin.yaml").write_bytes("plan: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_config(RunConfig, tmp_path / "latin.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + with_required("seed: 3").replace("\n", "\r\n").encode())
    assert load_config(RunConfig, tmp_path / "c.yaml").seed == 3


def test_an_override_that_is_no_field_is_a_fault():
    with pytest.raises(ConfigError, match="1 fault in the flags: --sede: unknown, did you mean 'seed'"):
        load_config(RunConfig, None, {**REQUIRED, "sede": "1"})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True), ("0", False)])
def test_a_switch_reads_the_usual_words(text, value):
    assert load_config(RunConfig, None, {**REQUIRED, "profile": text}).profile is value


def test_a_config_is_frozen_and_keyword_only():
    config = RunConfig(**REQUIRED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(TypeError):
        RunConfig("model", "sst2")
    assert hash(config) == hash(RunConfig(**REQUIRED))


def test_a_config_made_in_python_is_checked_like_a_file():
    with pytest.raises(ConfigError, match=r"2 faults in RunConfig: mixed_precision: .*; seed: "):
        RunConfig(**REQUIRED, seed="7", mixed_precision="fp8")
    with pytest.raises(ConfigError, match="expected at least 1"):
        dataclasses.replace(RunConfig(**REQUIRED), max_seq_length=1, per_device_eval_batch_size=0)
    config = RunConfig(**{**REQUIRED, "output_dir": Path("out") / "run"}, profile_batch_sizes=[1, 2])
    assert (config.output_dir, config.profile_batch_sizes) == (str(Path("out/run")), (1, 2))


def test_config_errors_are_the_users_to_mend():
    assert issubclass(ConfigError, UserError)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("cls", VERBS.values())
def test_every_field_has_a_group_a_help_line_and_a_way_to_show_its_value(cls):
    names = [field.name for group in groups(cls) for field in group.fields]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(cls))
    for field in fields_in_order(cls):
        assert set(field.metadata) <= set(About.__annotations__)
        assert about(field)["help"]
        hint = type_hints(cls)[field.name]
        assert hint is bool or choices(hint) or about(field)["metavar"]


def test_the_verbs_have_their_configs():
    assert dict(VERBS) == {
        "prune": RunConfig,
        "evaluate": EvaluateConfig,
        "benchmark": BenchmarkConfig,
        "train": TrainConfig,
        "score": ScoreConfig,
        "search": SearchConfig,
        "recover": RecoverConfig,
        "report": ReportConfig,
    }


def test_importing_the_config_loads_nothing_heavy():
    code = (
        "import sys, prune_bert.config; "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'yaml'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
