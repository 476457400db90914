"""The Python and the transformers interface, with a small saved model and head."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
)

from decoding_experiments import save_with_policies, save_words
from engine_models import RandomController, random_head, random_model, trained_tokenizer
from ltd.baselines.variants import BaselineController
from ltd.draft_head.eagle3 import save_head
from ltd.engine.controllers import StaticController
from ltd.engine.custom_generate import ltd_generate
from ltd.engine.decoding import decode_autoregressive
from ltd.engine.loading import room_for_trees
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.generate import Decoder, encode
from ltd.opponents.rule_controller import RuleController
from ltd.rl.policy_controller import PolicyController
from ltd.rl.replay_walk import ReplayWorld
from ltd.texts.prompts import ChatFormat
from saved_experiment import BEAM, MAX_DEPTH, random_policies
from synthetic import synthetic_profile, synthetic_traces

CONTROLLER = StaticController(3, 12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An experiment's folder with `target` and `draft`."""
    return save_words(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def target(folders):
    return TargetModel.load(folders / "target", device="cpu")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return save_with_policies(tmp_path_factory.mktemp("with_policies"))


def generate(target, folders, ids, **options):
    return target.model.generate(
        ids,
        custom_generate=ltd_generate,
        draft=folders / "draft",
        controller=CONTROLLER,
        beam=5,
        max_depth=3,
        **options,
    )


def random_engine_options(model):
    """What `model.generate` needs to decode with a random head."""
    head = random_head(TargetModel(model, max_context=64), draft_vocab=15)
    return {
        "custom_generate": ltd_generate,
        "draft": head,
        "controller": CONTROLLER,
        "beam": 5,
        "max_depth": 3,
        "do_sample": False,
    }


def test_generate_gives_the_tokens_of_transformers(target, folders):
    ids = torch.tensor([[3, 4, 5, 9]])
    for options in ({"max_new_tokens": 30}, {"max_length": 20}, {"max_new_tokens": 30, "eos_token_id": 7}):
        expected = target.model.generate(ids, do_sample=False, **options)
        assert generate(target, folders, ids, do_sample=False, **options).tolist() == expected.tolist()
    output = generate(target, folders, ids, max_new_tokens=5, return_dict_in_generate=True)
    assert output.sequences.shape == (1, 9)


def test_generate_samples_repeatably(target, folders):
    ids = torch.tensor([[3, 4, 5, 9]])
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(generate(target, folders, ids, do_sample=True, max_new_tokens=20, top_k=0).tolist())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"temperature": 1.4, "top_p": 0.6}, {"top_k": 3}])
def test_generate_samples_as_the_call_says(target, folders, options):
    ids = torch.tensor([[3, 4, 5, 9]])
    torch.manual_seed(1)
    seed = int(torch.randint(2**62, ()))
    plain = {"temperature": 1.0} | options
    expected = decode_autoregressive(target, ids, max_new_tokens=40, seed=seed, **plain).tokens
    assert (
        expected != decode_autoregressive(target, ids, max_new_tokens=40, seed=seed, temperature=1.0).tokens
    )
    torch.manual_seed(1)
    answer = generate(target, folders, ids, do_sample=True, max_new_tokens=40, **{"top_k": 0} | options)
    assert answer[0, 4:].tolist() == expected


def test_generate_streams_and_obeys_stopping_criteria(target, folders):
    ids = torch.tensor([[3, 4, 5, 9]])
    full = generate(target, folders, ids, max_new_tokens=20)[0, 4:].tolist()
    streamer = TextIteratorStreamer(target.tokenizer, skip_prompt=True, timeout=20)
    generate(target, folders, ids, max_new_tokens=20, streamer=streamer)
    assert "".join(streamer).split() == [f"w{token}" for token in full]
    criteria = StoppingCriteriaList([lambda ids, scores: ids[:, -1] == full[6]])
    stopped = generate(target, folders, ids, max_new_tokens=20, stopping_criteria=criteria)
    assert stopped[0, 4:].tolist() == full[: full.index(full[6]) + 1]


def test_generate_stops_at_strings():
    """One that spans tokens ends the answer at the token that completes it."""
    tokenizer = trained_tokenizer()
    model = random_model("qwen3", vocab=len(tokenizer))
    prompt, engine = tokenizer("The quick", return_tensors="pt")["input_ids"], random_engine_options(model)
    full = model.generate(prompt, **engine, max_new_tokens=20)[0, prompt.shape[1] :].tolist()
    stopped = 0
    for last in range(2, 12):
        strings = [tokenizer.decode(full[last - 2 : last])]
        usual = {"stop_strings": strings, "tokenizer": tokenizer, "do_sample": False}
        expected = model.generate(prompt, max_new_tokens=20, **usual)
        criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, strings)])
        found = model.generate(prompt, **engine, max_new_tokens=20, stopping_criteria=criteria)
        assert found.tolist() == expected.tolist()
        stopped += found.shape[1] < prompt.shape[1] + 20
    assert stopped  # not every pair of bytes is a text


def test_generate_within_a_sliding_window():
    model, prompt = random_model("mistral", sliding_window=64), torch.tensor([[3, 4, 5, 9]])
    engine = random_engine_options(model)
    with pytest.raises(InputError, match="use max_context of at most 64"):
        model.generate(prompt, **engine, max_new_tokens=80, max_context=80)
    expected = model.generate(prompt, max_new_tokens=40, do_sample=False)
    found = model.generate(prompt, **engine, max_new_tokens=40, max_context=64)
    assert found.tolist() == expected.tolist()
    with pytest.warns(UserWarning, match="answer cut after 61 tokens"):
        assert model.generate(prompt, **engine, max_new_tokens=80, max_context=64).shape[1] == 65


def test_generate_ignores_left_padding(target, folders):
    ids, mask = torch.tensor([[0, 0, 3, 4, 5]]), torch.tensor([[0, 0, 1, 1, 1]])
    padded = generate(target, folders, ids, attention_mask=mask, max_new_tokens=10)
    plain = generate(target, folders, ids[:, 2:], max_new_tokens=10)
    assert padded[0, 5:].tolist() == plain[0, 3:].tolist()


def test_generate_drafts_the_trees_that_policies_were_fitted_to(experiment):
    """As README.md calls it."""
    model = AutoModelForCausalLM.from_pretrained(experiment / "target", dtype=torch.float32)
    inputs = {"inputs": torch.tensor([[3, 4, 5, 9]]), "do_sample": False, "max_new_tokens": 30}
    controller, draft = PolicyController.load(experiment / "policies/ltd/best"), str(experiment / "draft")
    drafting = {"custom_generate": ltd_generate, "draft": draft, "controller": controller}
    assert model.generate(**inputs, **drafting).tolist() == model.generate(**inputs).tolist()
    with pytest.raises(InputError, match=f"fitted to trees of beam {BEAM} and depth {MAX_DEPTH}"):
        model.generate(**inputs, **drafting, beam=BEAM + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 3}, "beam_search is not supported"),
        ({"repetition_penalty": 1.5}, "RepetitionPenaltyLogitsProcessor"),
        ({"min_new_tokens": 3, "eos_token_id": 1}, "MinLengthLogitsProcessor"),
        ({"num_return_sequences": 2, "do_sample": True}, "batch size 1"),
    ],
)
def test_generate_refuses_what_it_cannot_do(target, folders, options, message):
    with pytest.raises(InputError, match=message):
        generate(target, folders, torch.tensor([[3, 4]]), max_new_tokens=5, **options)


def test_python_interface(folders, target):
    decoder = Decoder.load(folders / "target", folders / "draft", CONTROLLER, beam=5, device="cpu")
    text = decoder.answer("w3 w4", max_new_tokens=12)
    expected = decode_autoregressive(target, [3, 4, 1], max_new_tokens=12).tokens
    assert text.split() == [f"w{token}" for token in expected]


def test_sampled_answers_differ_unless_torchs_seed_is_set(folders):
    decoder = Decoder.load(folders / "target", folders / "draft", CONTROLLER, beam=5, device="cpu")
    sampled = partial(decoder.answer, "w3 w4", max_new_tokens=12, temperature=1.0)
    torch.manual_seed(0)
    first, second = sampled(), sampled()
    torch.manual_seed(0)
    assert first != second and sampled() == first and sampled(seed=1) == sampled(seed=1)


def test_a_decoder_puts_prompts_into_the_form_of_its_head(folders):
    form = ChatFormat(template="w5 {{ messages[0]['content'] }}")
    given = Decoder.load(folders / "target", folders / "draft", CONTROLLER, beam=5, device="cpu", form=form)
    assert given.encode("w3") == encode(given.target.tokenizer, "w3", form) != [3, 1]


def test_trees_are_those_that_the_controller_was_fitted_to(folders):
    controller = StaticController(2, 5)
    controller.tree = 3, 4
    load = partial(Decoder.load, folders / "target", folders / "draft", controller, device="cpu")
    drafter = load().drafter
    assert (drafter.beam, drafter.max_depth) == controller.tree
    with pytest.raises(InputError, match="fitted to trees of beam 3 and depth 4"):
        load(beam=5).answer("w3", max_new_tokens=5)


@pytest.mark.parametrize("option", ["beam", "max_depth"])
def test_trees_without_a_node_are_refused(option):
    with pytest.raises(InputError, match=f"{option}: 0 is not at least 1"):
        Decoder.load("nowhere", "nowhere", CONTROLLER, **{option: 0})


def policies_of_sizes(folder, sizes):
    trees = {"beam": BEAM, "max_depth": MAX_DEPTH}
    random_policies(folder, ReplayWorld(synthetic_traces(**trees), synthetic_profile(**trees), sizes))
    return PolicyController.load(folder)


def test_room_is_for_the_largest_tree_of_the_controller(tmp_path, monkeypatch):
    # Of the rule its sizes alone count.
    monkeypatch.setattr("ltd.opponents.rule_controller._decisions", lambda rule: None)
    rule = SimpleNamespace(sizes=(1, 400), max_depth=4, asked=bool)
    controllers = [
        StaticController(5, 400),
        PolicyController(3, 400),
        policies_of_sizes(tmp_path / "policies", (1, 400)),
        BaselineController("svip", 8, 400),
        RuleController(rule),
    ]
    assert [room_for_trees(controller) for controller in controllers] == [400] * 5
    assert room_for_trees(CONTROLLER) == room_for_trees(RandomController()) == 256


def test_trees_may_be_larger_than_is_usual(folders, target):
    size, options = 300, {"beam": 14, "max_depth": 5, "device": "cpu"}
    decoder = Decoder.load(folders / "target", folders / "draft", StaticController(5, size), **options)
    text = decoder.answer("w3 w4", max_new_tokens=12)
    expected = decode_autoregressive(target, [3, 4, 1], max_new_tokens=12).tokens
    assert text.split() == [f"w{token}" for token in expected]


def test_a_window_limits_what_there_is_room_for(tmp_path):
    """As positions do, where no context is asked for; prompts that outgrow either are refused."""
    tokenizer = trained_tokenizer()
    model = random_model("mistral", half_weights=True, vocab=len(tokenizer), sliding_window=64)
    model.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    save_head(random_head(TargetModel(model, max_context=64), draft_vocab=15), tmp_path / "draft")
    load = partial(Decoder.load, tmp_path / "target", tmp_path / "draft", CONTROLLER, beam=5, device="cpu")
    decoder = load()
    assert decoder.target.max_context == 64
    with pytest.raises(
        InputError, match=r"prompt: \d+ tokens are more than the 64 that .* shorten the prompt"
    ):
        decoder.answer("The quick brown fox" * 20, max_new_tokens=5)
    with pytest.raises(InputError, match="use max_context of at most 64"):
        load(max_context=65)
