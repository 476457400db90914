"""The page that walks through one answer: which prompt, whose text, whether it can be read."""

import dataclasses
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ltd.errors import InputError
from ltd.measurement.summary import PHASES
from ltd.reporting.answer_page import Walk, WalkedCycle, page
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun
from ltd.walk_answer import Key, WalkAnswerOptions, choose_prompt, methods_to_show, pieces, walk_answer

ANSWER = "one <two>\n& né €5"
GAINS = {
    "chat": {"a": 1.1, "b": 1.2, "c": 1.6, "d": 1.3},
    "qa": {"a": 1.0, "b": 1.1, "c": 1.0, "d": 1.1},
    "code": {"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0},
}
CUTS = {"autoregressive": 1, "eagle3_grid": 2, "ltd": 5}


def byte_tokenizer():
    """One token a byte: characters beyond ASCII are several tokens."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def ids(text):
    return byte_tokenizer()(text)["input_ids"]


def records():
    """Runs and cycles of three methods on four prompts of three tasks, the same answer everywhere."""
    runs, cycles, answer = [], [], ids(ANSWER)
    for task, gains in GAINS.items():
        for prompt, gain in gains.items():
            for method, step in CUTS.items():
                for repeat in range(2):
                    speed = {"ltd": 2 * gain, "eagle3_grid": 2.0}.get(method, 1.0)
                    key = {"method": method, "task": task, "prompt": prompt, "turn": 0, "repeat": repeat}
                    key["temperature"] = 0.0
                    tokens = len(answer) - 1
                    run = {"tokens": tokens, "seconds": tokens / speed, "token_ids": answer, "lossless": True}
                    runs.append(key | run)
                    for number, first in enumerate(range(0, tokens, step)):
                        emitted = min(step, tokens - first)
                        cycle = {"cycle": number, "tokens": emitted, "accepted": emitted - 1}
                        shape = {"depth": step - 1, "size": step - 1, "verified": step - 1}
                        times = dict.fromkeys(PHASES, 0.25 * emitted * (1 + repeat))
                        cycles.append(key | cycle | shape | times)
    return pd.DataFrame(runs), pd.DataFrame(cycles)


class Page(HTMLParser):
    """Texts of the cycles by method, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.methods, self.tags = [], {}, set()

    def handle_starttag(self, tag, attributes):
        self.tags.add((tag, *(name for name, _ in attributes)))
        if tag != "meta":
            self.open.append((tag, dict(attributes).get("class") or ""))
        if self.open[-1][1].startswith("cycle"):
            self.methods[self.method].append([self.open[-1][1], "", ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "h3":
            self.method = data
            self.methods[data] = []
        inside = [css for _, css in self.open]
        if any(css.startswith("cycle") for css in inside):
            self.methods[self.method][-1][1 if self.open[-1][0] == "sup" else 2] += data


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    for name, table in zip(("runs", "cycles"), records(), strict=True):
        sampled = table.assign(temperature=1.0)  # must not be shown
        pd.concat([table, sampled]).to_parquet(folder / f"{name}.parquet")
    tokens = torch.tensor(ids("ask <b>" + ANSWER))
    labels = [(task, prompt) for task, gains in GAINS.items() for prompt in gains]
    Responses.from_sequences(Sequence(tokens, 7, *label, 0) for label in labels).save(
        folder / "r.safetensors"
    )
    byte_tokenizer().save_pretrained(folder / "target")
    return WalkAnswerOptions(
        target=str(folder / "target"),
        runs=folder / "runs.parquet",
        cycles=folder / "cycles.parquet",
        responses=folder / "r.safetensors",
        output=folder / "answer.html",
    )


@pytest.fixture(scope="module")
def text(options):
    walk_answer(options, StageRun())
    return options.output.read_text(encoding="utf-8")


def test_the_prompt_is_the_middle_one_of_the_middle_task():
    key, rule = choose_prompt(records()[0], ["eagle3_grid", "ltd"])
    assert key == Key("chat", "b", 0)
    assert "in the middle by what ltd gains over eagle3_grid" in rule and "(1.20x)" in rule


def test_another_text_is_called_one(options, tmp_path, text):
    assert "The methods give the same text; they differ in the steps" in text
    runs = pd.read_parquet(options.runs)
    runs.assign(lossless=runs["method"] != "ltd").to_parquet(tmp_path / "runs.parquet")
    other = dataclasses.replace(options, runs=tmp_path / "runs.parquet", output=tmp_path / "answer.html")
    walk_answer(other, StageRun())
    assert "The methods give NOT the same text" in other.output.read_text(encoding="utf-8")


def test_shows_what_was_decoded():
    runs, _ = records()
    assert methods_to_show(runs, ["eagle3_grid", "ltd"]) == ["eagle3_grid", "ltd"]
    assert methods_to_show(runs, ["ltd", "svip"]) == ["ltd"]
    assert methods_to_show(runs, ["svip"]) == ["eagle3_grid", "ltd"]
    plain = runs[runs["method"] == "autoregressive"]
    assert methods_to_show(plain, ["ltd"]) == ["autoregressive"]
    assert choose_prompt(plain, ["autoregressive"])[0].task in GAINS


def test_a_character_belongs_to_the_cycle_that_completes_it():
    parts = pieces(byte_tokenizer(), ids("é€x"), [1, 2, 2, 1])
    assert parts == ["", "é", "€", "x"]


def test_the_cycles_of_every_method_are_the_answer(text):
    page = Page()
    page.feed(text)
    assert not page.open
    assert list(page.methods) == ["eagle3_grid", "ltd"]
    for method, spans in page.methods.items():
        assert "".join(span[2] for span in spans) == ANSWER[1:]
        assert len(spans) == -(-(len(ids(ANSWER)) - 1) // CUTS[method])
    assert page.methods["ltd"][0][1] == "4·4→4"


def test_it_can_be_read_without_colour_and_alone(text):
    page = Page()
    page.feed(text)
    spans = page.methods["ltd"]
    parities = [span[0].split()[1] for span in spans]
    assert parities == ["odd", "even"] * (len(spans) // 2) + ["odd"] * (len(spans) % 2)
    assert all(span[1] for span in spans)
    assert not any({"src", "href", "onclick"} & set(attributes) for _, *attributes in page.tags)
    assert not {"script", "link", "img"} & {tag for tag, *_ in page.tags}


def test_its_numbers_are_of_all_repeats(text):
    assert "4 cycles for 19 tokens" in text and "2.40x plain decoding" in text
    # Repeats took 5 and 10 ms.
    assert "<td>1</td><td>4</td><td>4</td><td>4</td><td>5</td><td>7.5</td>" in text


def test_the_mean_size_is_that_of_drafted_trees():
    plain = WalkedCycle(depth=0, size=0, accepted=0, tokens=1, milliseconds=1.0, text="a")
    drafted = WalkedCycle(depth=4, size=6, accepted=1, tokens=2, milliseconds=2.0, text="bc")
    walk = Walk("ltd", "", [plain, drafted], 1.0, 1.0)
    found = page("title", "rule", "prompt", [walk], lossless=True)
    assert "mean depth 2.0" in found and "mean size of a drafted tree 6.0" in found
    alone = page("title", "rule", "prompt", [Walk("ltd", "", [plain], 1.0, 1.0)], lossless=True)
    assert "mean size of a drafted tree 0.0" in alone


def test_a_prompt_without_its_answer_is_an_error(options, tmp_path):
    responses = tmp_path / "r.safetensors"
    Responses.from_sequences([Sequence(torch.tensor([1, 2]), 1, "code", "z", 0)]).save(responses)
    with pytest.raises(InputError, match="no prompt b, turn 0, of the task chat"):
        walk_answer(dataclasses.replace(options, responses=responses), StageRun())
