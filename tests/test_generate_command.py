"""The command `python -m ltd.generate`, with small saved models and heads."""

import re
from functools import partial

import pytest

from decoding_experiments import save_with_policies, save_words
from ltd.engine.decoding import decode
from ltd.errors import InputError
from ltd.files import write_json
from ltd.generate import Decoder, main
from ltd.replay.latency import LatencyProfile
from ltd.rl.policy_controller import PolicyController


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An experiment's folder with `target` and `draft`."""
    return save_words(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return save_with_policies(tmp_path_factory.mktemp("with_policies"))


def test_command_streams_text_and_ends_with_the_speed(folders, capsys):
    options = ["--device", "cpu", "--threads", "1", "--depth", "2", "--size", "5", "--beam", "4"]
    options += ["--max-new-tokens", "12"]
    main(["--experiment", str(folders), "--prompt", "w3 w4", *options])
    output = capsys.readouterr()
    assert len(output.out.split()) == 12
    assert "12 tokens, " in output.err and "tokens/s, acceptance length" in output.err
    assert "speedup" in output.err and output.err.rstrip().endswith(", the same tokens")


def command_decodes(experiment, capsys, *options):
    """Acceptance length and cycles that the command tells of; its tokens are those of plain decoding."""
    fixed = ["--prompt", "w9", "--device", "cpu", "--threads", "1", "--max-new-tokens", "40"]
    main(["--experiment", str(experiment), *fixed, *map(str, options)])
    said = capsys.readouterr().err
    assert said.rstrip().endswith(", the same tokens")
    return re.search(r"acceptance length \S+ over \d+ cycles", said)[0]


def test_command_decodes_trees_that_are_larger_than_is_usual(folders, capsys):
    command_decodes(folders, capsys, "--depth", 5, "--size", 300, "--beam", 14)


def test_command_decodes_with_policies(experiment, capsys):
    """The experiment's own, those of a folder, and those of a folder on a machine."""
    tuned, observing, profile = (
        experiment / name for name in ("policies/ltd/best", "observing", "profile.json")
    )
    on_machine = PolicyController.load(observing, profile=LatencyProfile.load(profile))
    named = ["--policies", observing, "--profile", profile]
    told = []
    for options, controller in (([], PolicyController.load(tuned)), (named, on_machine)):
        decoder = Decoder.load(experiment / "target", experiment / "draft", controller, device="cpu")
        engine = decoder.target, decoder.drafter, controller
        result = decode(*engine, decoder.encode("w9"), max_new_tokens=40)
        cycles = len(result.cycles)
        told.append(f"acceptance length {(len(result.tokens) - 1) / cycles:.2f} over {cycles} cycles")
        assert command_decodes(experiment, capsys, *options) == told[-1]
    assert command_decodes(experiment, capsys, "--policies", tuned) == told[0] != told[1]
    with pytest.raises(SystemExit):
        command_decodes(experiment, capsys, "--policies", observing)
    assert "give the latency profile of the machine to run on" in capsys.readouterr().err


def what_is_asked(experiment, tmp_path, monkeypatch, *options):
    """Ids of the prompt that the command decodes."""
    seen = []

    def decode(target, drafter, controller, prompt, **settings):
        seen.append(prompt)
        raise InputError("seen")

    monkeypatch.setattr("ltd.generate.decode", decode)
    fixed = ["--prompt", "w9", "--device", "cpu", "--depth", "1", "--size", "1", "--beam", "4"]
    models = ["--target", str(experiment / "target"), "--draft", str(experiment / "draft")]
    with pytest.raises(SystemExit):
        main(["--experiment", str(tmp_path), *models, *fixed, *options])
    return seen[0]


def test_prompts_have_the_form_that_the_experiment_was_made_with(folders, tmp_path, monkeypatch):
    """Unless the command says otherwise, or another target decodes."""
    asked = partial(what_is_asked, folders, tmp_path, monkeypatch)
    assert asked() == [9, 1]
    template = tmp_path / "template.jinja"
    template.write_text(
        "{{ 'w5 ' if enable_thinking }}{% for message in messages %}{{ message['content'] }} w2 {% endfor %}"
    )
    made = {"system": "w7", "chat_template": str(template), "thinking": "on"}
    write_json(tmp_path / "config.json", {"responses": made, "target": {"path": "another/model"}})
    assert asked() == [9, 1]
    own = {"path": str(folders / "target")}
    write_json(tmp_path / "config.json", {"responses": made, "target": own})
    assert asked() == [5, 7, 2, 9, 2]
    assert asked("--system", "w6", "--thinking", "off") == [6, 2, 9, 2]
    assert asked("--system", "", "--thinking", "template") == [9, 2]
    own = tmp_path / "own.jinja"
    own.write_text("w3")
    assert asked("--chat-template", str(own)) == [3]


def test_the_experiments_own_target_is_loaded_as_its_configuration_says(folders, tmp_path, monkeypatch):
    """Unless the command says otherwise, or another target decodes."""

    def loaded(*options):
        seen = []
        monkeypatch.setattr(
            Decoder, "load", lambda target, *_, **settings: seen.append((target, settings)) or stop()
        )
        fixed = ["--prompt", "w9", "--device", "cpu", "--depth", "1", "--size", "1", "--beam", "4"]
        with pytest.raises(SystemExit):
            main(["--experiment", str(tmp_path), *fixed, *options])
        [(target, settings)] = seen
        return str(target), settings["dtype"], settings["quantisation"]

    def stop():
        raise InputError("seen")

    own = str(folders / "target")
    responses = {"system": None, "chat_template": None, "thinking": "template"}
    made = {"responses": responses, "dtype": "bfloat16", "quantisation": "4bit"}
    write_json(tmp_path / "config.json", made | {"target": {"path": own}})
    assert loaded() == (own, "bfloat16", "4bit")
    assert loaded("--dtype", "float32", "--quantisation", "none") == (own, "float32", "none")
    write_json(tmp_path / "config.json", made | {"target": {"path": "another/model"}})
    assert loaded("--target", own) == (own, "auto", "none")


def test_without_a_chat_template_the_command_says_so(experiment, tmp_path, capsys, monkeypatch):
    warning = "has no chat template, the prompt is taken as it is; give one with --chat-template"
    assert what_is_asked(experiment, tmp_path, monkeypatch) == [9]
    assert warning in capsys.readouterr().err
    template = tmp_path / "template.jinja"
    template.write_text("w3")
    assert what_is_asked(experiment, tmp_path, monkeypatch, "--chat-template", str(template)) == [3]
    assert warning not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", "2"], "depth, size: give both"),
        (["--depth", "2", "--size", "300"], "size: 300 is not between 1 and 256"),
        (["--depth", "2", "--size", "5", "--policies", "nowhere"], "has no --policies or --profile"),
        (["--policies", "tests"], "beam: policies bring their own"),
        (["--depth", "2", "--size", "5", "--max-new-tokens", "2048"], "ask for at most 2047"),
        (["--depth", "2", "--size", "5", "--prompt", "w3 " * 2050], "shorten the prompt"),
        (["--depth", "2", "--size", "5", "--beam", "0"], "beam: 0 is not at least 1"),
        (["--depth", "2", "--size", "5", "--temperature", "inf"], "temperature: inf"),
        ([], "no trained policies there"),
        (["--depth", "2", "--size", "5", "--draft", "nowhere"], "nowhere"),
        (
            ["--depth", "2", "--size", "5", "--experiment", "results/nowhere"],
            "results/nowhere/target: no target was trained there; give the experiment's own as --target",
        ),
        (["--depth", "2", "--size", "5", "--temperature", "-1", "--target", "nowhere"], "temperature"),
        (
            ["--depth", "2", "--size", "5", "--max-new-tokens", "0", "--target", "nowhere"],
            "max_new_tokens: 0",
        ),
    ],
)
def test_command_says_what_is_wrong(folders, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "--experiment",
                str(folders),
                "--device",
                "cpu",
                "--threads",
                "1",
                "--beam",
                "4",
                "--prompt",
                "w3",
                *arguments,
            ]
        )
    errors = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and errors[-1].startswith("generate: ") and message in errors[-1]
