"""The command and the transformers interface, with a small saved model and head."""

import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedTokenizerFast,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
)

from engine_models import VOCAB, RandomController, random_head, random_model, trained_tokenizer
from ltd.baselines.variants import BaselineController
from ltd.benchmark_engine import main as benchmark_engine
from ltd.bfloat16 import in_bfloat16
from ltd.draft_head.eagle3 import save_head
from ltd.engine.controllers import StaticController
from ltd.engine.custom_generate import ltd_generate
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.loading import room_for_trees
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.files import write_json
from ltd.generate import Decoder, encode, main
from ltd.opponents.rule_controller import RuleController
from ltd.replay.latency import LatencyProfile
from ltd.rl.machine import machine_width
from ltd.rl.policies import PolicyNetwork, load_policy, save_policies
from ltd.rl.policy_controller import PolicyController
from ltd.rl.replay_walk import ReplayWorld
from ltd.texts.prompts import ChatFormat
from saved_engine import save_engine
from saved_experiment import BEAM, MAX_DEPTH, made_up_world, random_policies
from synthetic import synthetic_profile, synthetic_traces

CONTROLLER = StaticController(3, 12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An experiment's folder with `target` and `draft`."""
    experiment = tmp_path_factory.mktemp("experiment")
    model = random_model("qwen3", half_weights=True, max_position_embeddings=2048)
    model.save_pretrained(experiment / "target")
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} w1 {% endfor %}"
    tokenizer.save_pretrained(experiment / "target")
    save_head(random_head(TargetModel(model), draft_vocab=15), experiment / "draft")
    return experiment


@pytest.fixture(scope="module")
def target(folders):
    return TargetModel.load(folders / "target", device="cpu")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Another with policies in the place of tuned ones, some that observe the machine, and a profile."""
    experiment, world = tmp_path_factory.mktemp("with_policies"), made_up_world()
    save_engine(experiment)
    tuned, observing = experiment / "policies/ltd/best", experiment / "observing"
    random_policies(tuned, world)
    observing.mkdir()
    kinds = ("depth", "size")
    save_policies(observing, *(that_observes_the_machine(load_policy(tuned, kind)) for kind in kinds))
    world.profile.save(experiment / "profile.json")
    return experiment


def that_observes_the_machine(policy):
    """The same policy, which the numbers of a machine tell something, too; its file will name none."""
    (weight, bias), *rest = policy.network.layers
    spec = replace(policy.spec, parts=(*policy.spec.parts, "machine"))
    machine = np.random.default_rng(0).standard_normal((len(weight), machine_width(spec.sizes)))
    seen = np.hstack([weight, machine])
    return replace(policy, network=PolicyNetwork([(seen, bias), *rest]), spec=spec)


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


def test_trees_may_be_larger_than_is_usual(folders, target, capsys):
    size, options = 300, {"beam": 14, "max_depth": 5, "device": "cpu"}
    decoder = Decoder.load(folders / "target", folders / "draft", StaticController(5, size), **options)
    text = decoder.answer("w3 w4", max_new_tokens=12)
    expected = decode_autoregressive(target, [3, 4, 1], max_new_tokens=12).tokens
    assert text.split() == [f"w{token}" for token in expected]
    command_decodes(folders, capsys, "--depth", 5, "--size", size, "--beam", 14)


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


@pytest.mark.parametrize(
    ("dtype", "context", "sampling", "said"),
    [
        ("float32", 1100, [], "greedy"),
        ("bfloat16", 20, ["--temperature", "0.8", "--top-p", "0.9"], "temperature 0.8, top_p 0.9"),
    ],
)
def test_engine_benchmark_prints_every_phase(folders, capsys, monkeypatch, dtype, context, sampling, said):
    # Its steps and verifications are those of decoding, which on a CPU takes another way than these.
    for name in ("step", "verify"):
        monkeypatch.delattr(TargetModel, name)
    rounding, samples, generate = [], [], GenerationMixin.generate

    def watched(model, *args, **options):
        rounding.append(in_bfloat16(model))
        samples.append(options["do_sample"] and (options["temperature"], options["top_k"], options["top_p"]))
        return generate(model, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    models = {"target": folders / "target", "draft": folders / "draft", "device": "cpu", "dtype": dtype}
    sizes = {"rounds": 1, "repetitions": 2, "beam": 4, "depth": 2, "size": 3, "threads": 1}
    options = models | sizes | {"context": context}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    benchmark_engine([*flags, "--sizes", "1", "3", *sampling])
    table = capsys.readouterr().out
    for phase in (
        "draft prefix pass, 1 row",
        "draft step",
        "verification of 1",
        "verification of 3",
        "cycle of depth 1, size 1",
        "rest of cycle of depth 2, size 3",
        "rest of autoregressive cycle",
    ):
        assert f"| {phase} | " in table
    # A prefill more and one less may take longer than two tokens of so small a model.
    numbers = r"\| -?[\d.]+ \| -?[\d.]+ \| -?[\d.]+ \| -?[1-9]\d* \|"
    for phase in ("transformers generate", "autoregressive step", "autoregressive step, float32 layers"):
        assert re.search(rf"\| {phase} {numbers}", table), phase
    assert f", torch.{dtype}, 36 packed layers, context {context}, {said}\n" in table
    assert set(samples) == {(0.8, 0, 0.9) if sampling else False}
    assert re.search(r"copy bandwidth [\d.]+ GB/s: at least [\d.]+ ms a step", table)
    assert re.search(r"autoregressive step: -?[\d.]+x faster than transformers, [\d.]+x the bandwidth", table)
    assert "; rest of cycle of depth 1, size 1: " in table
    assert rounding and not any(rounding)  # plain transformers spends no time on roundings
