"""Prompts that a configuration names: too few, of another form, or not to be trained on."""

import pytest

from checked_configuration import SCHEMA, complaint, saved_model, write_questions
from ltd import configuration


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"tasks": ["code", "poetry"]}, "prompts.tasks: no built-in task 'poetry'; there are code, chat"),
        ({"test_only": ["qa"]}, "prompts.test_only: built-in tasks have prompts of every split; leave it"),
        ({"path": "mine", "test_only": ["tickets"]}, "prompts.test_only: 'tickets' is not one of prompts.ta"),
        ({"tasks": ["a"], "hub": ["b=openai/gsm8k"]}, "prompts.hub: no data set for task 'a'; expected <ta"),
        ({"tasks": ["a"], "hub": ["a=openai/gsm9k"]}, "prompts.hub: the columns of openai/gsm9k are not kn"),
        (
            {"tasks": ["a"], "hub": ["a=openai/gsm8k:x:y"]},
            "prompts.hub: 'a=openai/gsm8k:x:y'; expected <task",
        ),
        ({"path": "mine", "hub": ["a=openai/gsm8k"]}, "prompts.hub: prompts.path is given, too; use one of"),
    ],
)
def test_what_no_source_gives_is_named(config, prompts, said):
    config["prompts"] |= prompts
    config["benchmark"]["test_tasks"] = config["prompts"]["tasks"][:1]
    assert complaint(config).startswith(said)


def test_task_without_prompts(config, tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"turns": ["hello"]}\n')
    config["prompts"]["path"] = str(tmp_path)
    said = complaint(config)
    assert said.startswith("prompts.tasks: no code.jsonl under prompts.path")
    assert said.endswith("list those that are there (chat), in benchmark.test_tasks too")


def test_a_task_must_be_left_to_train_on(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "test_only": config["prompts"]["tasks"]}
    assert complaint(config).startswith("prompts.test_only: no task is left to train on")


def test_a_test_task_is_not_trained_on(config, tmp_path):
    for task in config["prompts"]["tasks"]:
        (tmp_path / f"{task}.jsonl").write_text('{"turns": ["hello"]}\n' * 9)
    config["prompts"] |= {"path": str(tmp_path), "test_only": ["qa", "maths"]}
    config["rl"]["train_tasks"] = ["code", "qa"]
    assert complaint(config).startswith("rl.train_tasks: 'qa' is one of prompts.test_only, too; take it out")


def test_line_without_turns(config, tmp_path):
    for task in config["prompts"]["tasks"]:
        (tmp_path / f"{task}.jsonl").write_text('{"turns": ["hello"]}\n{"question": "hello"}\n')
    config["prompts"]["path"] = str(tmp_path)
    assert "line 2: no `turns`" in complaint(config)


def test_files_with_too_few_test_prompts(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles", "poems"]}
    config["benchmark"] |= {"test_tasks": ["riddles"], "prompts_per_task": 12}
    write_questions(tmp_path, ["riddles"], 40)
    # Too few to test on, and not tested on.
    write_questions(tmp_path, ["poems"], 10)
    configuration.check(config, SCHEMA)
    config["benchmark"]["test_tasks"] = ["riddles", "poems"]
    assert complaint(config) == (
        f"benchmark.prompts_per_task: 12 asked for, but poems.jsonl under {tmp_path} gives 3 test prompts; "
        "lower it to that, or add questions"
    )


def test_file_with_too_few_questions_to_divide(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles"]}
    config["benchmark"]["test_tasks"] = ["riddles"]
    write_questions(tmp_path, ["riddles"], 3)
    assert complaint(config).startswith(f"{tmp_path}/riddles.jsonl: 3 different questions; add some")


def test_a_target_that_is_trained_needs_answers_to_be_checked_by(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles"]}
    config["benchmark"] |= {"test_tasks": ["riddles"], "prompts_per_task": 12}
    write_questions(tmp_path, ["riddles"], 40)
    configuration.check(config, SCHEMA)
    file = tmp_path / "riddles.jsonl"
    file.write_text(file.read_text().replace(', "reference": ["so"]', ""))
    assert complaint(config).startswith("prompts.path: riddles.jsonl has turns without `reference`, by which")
    config["target"]["path"] = str(saved_model(tmp_path / "model"))
    configuration.check(config, SCHEMA)
