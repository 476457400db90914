"""The responses file, batched decoding against one sequence at a time, and the stage that makes answers."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ltd import generate_responses as stage
from ltd.bfloat16 import RoundingLinear
from ltd.engine.memory import batch_bytes
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.files import write_jsonl
from ltd.generate_responses import Options, Question, answer_part, generate_responses, parts, read_split
from ltd.target_training.tokenizer import train_tokenizer
from ltd.texts.batched_generation import answer_conversations, generate_batch
from ltd.texts.prompts import render
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun
from noted_run import NotedRun

PROMPTS = {
    "chat": [["Hello there, how are you?", "And why is that so?"], ["Hi", "Bye"]],
    "maths": [["What is 12 + 30?"], ["Count from 1 to 9 and then back to 1 again, please."], ["2 * 3"]],
}


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    texts = [turn for rows in PROMPTS.values() for turns in rows for turn in turns]
    tokenizer = train_tokenizer(texts, 320)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=6,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.2,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # An untrained model would hardly ever end its answers.
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(target_folder):
    return TargetModel.load(target_folder, device="cpu", packed=False)


@pytest.fixture
def options(target_folder, tmp_path):
    for task, conversations in PROMPTS.items():
        rows = [{"question_id": 80 + i, "turns": turns} for i, turns in enumerate(conversations)]
        write_jsonl(tmp_path / "prompts" / f"{task}.jsonl", rows)
    return Options(
        prompts=tmp_path / "prompts",
        target=str(target_folder),
        output=tmp_path / "responses.safetensors",
        state=tmp_path / "state",
        experiment=tmp_path,
        device="cpu",
        max_new_tokens=24,
        batch_size=2,
    )


def greedy_alone(model, prompt, eos_ids, limit):
    """The plainest reference: the whole sequence anew for every token."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < limit:
        with torch.no_grad():
            tokens.append(model(torch.tensor([tokens])).logits[0, -1].argmax().item())
        if tokens[-1] in eos_ids:
            break
    return tokens[len(prompt) :]


def test_a_batch_gives_what_each_sequence_gives_alone(target):
    generator = torch.Generator().manual_seed(1)
    vocabulary = target.vocab_size
    lengths = (3, 30, 11, 7, 19, 5, 2, 24)
    prompts = [torch.randint(4, vocabulary, (length,), generator=generator).tolist() for length in lengths]
    found = generate_batch(target.model, prompts, eos_ids=target.eos_ids, max_new_tokens=24)
    expected = [greedy_alone(target.model, prompt, target.eos_ids, 24) for prompt in prompts]
    assert found == expected
    ends = [len(answer) for answer in expected]
    assert min(ends) < 24 and sorted(ends)[len(ends) // 2] < max(ends), "the batch must shrink on the way"


def test_later_turns_see_the_own_earlier_answer(target):
    conversations = [tuple(turns) for turns in PROMPTS["chat"]]
    answers = answer_conversations(
        target.model, target.tokenizer, conversations, eos_ids=target.eos_ids, max_new_tokens=8
    )
    for turns, replies in zip(conversations, answers, strict=True):
        assert replies[1].prompt == render(target.tokenizer, turns, [replies[0].text])
        assert replies[0].text in target.tokenizer.decode(replies[1].prompt)
        assert replies[1].tokens == greedy_alone(target.model, replies[1].prompt, target.eos_ids, 8)


def test_stage_answers_every_turn_in_the_order_of_the_prompts(options, target):
    run = NotedRun()
    generate_responses(options, run)
    summary = run.files["summary.json"]
    assert summary["answers.chat"] == 4 and summary["answers.maths"] == 3
    responses = Responses.load(options.output)
    labels = [(row["task"], row["question_id"], row["turn"]) for row in responses.labels]
    chat = [("chat", 80 + i, turn) for i in range(2) for turn in range(2)]
    assert labels == chat + [("maths", 80 + i, 0) for i in range(3)]
    for sequence in responses.sequences():
        prompt = sequence.tokens[: sequence.prompt_length].tolist()
        assert sequence.answer.tolist() == greedy_alone(target.model, prompt, target.eos_ids, 24)
        assert sequence.seed_key == 0
    assert not options.state.exists(), "asked for again, it would take the parts that are there"


def with_positions(target_folder, folder, positions):
    """The same target with room for fewer tokens."""
    shutil.copytree(target_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    return str(folder)


def test_conversations_that_may_outgrow_the_target_are_left_out_and_counted(
    options, target, target_folder, tmp_path, capsys
):
    lengths = {
        (task, 80 + index): len(render(target.tokenizer, turns, [""] * (len(turns) - 1))) + 24 * len(turns)
        for task, conversations in PROMPTS.items()
        for index, turns in enumerate(conversations)
    }
    longest = max(lengths, key=lengths.get)
    assert longest == ("chat", 80), "the answer to the first turn counts"
    room = lengths[longest] - 1
    less = dataclasses.replace(options, target=with_positions(target_folder, tmp_path / "less", room))
    generate_responses(less, StageRun())
    labels = Responses.load(less.output).labels
    assert {(row["task"], row["question_id"]) for row in labels} == set(lengths) - {longest}
    assert "left out, longer than the target's context: chat 1\n" in capsys.readouterr().out
    exact = with_positions(target_folder, tmp_path / "exact", room + 1)
    generate_responses(dataclasses.replace(options, target=exact), StageRun())
    assert len(Responses.load(options.output)) == 7
    assert "left out" not in capsys.readouterr().out


def test_conversations_that_outgrow_a_sliding_window_are_left_out(options, target_folder, tmp_path, capsys):
    """Here and not after hours, when the benchmark is refused them."""
    narrow = tmp_path / "narrow"
    shutil.copytree(target_folder, narrow)
    config = json.loads((narrow / "config.json").read_text())
    changes = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 60}
    (narrow / "config.json").write_text(json.dumps(config | changes))
    generate_responses(dataclasses.replace(options, target=str(narrow)), StageRun())
    assert "left out, longer than the target's context: chat" in capsys.readouterr().out


def test_a_task_of_which_nothing_fits_is_named(options, target_folder, tmp_path):
    little = dataclasses.replace(options, target=with_positions(target_folder, tmp_path / "little", 48))
    with pytest.raises(InputError, match=r"no prompt of chat fits the target's context of 48 tokens"):
        generate_responses(little, StageRun())
    assert not little.output.exists()


def test_batches_that_do_not_fit_are_refused_with_a_size_that_does(options, monkeypatch):
    config = TargetModel.load(options.target, device="cpu", packed=False).model.config
    asked = []

    def measured(config, sequences, prompt, answer, dtype):
        asked.append((sequences, prompt, answer))
        return batch_bytes(config, sequences, prompt, answer, dtype)

    monkeypatch.setattr(stage, "batch_bytes", measured)
    monkeypatch.setattr(stage, "free_memory", lambda *_: {0: 5 << 29, 1: 5 << 29})
    generate_responses(options, StageRun())
    sequences, prompt, answer = asked[-1]
    needed = batch_bytes(config, sequences, prompt, answer, torch.float32)
    monkeypatch.setattr(stage, "free_memory", lambda *_: {0: needed // 2})
    with pytest.raises(InputError, match=rf"^responses\.batch_size: {sequences} conver.* use at most \d+$"):
        generate_responses(options, StageRun())
    monkeypatch.setattr(stage, "free_memory", lambda *_: {0: needed})
    generate_responses(options, StageRun())


def test_a_batch_is_planned_with_its_whole_cache(target):
    """What transformers allocates for it is in the plan, and the plan grows with it."""
    config, dtype = target.model.config, torch.float32
    sizes = [batch_bytes(config, sequences, 30, 20, dtype) for sequences in (0, 4, 8)]
    shape = config.num_key_value_heads, 50, config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * math.prod(shape) * dtype.itemsize
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] >= 4 * cache


def test_a_killed_stage_keeps_its_parts_and_ends_the_same(options, monkeypatch):
    generate_responses(options, StageRun())
    whole = Responses.load(options.output)
    killed = dataclasses.replace(
        options, state=options.state / "killed", output=options.output.with_name("again.safetensors")
    )
    calls = []

    def counted(target, conversations, given):
        calls.append(len(conversations))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer_part(target, conversations, given)

    monkeypatch.setattr("ltd.generate_responses.answer_part", counted)
    with pytest.raises(KeyboardInterrupt):
        generate_responses(killed, StageRun())
    assert calls == [2, 2, 1]
    assert not killed.output.exists()
    generate_responses(killed, StageRun())
    assert calls == [2, 2, 1, 1], "only the missing part is made"
    again = Responses.load(killed.output)
    assert torch.equal(again.tokens, whole.tokens) and again.labels == whole.labels
    other = dataclasses.replace(killed, max_new_tokens=5)
    generate_responses(other, StageRun())
    assert calls[4:] == [2, 2, 1], "parts of other options are not taken"


def test_sampling_belongs_to_the_sequence_not_to_the_batch(options, target):
    options = dataclasses.replace(options, temperature=1.0)
    conversations = read_split(options.prompts)
    together = list(
        answer_part(target, conversations, dataclasses.replace(options, batch_size=5)).sequences()
    )
    alone = [s for c in conversations for s in answer_part(target, [c], options).sequences()]
    assert [s.tokens.tolist() for s in together] == [s.tokens.tolist() for s in alone]
    assert len({s.seed_key for s in together}) == len(together)
    reseeded = answer_part(target, conversations, dataclasses.replace(options, seed=1))
    assert [s.tokens.tolist() for s in reseeded.sequences()] != [s.tokens.tolist() for s in together]
    greedy = answer_part(target, conversations, dataclasses.replace(options, temperature=0.0))
    assert [s.tokens.tolist() for s in greedy.sequences()] != [s.tokens.tolist() for s in together]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_for_the_head_are_computed_in_bfloat16_where_it_is_an_instruction(
    options, monkeypatch, native, dtype
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": native})
    met = set()

    def noted(target, conversations, given):
        layer = target.model.lm_head
        met.add((type(layer), layer.weight.dtype, target.model.model.rotary_emb.inv_freq.dtype))
        return answer_part(target, conversations, given)

    monkeypatch.setattr("ltd.generate_responses.answer_part", noted)
    generate_responses(dataclasses.replace(options, dtype=dtype, reduced_precision=True), StageRun())
    own = RoundingLinear if dtype == "bfloat16" else torch.nn.Linear
    expected = (torch.nn.Linear, torch.bfloat16) if native else (own, torch.float32)
    assert met == {(*expected, torch.float32)}
    assert len(list(Responses.load(options.output).sequences())) == 7


def test_what_ends_alike_is_answered_together():
    asked = [
        ("qa", "a"),
        ("chat", "b", "c"),
        ("maths", "dd"),
        ("qa", "ee"),
        ("chat", "f", "g"),
        ("maths", "h"),
    ]
    questions = [Question(task, number, turns) for number, (task, *turns) in enumerate(asked)]
    assert list(parts(questions, 2)) == [[5, 2], [0, 3], [1, 4]]


def test_seed_keys_fit_an_int64_and_do_not_change(target):
    """What was sampled once is sampled again with the same seed."""
    for turns in (("a",), ("b",)):
        assert Question("chat", 80, turns).seed_key(turn=1, seed=0) == 345686932614469842 < 2**63


def test_responses_survive_a_round_trip(tmp_path):
    sequences = [
        Sequence(torch.tensor([5, 6, 7]), 2, "chat", 81, 0, 2**62 + 1),
        Sequence(torch.tensor([9]), 1, "qa", "q-2", 1, 3),
    ]
    Responses.from_sequences(sequences).save(tmp_path / "r.safetensors")
    found = list(Responses.load(tmp_path / "r.safetensors").sequences())
    for sequence, original in zip(found, sequences, strict=True):
        assert sequence.tokens.tolist() == original.tokens.tolist()
        assert dataclasses.replace(sequence, tokens=None) == dataclasses.replace(original, tokens=None)
    assert found[0].answer.tolist() == [7] and found[1].answer.tolist() == []


def test_damaged_responses_are_refused(tmp_path):
    path = tmp_path / "r.safetensors"
    with pytest.raises(InputError, match="no such file"):
        Responses.load(path)
    Responses.from_sequences([Sequence(torch.tensor([5, 6, 7]), 2, "chat", 81, 0)]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(InputError, match=r"r\.safetensors: not a whole"):
        Responses.load(path)
    path.write_bytes(content)
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(InputError, match="1 sequences, but 0 labels"):
        Responses.load(path)


def test_wrong_input_is_refused_before_any_work(options):
    with pytest.raises(InputError, match="temperature: -1"):
        generate_responses(dataclasses.replace(options, temperature=-1.0), StageRun())
    with pytest.raises(InputError, match="max_new_tokens"):
        generate_responses(dataclasses.replace(options, max_new_tokens=0), StageRun())
    (options.prompts / "qa.jsonl").write_text(json.dumps({"turns": ["x"]}) + "\n" + json.dumps({"turn": "x"}))
    with pytest.raises(InputError, match=r"qa\.jsonl, line 2: no `turns`"):
        generate_responses(options, StageRun())
    with pytest.raises(InputError, match="no <task>"):
        read_split(options.prompts / "nothing")
