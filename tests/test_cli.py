from __future__ import annotations

import dataclasses
import errno
import os
import re
import shlex
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
from processes import torchrun

from prune_bert.cli import failures, main
from prune_bert.cli.noise import quiet_libraries
from prune_bert.cli.parser import read_command
from prune_bert.config import VERBS, RunConfig, dump, load_config
from prune_bert.errors import UserError
from prune_bert.plan import PlanWarning

ROOT = Path(__file__).resolve().parents[1]
FLAGS = shlex.split("--model_name_or_path model --task_name sst2 --plan 'layer:4 ffn:1' --output_dir out")
OF_VERB = {
    "prune": FLAGS,
    "evaluate": FLAGS,
    "benchmark": shlex.split("--model_name_or_path model --plan layer:4 --output_dir out"),
    "train": shlex.split("--model_name_or_path model --task_name sst2 --output_dir out"),
    "score": shlex.split("--model_name_or_path model --task_name sst2 --scorer top taylor --output_dir out"),
    "search": shlex.split("--model_name_or_path model --task_name sst2 --max_accuracy_drop 1 --output_dir out"),
    "recover": shlex.split("--model_name_or_path model --task_name sst2 --plan layer:4 --output_dir out"),
    "report": shlex.split("--report out/report.json --output_dir again"),
}
HEAVY = [
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "numpy",
    "scipy",
    "matplotlib",
    "rich",
    "jinja2",
    "pydantic",
    "yaml",
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """What a command sets in the environment ends with its test."""
    for name in failures._RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def pipeline(monkeypatch):
    """A pipeline whose verbs note their calls, and do what ``pipeline.does`` does."""
    fake = types.ModuleType("prune_bert.pipeline")
    fake.calls, fake.does = [], lambda: None

    def verb_function(verb):
        def run(config, argv):
            fake.calls.append((verb, config, argv))
            return fake.does()

        return run

    for verb in VERBS:
        setattr(fake, f"run_{verb}", verb_function(verb))
    monkeypatch.setitem(sys.modules, "prune_bert.pipeline", fake)
    return fake


def fails_with(error):
    def fail():
        raise error

    return fail


def python(*arguments, **settings):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **settings)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gets_its_config_and_the_command_line(verb, pipeline):
    assert main([verb, *OF_VERB[verb]]) == 0
    [(called, config, argv)] = pipeline.calls
    assert called == verb
    assert type(config) is VERBS[verb]
    assert argv == ("prune-bert", verb, *OF_VERB[verb])


def test_the_exit_code_of_a_verb_is_handed_on(pipeline):
    pipeline.does = lambda: 0
    assert main(["prune", *FLAGS]) == 0
    pipeline.does = lambda: 3
    assert main(["prune", *FLAGS]) == 3


def test_what_the_user_can_mend_is_one_line_and_2(pipeline, capsys):
    pipeline.does = fails_with(UserError("no such task:\n  'sst3'"))
    assert main(["prune", *FLAGS]) == 2
    assert capsys.readouterr() == ("", "error: no such task: 'sst3'\n")


def test_an_interrupt_is_one_line_and_130(pipeline, capsys):
    pipeline.does = fails_with(KeyboardInterrupt())
    assert main(["prune", *FLAGS]) == 130
    assert re.fullmatch(r"interrupted: .*resumes.*\n", capsys.readouterr().err)


def test_a_defect_keeps_its_traceback(pipeline):
    pipeline.does = fails_with(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        main(["prune", *FLAGS])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "error: 'out/report.json': no space left: make room"),
        (errno.EDQUOT, "error: 'out/report.json': disk quota exceeded"),
        (errno.EACCES, "error: 'out/report.json': permission denied"),
        (errno.EROFS, "error: 'out/report.json': the file system is read-only"),
        (errno.ENAMETOOLONG, "error: 'out/report.json': the name is too long"),
    ],
)
def test_a_full_disk_and_its_like_are_one_line_and_2(number, expected, pipeline, capsys):
    pipeline.does = fails_with(OSError(number, os.strerror(number), "out/report.json"))
    assert main(["prune", *FLAGS]) == 2
    err = capsys.readouterr().err
    assert err.startswith(expected)
    assert err.count("\n") == 1


def test_any_other_system_error_is_a_defect(pipeline):
    pipeline.does = fails_with(OSError(errno.EIO, "input/output error"))
    with pytest.raises(OSError, match="input/output"):
        main(["prune", *FLAGS])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "the verb comes first, expected one of prune, evaluate, benchmark, train, score, search, recover, report"),
        ("--config x.yaml", "the verb comes first"),
        ("prun", "unknown verb 'prun', expected one of .*, did you mean 'prune'?"),
        ("prune --ouput_dir x", "unknown flag --ouput_dir, did you mean --output_dir? "),
        ("prune --ouput_dir=x --sede 1", "unknown flag --ouput_dir, .*; unknown flag --sede, did you mean --seed?"),
        ("prune --output-dir x", "unknown flag --output-dir, did you mean --output_dir?"),
        ("prune --no_profil", "unknown flag --no_profil, did you mean "),
        ("prune --learning_rate 1", "unknown flag --learning_rate"),
        ("prune --print_conf", "unknown flag --print_conf, did you mean --print_config?"),
        ("prune --plan layer:4 ffn:1", "stray words 'ffn:1': put a value with spaces in quotes"),
        ("prune --seed", "argument --seed: expected one argument"),
        ("prune --no_profile true", "stray words 'true'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_2(arguments, expected, capsys):
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match("error: " + expected.replace("?", r"\?"), err), err
    assert re.search(r"\(try: prune-bert( prune)? --help\)\n$", err)
    assert err.count("\n") == 1


def test_flags_are_never_abbreviated(capsys):
    assert main(["prune", *FLAGS, "--max_seq", "64"]) == 2
    assert "unknown flag --max_seq, did you mean --max_seq_length?" in capsys.readouterr().err


def test_faults_of_file_and_flags_come_together(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("sede: 1\n")
    assert main(["prune", "--config", str(tmp_path / "c.yaml"), "--seed", "x"]) == 2
    err = capsys.readouterr().err
    for expected in ("6 faults in", "sede: unknown", "--seed: expected a whole number, got 'x'", "plan: missing"):
        assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["--profile"], True),
        (["--profile", "true"], True),
        (["--profile=false"], False),
        (["--profile", "false"], False),
        (["--no_profile"], False),
        (["--no_profile", "--profile"], True),
        ([], True),
    ],
)
def test_a_switch_has_three_spellings(typed, value, pipeline):
    assert main(["prune", *FLAGS, *typed]) == 0
    assert pipeline.calls[0][1].profile is value


def test_a_flag_wins_over_the_file_also_with_null_and_false(pipeline, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("profile: true\nmax_eval_samples: 9\nprofile_batch_sizes: [4]\nseed: 5\n")
    typed = ["--no_profile", "--max_eval_samples", "none", "--profile_batch_sizes", "1", "8"]
    assert main(["prune", "--config", str(path), *FLAGS, *typed]) == 0
    config = pipeline.calls[0][1]
    assert (config.profile, config.max_eval_samples, config.seed) == (False, None, 5)
    assert config.profile_batch_sizes == (1, 8)


def test_only_what_is_typed_is_a_flag():
    command = read_command(["prune", "--seed", "1", "--text_columns", "a", "b", "--label_names", "--save_model"])
    assert command.flags == {"seed": "1", "text_columns": ["a", "b"], "label_names": [], "save_model": "true"}
    assert (command.config_path, command.print_config) == (None, False)


@pytest.mark.parametrize("verb", VERBS)
def test_print_config_prints_what_loads_as_the_same_config(verb, pipeline, tmp_path, capsys):
    assert main([verb, *OF_VERB[verb], "--print_config"]) == 0
    assert pipeline.calls == []
    path = tmp_path / "c.yaml"
    path.write_text(capsys.readouterr().out)
    assert main([verb, "--config", str(path)]) == 0
    assert dump(pipeline.calls[0][1]) == path.read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_each_field_of_the_verb_once_with_its_default(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(VERBS[verb]):
        assert len(re.findall(rf"^ +--{field.name}\b", text, re.MULTILINE)) == 1, field.name
    shown = re.findall(r"\(default:\s[^)]*\)|\(required\)", text)
    assert len(shown) == len(dataclasses.fields(VERBS[verb]))


def test_help_lists_the_verbs_and_version_the_version(capsys):
    import prune_bert

    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^ +{verb}\b", text, re.MULTILINE)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"prune-bert {prune_bert.__version__}\n"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_command_at_the_top_of_each_shipped_config_is_complete(path, monkeypatch, capsys):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    [command] = re.findall(r"^#\s+prune-bert (.*)$", text, re.MULTILINE)
    assert f"configs/{path.name}" in command
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(command), "--print_config"]) == 0
    assert capsys.readouterr().out.startswith("# prune-bert ")


def test_the_quickstart_needs_no_flag_and_no_network():
    config = load_config(RunConfig, ROOT / "configs" / "quickstart.yaml")
    assert (config.model_name_or_path, config.task_name, config.data_dir) == ("embedded", "reviews", None)
    assert config.overwrite_output_dir


@pytest.mark.parametrize(
    "arguments", [["--help"], ["prune", "--help"], ["--version"], ["prun"], ["prune", "--sede", "1"]]
)
def test_help_and_faults_of_the_command_line_load_nothing_heavy(arguments):
    code = (
        "import sys; from prune_bert.cli import main; main(sys.argv[1:]); "
        f"print('LOADED', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    assert "LOADED []" in python("-c", code, *arguments).stdout


def test_help_answers_fast_since_it_imports_little():
    """What takes long in a short command is importing; counted, since a clock would time the machine's other work."""
    code = (
        "import sys; from prune_bert.cli import main; main(sys.argv[1:]); own = set(sys.stdlib_module_names);"
        "print('MODULES', len(sys.modules), "
        "sorted({name.split('.')[0] for name in sys.modules} - own - {'_distutils_hack', '__main__'}))"
    )
    _, count, others = python("-c", code, "prune", "--help").stdout.splitlines()[-1].split(" ", 2)
    assert others == "['prune_bert']"
    assert int(count) < 200


def test_the_module_and_the_script_run_the_command_line(tmp_path):
    by_module = python("-m", "prune_bert", "prune", *FLAGS, "--print_config")
    assert by_module.returncode == 0
    script = ROOT / "scripts" / "prune.py"
    elsewhere = [sys.executable, str(script), *FLAGS, "--print_config"]
    by_script = subprocess.run(elsewhere, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert by_script.stdout == by_module.stdout
    faulty = python(str(script), "--sede", "1")
    assert (faulty.returncode, faulty.stdout, faulty.stderr.count("\n")) == (2, "", 1)


def test_a_reader_that_stops_early_is_one_line_and_2():
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "prune_bert", "prune", *FLAGS, "--print_config"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(write_end)
    assert done.returncode == 2
    assert done.stderr == "error: the program that reads the output stopped before its end\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_standard_output_is_one_line_and_2():
    command = [sys.executable, "-m", "prune_bert", "prune", *FLAGS, "--print_config"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: no space left: .*\n", done.stderr)


def test_another_process_waits_for_the_main_ones_word_and_then_says_which_it_is(monkeypatch, pipeline, capsys):
    waited = []
    monkeypatch.setattr(failures.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    pipeline.does = fails_with(UserError("no such task"))
    assert main(["prune", *FLAGS]) == 2
    assert waited == [failures.SECONDS_FOR_MAIN_PROCESS]
    assert capsys.readouterr().err == "error: no such task (on process 1)\n"
    pipeline.does = fails_with(KeyboardInterrupt())
    assert main(["prune", *FLAGS]) == 130
    assert capsys.readouterr().err == ""


def test_the_main_process_speaks_at_once(monkeypatch, pipeline, capsys):
    monkeypatch.setattr(failures.time, "sleep", fails_with(AssertionError))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    pipeline.does = fails_with(UserError("no such task"))
    assert main(["prune", *FLAGS]) == 2
    assert capsys.readouterr().err == "error: no such task\n"


@pytest.mark.slow
@pytest.mark.parametrize("slow_process", ["0", "1"])
def test_two_processes_that_fail_alike_print_one_line(slow_process, tmp_path):
    """Whichever of them is the slower one: the launcher ends the group when the first of them is gone."""
    script = tmp_path / "late.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"time.sleep(1.0 if os.environ['RANK'] == {slow_process!r} else 0.0)\n"
        "from prune_bert.cli import failures, main\n"
        "failures.SECONDS_FOR_MAIN_PROCESS = 600.0\n"  # so that no load of the machine makes the main one too late
        "sys.exit(main(['prune', '--seed', 'x']))\n"
    )
    done = python(*torchrun(script)[1:], timeout=600)
    assert done.returncode != 0
    assert len(re.findall(r"^error: ", done.stderr, re.MULTILINE)) == 1
    assert "(on process" not in done.stderr


def test_a_warning_of_ours_is_one_line_on_the_main_process(monkeypatch, pipeline, capsys):
    message = "ffn:4: already removed\nwith the whole layer"
    pipeline.does = lambda: warnings.warn(message, PlanWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["prune", *FLAGS]) == 0
        monkeypatch.setenv("RANK", "1")
        assert main(["prune", *FLAGS]) == 0
    assert capsys.readouterr().err == "warning: ffn:4: already removed with the whole layer\n"


def test_a_warning_of_others_is_shown_as_ever(pipeline):
    pipeline.does = lambda: warnings.warn("something else", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="something else"):
        assert main(["prune", *FLAGS]) == 0


def test_libraries_are_quiet_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    quiet_libraries()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert not any("VERBOSITY" in name for name in os.environ if name.startswith("TRANSFORMERS"))
