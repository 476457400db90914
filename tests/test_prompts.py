"""Prompt sources: question files, hub data sets, the built-in world; the chat template; the stage."""

import json
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

from ltd import world
from ltd.errors import InputError
from ltd.files import write_jsonl
from ltd.target_training.tokenizer import train_tokenizer
from ltd.texts.hub_prompts import hub_prompts
from ltd.texts.prompts import (
    ChatFormat,
    builtin_prompts,
    chat_format,
    check_unlearned,
    divide,
    file_prompts,
    read_questions,
    render,
)

REAL = Path(__file__).parents[2] / "shared/data/prompts"
COUNTS = {"draft": 20, "train": 40, "validation": 24, "test": 24}


def rows(count, start=0):
    return [
        {"question_id": i, "category": "c", "turns": [f"What is {i}?"], "reference": [str(i)]}
        for i in range(start, start + count)
    ]


def questions(split):
    return {task: [each.turns for each in conversations] for task, conversations in split.items()}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Where is the town?", "    return total", "It is in the hills."] * 5, 320)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real prompts are not beside this checkout")
def test_real_question_files():
    tasks = ("gsm8k", "humaneval", "mt_bench", "alpaca", "qa")
    prompts = file_prompts(REAL, tasks, COUNTS)
    for task in tasks:
        assert [len(prompts[split][task]) for split in COUNTS] == [20, 20, 16, 24]
    assert len(prompts["test"]["mt_bench"][0].turns) == 2
    assert prompts["test"]["qa"][0].reference == ()


def test_dividing_follows_the_ids_not_the_order(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows(40))
    write_jsonl(tmp_path / "b.jsonl", rows(40)[::-1])
    first, second = (
        divide(read_questions(tmp_path / name), "task", COUNTS, name) for name in ("a.jsonl", "b.jsonl")
    )
    assert first == second
    sizes = {split: len(part) for split, part in first.items()}
    assert sizes == {"draft": 10, "train": 10, "validation": 8, "test": 12}
    without = divide(read_questions(tmp_path / "a.jsonl"), "task", ["train", "validation", "test"], "a.jsonl")
    assert len(without["train"]) == 20 and "draft" not in without
    assert len({each.question_id for part in first.values() for each in part}) == 40
    assert divide(read_questions(tmp_path / "a.jsonl"), "other", COUNTS, "a.jsonl") != first


def test_repeated_questions_count_once(tmp_path):
    repeated = [row | {"question_id": row["question_id"] + 100} for row in rows(10)]
    write_jsonl(tmp_path / "task.jsonl", rows(10) + repeated)
    prompts = file_prompts(tmp_path, ["task"], COUNTS)
    kept = [each for split in prompts.values() for each in split["task"]]
    assert sorted(each.question_id for each in kept) == list(range(10))


def test_split_folders_are_taken_as_they_are(tmp_path):
    for index, split in enumerate(COUNTS):
        write_jsonl(tmp_path / split / "task.jsonl", rows(30, 100 * index))
    prompts = file_prompts(tmp_path, ["task"], COUNTS)
    assert [len(prompts[split]["task"]) for split in COUNTS] == [20, 30, 24, 24]
    assert prompts["test"]["task"][0].turns == ("What is 300?",)
    write_jsonl(tmp_path / "test/task.jsonl", rows(3, 1))
    with pytest.raises(InputError, match="in both draft and test"):
        file_prompts(tmp_path, ["task"], COUNTS)
    (tmp_path / "test/task.jsonl").unlink()
    with pytest.raises(InputError, match=r"test/task\.jsonl: no such file"):
        file_prompts(tmp_path, ["task"], COUNTS)


@pytest.mark.parametrize(
    "line, complaint",
    [
        ('{"question_id": 5}', "no `turns`"),
        ('{"turns": []}', "no `turns`"),
        ('{"turns": [" "]}', "no `turns`"),
        ('{"turns": "hello"}', "`turns` is not a list of strings"),
        ('{"turns": ["a", 3]}', "`turns` is not a list of strings"),
        ('{"turns": ["a"], "reference": "b"}', "`reference` is not a list of strings"),
        ('{"question_id": 1, "turns": ["a"]}', "question_id 1 is taken"),
        ('{"question_id": [1], "turns": ["a"]}', "`question_id` is neither a number nor text"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, complaint):
    path = tmp_path / "task.jsonl"
    good = [json.dumps(row) for row in rows(4)]
    path.write_text("\n".join([*good[:2], "", *good[2:], line]))
    with pytest.raises(InputError, match=rf"task\.jsonl, line 6: .*{complaint}"):
        read_questions(path)


def test_a_question_without_id_gets_its_place(tmp_path):
    write_jsonl(tmp_path / "task.jsonl", [{"turns": ["a"]}, {"turns": ["b", "c"]}])
    assert [(each.question_id, each.turns) for each in read_questions(tmp_path / "task.jsonl")] == [
        (0, ("a",)),
        (1, ("b", "c")),
    ]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"prompts\.path: .* is not a folder"):
        file_prompts(tmp_path / "nowhere", ["task"], COUNTS)
    with pytest.raises(InputError, match=r"no task\.jsonl under prompts\.path"):
        file_prompts(tmp_path, ["task"], COUNTS)
    write_jsonl(tmp_path / "task.jsonl", rows(3))
    with pytest.raises(InputError, match=r"task\.jsonl: 3 different questions; add some, at least 4"):
        file_prompts(tmp_path, ["task"], COUNTS)


def test_rendering_keeps_every_character(tokenizer):
    turns, answers = ["Where is the town?", "Why?"], ["    It is in the hills."]
    ids = render(tokenizer, turns, answers)
    assert tokenizer.decode(ids) == (
        "<|user|>Where is the town?<|end|><|assistant|>    It is in the hills.<|end|>"
        "<|user|>Why?<|end|><|assistant|>"
    )
    first = render(tokenizer, turns[:1], [])
    assert ids[: len(first)] == first


def test_a_tokenizer_without_chat_template_is_refused(tokenizer):
    bare = train_tokenizer(["some text"], 300)
    bare.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        render(bare, ["Where?"], [])


class Rows(list):
    """What `datasets.load_dataset` returns, as far as it is used."""

    @property
    def column_names(self):
        return list(self[0])


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package `datasets`; holds what is asked for and what is returned."""
    module = types.ModuleType("datasets")
    module.asked, module.refused = [], None
    module.rows = Rows({"question": f"How many is {i}?", "answer": f"#### {i}"} for i in range(20))

    def load_dataset(name, config, split, revision):
        module.asked.append((name, config, split, *([revision] if revision else [])))
        if name == "no/such":
            raise FileNotFoundError("Dataset 'no/such' doesn't exist\nmore")
        if module.refused is not None:
            raise ConnectionError("Couldn't reach it\nand more") from module.refused
        return module.rows

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_hub_data_sets(hub):
    prompts = hub_prompts(["maths=openai/gsm8k", "mine=me/mine::dev:answer"], ["maths", "mine"], COUNTS)
    assert hub.asked == [("openai/gsm8k", "main", "test"), ("me/mine", None, "dev")]
    assert {split: len(tasks["maths"]) for split, tasks in prompts.items()} == {
        "draft": 5,
        "train": 5,
        "validation": 4,
        "test": 6,
    }
    question = prompts["test"]["maths"][0]
    assert question.turns == (f"How many is {question.question_id}?",)
    assert question.reference == (f"#### {question.question_id}",)
    assert prompts["test"]["mine"][0].turns[0].startswith("####")


def test_hub_columns_of_several_kinds(hub):
    hub.rows = Rows({"prompt": [f"a {i}", "b"], "reference": ["c", "d"]} for i in range(8))
    prompts = hub_prompts(["chat=HuggingFaceH4/mt_bench_prompts"], ["chat"], COUNTS)
    assert prompts["train"]["chat"][0].turns[1] == "b"
    assert prompts["train"]["chat"][0].reference == ("c", "d")
    hub.rows = Rows({"instruction": f"Do {i}", "input": "it" * (i % 2), "output": "ok"} for i in range(8))
    prompts = hub_prompts(["tasks=tatsu-lab/alpaca"], ["tasks"], COUNTS)
    found = {each.turns[0] for split in prompts.values() for each in split["tasks"]}
    assert {"Do 0", "Do 1\nit"} <= found


def test_hub_columns_of_messages_are_what_the_user_says(hub):
    def messages(index, who, said):
        return [{who: side, said: f"{side} {index}"} for side in ("system", "user", "assistant", "user")]

    for keys in (("role", "content"), ("from", "value")):
        hub.rows = Rows({"messages": messages(index, *keys)} for index in range(8))
        prompts = hub_prompts(["chat=me/chats::train_sft:messages"], ["chat"], COUNTS)
        first = prompts["train"]["chat"][0]
        assert first.turns == (f"user {first.question_id}",) * 2
    hub.rows = Rows({"messages": [{"text": "Hello"}]} for _ in range(8))
    with pytest.raises(InputError, match=r"me/chats: messages holds neither texts nor messages with role"):
        hub_prompts(["chat=me/chats::train_sft:messages"], ["chat"], COUNTS)


def test_questions_that_begin_alike_are_one(tmp_path):
    """Their first answers would be the same in two splits."""
    same = [{"turns": ["Where is it?", f"And then, {number}?"]} for number in range(6)]
    write_jsonl(tmp_path / "mails.jsonl", [*same, *({"turns": [f"Mail {n}"]} for n in range(5))])
    prompts = file_prompts(tmp_path, ["mails"], COUNTS)
    firsts = [each.turns[0] for split in prompts.values() for each in split["mails"]]
    assert sorted(firsts) == ["Mail 0", "Mail 1", "Mail 2", "Mail 3", "Mail 4", "Where is it?"]


def test_hub_revisions_configurations_and_choices(hub):
    hub.rows = Rows({"question": f"Which is {i}?", "choices": ["one", "two"], "answer": 1} for i in range(8))
    prompts = hub_prompts(
        ["anatomy=cais/mmlu@abc:anatomy", "maths=openai/gsm8k@v1"], ["anatomy", "maths"], COUNTS, ["anatomy"]
    )
    assert hub.asked == [("cais/mmlu", "anatomy", "test", "abc"), ("openai/gsm8k", "main", "test", "v1")]
    assert {split for split, tasks in prompts.items() if "anatomy" in tasks} == {"test"}
    question = prompts["test"]["anatomy"][0]
    assert question.turns == (f"Which is {question.question_id}?\nA. one\nB. two",)
    assert len(prompts["test"]["anatomy"]) == min(8, COUNTS["test"]) and prompts["train"]["maths"]


def test_tasks_that_are_only_tested(tmp_path):
    for task in ("seen", "new"):
        write_jsonl(tmp_path / f"{task}.jsonl", [{"turns": [f"{task} {i}"]} for i in range(20)])
    prompts = file_prompts(tmp_path, ["seen", "new"], COUNTS, ["new"])
    assert {split: set(tasks) for split, tasks in prompts.items()} == {
        split: {"seen", "new"} if split == "test" else {"seen"} for split in COUNTS
    }
    assert len(prompts["test"]["new"]) == min(20, COUNTS["test"])


def test_a_template_that_refuses_its_turns_is_one_line(tokenizer):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(InputError, match=r"^responses\.chat_template: no system role; .*responses\.system$"):
        render(tokenizer, ["Hello"], [], ChatFormat(system="Be brief.", template=strict))
    with pytest.raises(InputError, match=r"^responses\.chat_template: "):
        render(tokenizer, ["Hello"], [], ChatFormat(template="{% if %}"))


def test_chat_formats(tokenizer, tmp_path):
    own = tokenizer.chat_template
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if enable_thinking is defined %}{{ '<think>' if enable_thinking else '<quick>' }}{% endif %}"
    )
    expected = {"template": "", "on": "<think>", "off": "<quick>"}
    for thinking, ending in expected.items():
        form = chat_format("Be brief.", str(template), thinking)
        ids = render(tokenizer, ["Where?"], [], form)
        assert tokenizer.decode(ids) == f"[system]Be brief.[user]Where?{ending}"
    assert tokenizer.chat_template == own
    with pytest.raises(InputError, match=r"responses\.chat_template: .*no such file"):
        chat_format(None, str(tmp_path / "nowhere"), "on")


@pytest.mark.parametrize(
    "entry, complaint",
    [
        ("maths", "expected <task>="),
        ("maths=me/mine", "columns of me/mine are not known"),
        ("maths=me/mine:a:b", "expected <task>="),
        ("other=openai/gsm8k", "no data set for task 'maths'"),
        (
            "maths=me/mine::train:text",
            "no column 'text'; name one of question, answer: <task>=me/mine:<config>:<split>:<column>",
        ),
        ("maths=no/such::train:text", "cannot be loaded .Dataset 'no/such' doesn't exist"),
    ],
)
def test_hub_mistakes_are_named(hub, entry, complaint):
    with pytest.raises(InputError, match=r"^prompts\.hub: .*" + complaint):
        hub_prompts([entry], ["maths"], COUNTS)


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        (GatedRepoError, "accept its licence at https://huggingface.co/datasets/openai/gsm8k, then `hf auth"),
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set; load it once where there is a network"),
    ],
)
def test_gated_data_sets_and_no_network_have_their_remedy(hub, refused, remedy):
    hub.refused = refused.__new__(refused)
    with pytest.raises(InputError, match=r"^prompts\.hub: openai/gsm8k cannot be loaded") as refusal:
        hub_prompts(["maths=openai/gsm8k"], ["maths"], COUNTS)
    assert remedy in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        hub_prompts(["maths=openai/gsm8k"], ["maths"], COUNTS)


@pytest.mark.parametrize("seed", [0, 13, 17])
def test_what_the_head_learns_from_begins_like_nothing_that_policies_learn_from(seed):
    """Of built-in chats some begin alike and go on otherwise."""
    counts = {"train": 80, "draft": 160, "validation": 4, "test": 4}
    prompts = builtin_prompts(["chat"], counts, seed)
    first = [{world.normalised(each.turns[:1]) for each in prompts[split]["chat"]} for split in counts]
    assert not first[0] & first[1]
    assert len(prompts["train"]["chat"]) == 80 and 150 < len(prompts["draft"]["chat"]) <= 160


@pytest.mark.parametrize("split", ["draft", "train", "validation"])
def test_what_a_finished_experiment_learned_from_is_no_test_prompt(split, tmp_path):
    learned, tested = ([world.Conversation(0, "", (f"{word} is it?",), ())] for word in ("What", "Why"))
    for name, conversation in ((split, learned), ("test", tested)):
        write_jsonl(tmp_path / name / "qa.jsonl", [{"question_id": 0, "turns": list(conversation[0].turns)}])
    check_unlearned({"qa": tested}, tmp_path, "prompts.path")
    with pytest.raises(InputError, match=rf"prompts\.path: 'What is it\?' of qa is in .*{split}/qa\.jsonl"):
        check_unlearned({"qa": learned}, tmp_path, "prompts.path")


def test_built_in_prompts_of_a_split_are_not_none():
    with pytest.raises(InputError, match="no train prompts of qa; ask for one or more"):
        builtin_prompts(["qa"], {"train": 0, "validation": 2, "test": 2}, 0)
