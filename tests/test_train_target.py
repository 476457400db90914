"""The embedded target: tokenizer, packing, Muon, growth in depth, the training loop and its checkpoints."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ltd import world
from ltd.errors import InputError
from ltd.files import read_json, write_jsonl
from ltd.muon import Muon, orthogonalise
from ltd.option_checks import check_target
from ltd.target_training.growth import grow, without_blocks
from ltd.target_training.packing import batches, encode_conversations, pack, read_conversations
from ltd.target_training.tokenizer import train_tokenizer
from ltd.target_training.training import Trainer, answer_loss, learning_rate_factor
from ltd.tracking import StageRun
from ltd.train_target import Options, ablations, build_model, round_weights, train, train_target
from ltd.train_target import _fingerprint as fingerprint

TASKS = ("chat", "maths")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for split, count in (("corpus", 60), ("validation", 4)):
        for task in TASKS:
            rows = [row.as_row() for row in world.generate(task, split, count, seed=0)]
            write_jsonl(folder / split / f"{task}.jsonl", rows)
    return folder


@pytest.fixture
def options(prompts, tmp_path):
    return Options(
        prompts=prompts,
        output=tmp_path / "target",
        state=tmp_path / "state",
        experiment=tmp_path,
        device="cpu",
        vocab_size=640,
        hidden_size=64,
        intermediate_size=96,
        start_layers=2,
        layers=4,
        steps=6,
        grow_step=2,
        batch_rows=2,
        row_tokens=256,
        warmup_steps=2,
        evaluate_every=3,
        held_out_count=2,
        sample_count=1,
        checkpoint_every=1,
    )


@pytest.fixture(scope="module")
def corpus(prompts):
    conversations = read_conversations(prompts / "corpus")
    texts = [t for rows in conversations.values() for row in rows for t in (*row.turns, *row.reference)]
    tokenizer = train_tokenizer(texts, 640)
    return conversations, tokenizer, encode_conversations(conversations, tokenizer)


def test_tokenizer_is_reversible_and_the_same_every_time(corpus):
    conversations, tokenizer, _ = corpus
    texts = [t for rows in conversations.values() for row in rows for t in (*row.turns, *row.reference)]
    assert train_tokenizer(texts, 640).get_vocab() == tokenizer.get_vocab()
    for text in (texts[0], "    if x:\n        return 17\n", "Grüße, 世界!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("1234")["input_ids"]) == 4
    assert tokenizer.eos_token == "<|end|>"


def test_training_documents_are_what_the_chat_template_renders(corpus):
    conversations, tokenizer, documents = corpus
    row, document = conversations["chat"][0], documents[0]
    messages = []
    for turn, reference in zip(row.turns, row.reference, strict=True):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": reference}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == document.tokens.tolist()
    answers = tokenizer.decode(document.tokens[document.answer])
    assert answers == "".join(reference + "<|end|>" for reference in row.reference)


def test_chat_template_refuses_unknown_roles(corpus):
    with pytest.raises(Exception, match="system"):
        corpus[1].apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_packing_keeps_every_document_whole_and_apart(corpus):
    documents = corpus[2]
    rows = pack(documents, 512)
    found = [
        row.tokens[0][row.document[0] == number].tolist()
        for row in (rows[i : i + 1] for i in range(len(rows)))
        for number in range(int(row.document.max()) + 1)
    ]
    assert sorted(found) == sorted(document.tokens.tolist() for document in documents)
    assert rows.answer.sum() == sum(document.answer.sum() for document in documents)
    assert (rows.document >= 0).float().mean() > 0.8
    mask = rows.mask()
    row, second = 0, (rows.document[0] == 1).nonzero()[0].item()
    assert mask[row, 0, second].nonzero().flatten().tolist() == [second]
    assert rows.positions[row, second] == 0


def noisy_model(options, tokenizer):
    """A model as if trained: the stage's own starts at zero, where much is equal that should not be."""
    model = build_model(options, tokenizer).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def test_neighbours_in_a_row_do_not_change_the_loss(corpus, options):
    model = noisy_model(options, corpus[1])
    documents = corpus[2][:4]
    together = pack(documents, 1024)
    assert len(together) == 1
    alone = [answer_loss(model, pack([document], 512), reduction="sum") for document in documents]
    assert answer_loss(model, together, reduction="sum").item() == pytest.approx(sum(alone).item(), rel=1e-5)


def test_batches_are_the_same_from_any_start(corpus):
    documents = corpus[2]
    per_epoch = len(pack(documents, 256)) // 4
    stream = batches(documents, 256, 4, seed=1, start=0)
    first = [next(stream).tokens for _ in range(per_epoch + 6)]
    assert not torch.equal(first[0], first[per_epoch])
    for start in (3, per_epoch + 4):
        assert torch.equal(next(batches(documents, 256, 4, seed=1, start=start)).tokens, first[start])
    with pytest.raises(InputError, match="do not fill a batch"):
        next(batches(documents[:2], 256, 50, seed=1, start=0))


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_orthogonalise_gives_the_polar_factor(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.3, 1, min(shape[1:]))
    result = orthogonalise(left @ torch.diag(values) @ right)
    assert torch.linalg.svdvals(result).sub(0.95).abs().max() < 0.3
    overlap = torch.einsum("brk,brc,bkc->bk", left, result, right)
    assert overlap.min() > 0.6


@pytest.mark.parametrize("shape", [(3, 24, 25), (2, 17, 90), (2, 90, 16)])
def test_iterating_on_the_factor_is_iterating_on_the_matrix(shape):
    """Where columns outnumber rows the iteration is another one; a square that holds the matrix is not."""
    torch.manual_seed(0)
    matrices = torch.randn(shape) @ torch.diag(torch.logspace(0, -4, shape[2]))
    side = max(shape[1:])
    square = torch.zeros(shape[0], side, side)
    square[:, : shape[1], : shape[2]] = matrices
    expected = orthogonalise(square)[:, : shape[1], : shape[2]]
    torch.testing.assert_close(orthogonalise(matrices), expected, atol=1e-4, rtol=1e-3)


def test_muon_step_is_the_orthogonal_gradient_whatever_its_scale():
    torch.manual_seed(0)
    for rows, columns, factor in ((8, 32, 1.0), (32, 8, 2.0)):
        gradient = torch.randn(rows, columns)
        for scale in (1e-3, 1e3):
            parameter = torch.nn.Parameter(torch.zeros(rows, columns))
            parameter.grad = gradient * scale
            Muon([parameter], lr=0.1).step()
            expected = -0.1 * factor * orthogonalise(gradient[None])[0]
            torch.testing.assert_close(parameter.data, expected, atol=1e-4, rtol=1e-3)


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match="only matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_growing_preserves_the_function_and_can_be_undone(corpus, options):
    model = noisy_model(options, corpus[1])
    tokens = torch.tensor(corpus[2][0].tokens)[None]
    grown = grow(model, 6, seed=0).eval()
    assert grown.config.num_hidden_layers == 6 and len(grown.model.layers) == 6
    torch.testing.assert_close(grown(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)
    new = [grown.model.layers[index] for index in (1, 2, 4, 5)]
    assert not torch.equal(new[0].mlp.up_proj.weight, new[1].mlp.up_proj.weight)
    torch.manual_seed(0)
    for block in new:
        torch.nn.init.normal_(block.mlp.down_proj.weight)
    assert not torch.allclose(grown(tokens).logits, model(tokens).logits, atol=0.1)
    shallow = without_blocks(grown, [1, 2, 4, 5]).eval()
    torch.testing.assert_close(shallow(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="multiple"):
        grow(model, 5, seed=0)


def test_growing_is_the_same_every_time_and_leaves_the_generator_alone(corpus, options):
    model = build_model(options, corpus[1])
    torch.manual_seed(1)
    first, draw = grow(model, 4, seed=0).state_dict(), torch.rand(1)
    torch.manual_seed(1)
    second = grow(model, 4, seed=0).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    assert torch.equal(draw, torch.rand(1))


def test_ablations_name_the_grown_blocks_and_every_third(options):
    assert ablations(dataclasses.replace(options, start_layers=3, layers=6)) == {
        "grown_blocks": [1, 3, 5],
        "blocks_0_to_1": [0, 1],
        "blocks_2_to_3": [2, 3],
        "blocks_4_to_5": [4, 5],
    }
    two = ablations(dataclasses.replace(options, start_layers=2, layers=2))
    assert two == {"grown_blocks": [], "blocks_0_to_0": [0], "blocks_1_to_1": [1]}


def test_an_untrained_model_repeats_a_sequence_it_has_just_seen(corpus, options):
    model = build_model(dataclasses.replace(options, hidden_size=256), corpus[1]).eval()
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(4, len(corpus[1]), (4, 40), generator=generator)
    predicted = model(torch.cat([half, half], 1)).logits[:, 40:-1].argmax(-1)
    assert (predicted == half[:, 1:]).float().mean() > 0.5


def test_learning_rate_warms_up_again_after_growing_and_ends_near_zero(options):
    options = dataclasses.replace(options, steps=100, grow_step=20, warmup_steps=5, decay_share=0.4)
    factors = np.array([learning_rate_factor(step, options) for step in range(100)])
    assert factors[0] == pytest.approx(0.2) and factors[19] == 1
    assert factors[20] == pytest.approx(0.2) and factors[25] == 1 and factors[59] == 1
    assert factors[80] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(1 / 40)


def test_a_checkpoint_serves_whoever_keeps_others_more_often(options):
    (options.prompts / "corpus").mkdir(parents=True, exist_ok=True)
    kept = fingerprint(options)
    assert fingerprint(dataclasses.replace(options, checkpoint_every=99)) == kept
    assert fingerprint(dataclasses.replace(options, steps=options.steps + 1)) != kept


def test_training_lowers_the_loss(corpus, options):
    options = dataclasses.replace(
        options, steps=30, grow_step=20, layers=4, evaluate_every=30, checkpoint_every=99
    )
    trainer = Trainer(options, build_model(options, corpus[1]), "")
    train(trainer, options, corpus[2], {"chat": pack(corpus[2][:4], 512)}, StageRun())
    losses = [entry["loss"] for entry in trainer.history]
    assert losses[0] > 6 and np.mean(losses[-5:]) < losses[0] - 1.5


class Killed(Exception):
    pass


def test_a_killed_run_continues_to_the_same_weights(corpus, options, monkeypatch):
    held_out = {"chat": pack(corpus[2][:2], 512)}
    whole = Trainer(options, build_model(options, corpus[1]), "same")
    train(whole, options, corpus[2], held_out, StageRun())
    for dies_at in (1, 2, 4, 5):  # in every depth, and just before and after growing
        killed_options = dataclasses.replace(options, state=options.state / str(dies_at))
        killed = Trainer(killed_options, build_model(options, corpus[1]), "same")
        original = Trainer.train_step

        def dies(trainer, rows, original=original, dies_at=dies_at):
            if trainer.step == dies_at:
                raise Killed
            return original(trainer, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", dies)
            with pytest.raises(Killed):
                train(killed, killed_options, corpus[2], held_out, StageRun())
        resumed = Trainer(killed_options, build_model(options, corpus[1]), "same")
        assert resumed.restore(killed_options.state) and resumed.step == dies_at
        train(resumed, killed_options, corpus[2], held_out, StageRun())
        assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_checkpoint_of_other_options_is_not_taken(corpus, options):
    Trainer(options, build_model(options, corpus[1]), "one").save(options.state)
    other = Trainer(options, build_model(options, corpus[1]), "another")
    assert not other.restore(options.state) and other.step == 0


@pytest.mark.parametrize("native", [True, False])
def test_stage_writes_a_model_folder_in_sixteen_bits(options, native, monkeypatch):
    monkeypatch.setattr("ltd.train_target.multiplies_bfloat16", lambda device: native)
    train_target(options, StageRun())
    model = AutoModelForCausalLM.from_pretrained(options.output)
    tokenizer = AutoTokenizer.from_pretrained(options.output)
    assert model.dtype == (torch.bfloat16 if native else torch.float16)
    assert model.config.num_hidden_layers == 4
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    ) == ("<|user|>Hi<|end|><|assistant|>")
    report = read_json(options.output / "training.json")
    assert {
        "final_loss.mean",
        "final_loss_without_grown_blocks.chat",
        "well_formed.maths",
        "faithful.chat",
        "loop.chat",
    } <= set(report["summary"])
    assert {sample["task"] for sample in report["samples"]} == set(TASKS)
    assert [entry["step"] for entry in report["history"]] == list(range(1, 7))
    json.dumps(report, allow_nan=False)
    assert not options.state.exists(), "asked for again, it would restore the finished training"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_are_rounded_to_the_type_that_will_be_used(corpus, options, kind):
    model = build_model(options, corpus[1])
    before = [parameter.clone() for parameter in model.parameters()]
    round_weights(model, kind)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old.to(kind).float())
    model.lm_head.weight.data[0, 0] = 3.4e38 if kind == torch.bfloat16 else 1e6
    with pytest.raises(InputError, match=r"lm_head\.weight overflow"):
        round_weights(model, kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 100}, "hidden_size: 100"),
        ({"layers": 4, "start_layers": 3}, "layers: 4"),
        ({"start_layers": 1}, "start_layers: 1"),
        ({"grow_step": 6}, "grow_step: 6"),
        ({"vocab_size": 100}, "vocab_size: 100"),
    ],
)
def test_impossible_options_are_refused(options, change, message):
    with pytest.raises(InputError, match=message):
        check_target(dataclasses.replace(options, **change))


def test_texts_without_answers_are_refused(tmp_path):
    write_jsonl(Path(tmp_path) / "qa.jsonl", [{"turns": ["a"], "reference": ["b"]}, {"turns": ["c"]}])
    with pytest.raises(InputError, match=r"qa\.jsonl, question 1: 1 turns and 0 answers"):
        read_conversations(tmp_path)
    with pytest.raises(InputError, match="no <task>"):
        read_conversations(tmp_path / "nothing")
