"""The built-in world: reproducible, splits that share nothing, references that are right and well formed."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ltd import world
from ltd.errors import InputError
from ltd.world import code_parts, ends_in_loop, faithful, stdlib, well_formed
from ltd.world.names import names_in

GENERATED = ("code", "chat", "maths", "instructions", "qa")
COUNTS = {"corpus": 300, "train": 100, "validation": 24, "test": 60}


@pytest.fixture(scope="module")
def splits():
    return {
        task: {split: world.generate(task, split, count, 3) for split, count in COUNTS.items()}
        for task in world.TASKS
    }


def texts(conversations):
    return "\n".join(text for each in conversations for text in (*each.turns, *each.reference))


@pytest.mark.parametrize("task", world.TASKS)
def test_same_seed_same_texts(task, splits):
    assert world.generate(task, "train", 100, 3) == splits[task]["train"]
    assert world.generate(task, "train", 100, 4) != splits[task]["train"]


def test_texts_do_not_depend_on_the_process():
    """Sets and `hash` differ between processes; the texts must not."""
    program = (
        "from ltd import world; import sys; sys.path; print([world.generate(t, 'test', 5, 1) for t in %r])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(world.__file__).parents[2])}
    digests = set()
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", program % (GENERATED,)],
            env=environment | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        digests.add(hashlib.sha256(result.stdout).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("task", world.TASKS)
def test_prompts_are_different_within_and_between_splits(task, splits):
    world.check_disjoint(splits[task])
    prompts = [world.normalised(each.turns) for each in splits[task]["corpus"]]
    assert len(set(prompts)) == COUNTS["corpus"]


@pytest.mark.parametrize("task", ["chat", "maths", "instructions", "qa"])
def test_every_prompt_has_names_that_no_other_split_has(task, splits):
    seen = {}
    for split, conversations in splits[task].items():
        for conversation in conversations:
            names = names_in(conversation.turns[0])
            assert names, conversation.turns[0]
            for name in names:
                assert seen.setdefault(name, split) == split


def test_functions_and_modules_belong_to_one_split(splits):
    for task, pattern in (("code", r"def (\w+)"), ("stdlib", r"module (\w+)")):
        found = {
            split: set(re.findall(pattern, "\n".join(each.turns[0] for each in conversations)))
            for split, conversations in splits[task].items()
        }
        for split, members in found.items():
            others = set().union(*(found[other] for other in found if other != split))
            assert members and not members & others


def test_some_phrases_are_kept_for_the_test_split(splits):
    held_out = "Please complete the function below."
    assert held_out in texts(splits["code"]["test"])
    assert not any(held_out in texts(splits["code"][split]) for split in ("corpus", "train", "validation"))


def test_a_shared_prompt_is_refused(splits):
    train, test = splits["qa"]["train"], splits["qa"]["test"]
    turns = tuple("  " + turn.upper() for turn in train[7].turns)
    copy = world.Conversation(0, "", turns, ())
    with pytest.raises(InputError, match="in both train and test"):
        world.check_disjoint({"train": train, "test": [*test, copy]})


def test_conversations_of_two_splits_may_not_begin_alike():
    conversations = [world.Conversation(0, "", ("How are you?", then), ()) for then in ("And you?", "Why?")]
    with pytest.raises(InputError, match=r"'How are you\?' is in both train and test"):
        world.check_disjoint({"train": conversations[:1], "test": conversations[1:]})


def test_unknown_task_and_split_are_refused():
    for task, split in (("poetry", "train"), ("code", "dev")):
        with pytest.raises(InputError, match="tasks are code"):
            world.generate(task, split, 1, 0)


@pytest.mark.parametrize("task", world.TASKS)
def test_references_are_well_formed_and_faithful(task, splits):
    for conversations in splits[task].values():
        for conversation in conversations:
            assert len(conversation.turns) == len(conversation.reference) == (2 if task == "chat" else 1)
            for turn, answer in enumerate(conversation.reference):
                assert well_formed(task, conversation, answer, turn), answer
                # Some functions of the standard library leave their parameters alone.
                assert task == "stdlib" or faithful(task, conversation, answer, turn), answer


@pytest.mark.parametrize("task", GENERATED)
def test_answers_have_the_length_that_makes_decoding_matter(task, splits):
    lengths = sorted(len(answer.split()) for each in splits[task]["corpus"] for answer in each.reference)
    assert lengths[0] >= 8 and 25 <= lengths[len(lengths) // 2] <= 60 and lengths[-1] <= 110


def test_worked_arithmetic_is_right(splits):
    lines = re.findall(r"(\d+(?: [-+*/] \d+)+) = (\d+)", texts(splits["maths"]["corpus"]))
    assert len(lines) > 300
    assert all(eval(left) == int(right) for left, right in lines)


def test_answers_of_qa_only_use_names_of_the_passage(splits):
    for conversation in splits["qa"]["corpus"]:
        assert names_in(conversation.reference[0]) <= names_in(conversation.turns[0])


def test_bodies_of_code_run(splits):
    record = {attribute: 2 for _, _, attributes in code_parts.RECORDS for attribute in attributes}
    record |= {label: "a" for label in code_parts.LABELS}
    arguments = {plural: [record, record] for plural, _, _ in code_parts.RECORDS}
    arguments |= {plural: ["Some", "text"] for plural, _ in code_parts.TEXTS}
    for plural, item in code_parts.LISTS:
        arguments |= {plural: [3, 90], item: 100}
    ran = 0
    for conversation in splits["code"]["corpus"]:
        source = conversation.turns[0].split("\n\n", 1)[1] + conversation.reference[0]
        name, parameters = re.search(r"def (\w+)\((.*)\)", source).groups()
        if conversation.category == "parse":
            continue  # its lines must have the form the docstring names
        scope = {}
        exec(source, scope)
        scope[name](*(arguments.get(parameter, 50) for parameter in parameters.split(", ")))
        ran += 1
    assert ran > 200


def test_standard_library_functions_are_real(splits):
    assert set(stdlib.functions()) == {"corpus", "train", "validation", "test"}
    for conversation in splits["stdlib"]["test"]:
        compile(conversation.turns[0].split("\n\n", 1)[1] + conversation.reference[0], "function", "exec")


@pytest.mark.parametrize(
    "task, answer",
    [
        ("maths", "Ada has 3 * 4 = 12 pens.\nSo Ada has 12 pens."),
        ("maths", "Ada has 3 * 4 = 12 pens.\n#### 13"),
        ("maths", "Ada has 3 * = 12 pens.\nThen 12 + 1 = 13.\n#### 13"),
        ("maths", "#### 12"),
        ("qa", "Mara was born in 1500"),
        ("qa", ""),
        ("code", "    for x in y"),
        ("code", "    return 'a"),
        ("code", "    # To be written.\n"),
        ("code", '    """What it would do."""'),
        ("code", "    return y\n\ndef another(y):\n    return y"),
        ("chat", "Hello Mara, how are"),
        ("chat", "Hello Mara. how are you?"),
        ("chat", "It is so. Well, Mara. It is so."),
        ("instructions", "Two tips:\n1. Take the bus.\n3. Walk."),
        ("instructions", "Take the bus, Mara. " * 8),
        ("code", "    return " + "y.a, " * 20 + "y."),
        ("anything", "\n"),
    ],
)
def test_broken_answers_are_noticed(task, answer):
    prompt = "def work(y):\n" if task == "code" else "Mara is here.\nQuestion: When was Mara born?"
    assert not well_formed(task, (prompt,), answer)


@pytest.mark.parametrize(
    "task, answer",
    [
        ("maths", "Ada has 3 * 4 = 13 pens.\n#### 13"),
        ("qa", "Mara was born in 1600."),
        ("qa", "Nela was born in 1500."),
        ("instructions", "Two tips:\n1. Take the bus.\n2. Walk.\nGood luck!"),
        ("code", "    return y"),
        ("code", "    return z"),
        ("code", "return y"),
        ("chat", "Hello Mara, how are you?"),
        ("anything", "yes"),
    ],
)
def test_wrong_but_well_formed_answers_pass(task, answer):
    prompt = "def work(y):\n" if task == "code" else "Mara is here.\nQuestion: When was Mara born?"
    assert well_formed(task, (prompt,), answer)


@pytest.mark.parametrize(
    "task, answer, expected",
    [
        ("maths", "Mara has 3 * 4 = 13 pens.\nMara gets 13 + 5 = 18 pens.", True),
        ("maths", "Mara has 3 * 4 = 12 pens.\nMara gets 12 + 6 = 18 pens.", False),
        ("maths", "Mara has 12 / 2 = 6 pens.", False),
        ("maths", "Tada has 3 * 4 = 12 pens.", False),
        ("qa", "Mara was born in 1600.", True),
        ("qa", "She was born in 1600.", False),
        ("qa", "Mara was born in Elmgate.", False),
        ("chat", "Hello Mara, how are you?", True),
        ("chat", "Hello Mara, this is Tada.", False),
        ("instructions", "Take the bus.", False),
        ("code", "    for x in y:\n        print(x)", True),
        ("code", "    return z", False),
        ("code", "    return (y", False),
        ("stdlib", "    return y + z", True),
        ("stdlib", "    return z", False),
        ("anything", "yes", True),
    ],
)
def test_faithful_answers_repeat_what_the_prompt_gives(task, answer, expected):
    prompt = "Mara has 3 bags of 4 pens and gets 5 more.\nQuestion: When was Mara born?"
    prompt = "def work(y):\n" if task in ("code", "stdlib") else prompt
    assert faithful(task, (prompt,), answer) is expected


def test_loops_are_noticed():
    assert ends_in_loop("It is so. " + "and then " * 6)
    assert ends_in_loop([9, 8] + [1, 2, 3, 4, 5] * 4)
    assert ends_in_loop([1, 2] + [7] * 12)
    assert not ends_in_loop([1, 2] + [7] * 11)
    assert not ends_in_loop([9, 8] + [1, 2, 3, 4, 5] * 3)
    assert not ends_in_loop([1, 2, 3] * 8 + [4])
    assert not ends_in_loop("one two three four five six seven eight nine ten eleven twelve thirteen")
