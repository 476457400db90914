"""Answer a prompt with the models of an experiment: stream the text, then say how fast it was.

    python -m ltd.generate --experiment results/default --prompt "How does a piano work?"

Decodes with the experiment's trained policies, or with a fixed depth and size if both are given, and once
more without drafting to measure the speedup.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from ltd.devices import set_threads
from ltd.engine.context_limits import check_prompt, longest_context
from ltd.engine.controllers import Controller, StaticController, tree_for
from ltd.engine.custom_generate import ltd_generate
from ltd.engine.decoding import Generation, decode, decode_autoregressive
from ltd.engine.drafting import Drafter
from ltd.engine.loading import load_engine, room_for_trees
from ltd.engine.model_loading import load_tokenizer, read_config
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import DEFAULT_TREE, TargetModel
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.made_with import kept
from ltd.options import DTYPES, QUANTISATIONS, DeviceOptions, option, parse_options
from ltd.replay.latency import LatencyProfile
from ltd.rl.policy_controller import PolicyController
from ltd.texts.prompts import OWN_FORMAT, ChatFormat, chat_format, render

__all__ = ["Decoder", "GenerateOptions", "ltd_generate", "main"]

WARM_UP_TOKENS = 8
RECORDED = "recorded"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DeviceOptions):
    """Options of the command."""

    prompt: str = option(help="what the user says")
    experiment: Path = option(Path("results/default"), "folder of the experiment")
    target: str | None = option(None, "target model, folder or hub id; none: the experiment's own")
    dtype: str = option(
        RECORDED,
        "number type of target and head; recorded: that of the experiment's config.json, or auto: the "
        "file's, on a CPU float32 where it does not multiply that",
        choices=(RECORDED, *DTYPES),
    )
    quantisation: str = option(
        RECORDED,
        "precision of the target's weights; recorded: that of the experiment's config.json, or none",
        choices=(RECORDED, *QUANTISATIONS),
    )
    draft: str | None = option(
        None, "Eagle3 head, folder or hub id, with its own rotary base; none: the experiment's own"
    )
    policies: Path | None = option(None, "folder of trained policies; none: the experiment's tuned ones")
    profile: Path | None = option(
        None, "latency profile of this machine, for policies that observe it; none: that of their training"
    )
    depth: int | None = option(None, "fixed draft depth instead of policies; needs --size")
    size: int | None = option(None, "fixed number of verified nodes instead of policies; needs --depth")
    beam: int | None = option(None, "beam of a fixed depth and size, none: 10; policies bring their own")
    max_new_tokens: int = option(256, "largest number of tokens of the answer")
    temperature: float = option(0.0, "0 is greedy")
    top_k: int | None = option(None, "sample among the k most probable tokens")
    top_p: float | None = option(None, "sample among the most probable tokens of this total probability")
    seed: int = option(0, "seed of sampling")
    threads: int = option(0, "threads of the CPU kernels; 0 takes all cores")
    system: str | None = option(
        None, "system prompt, empty for the chat template's own; none: that of the experiment's config.json"
    )
    chat_template: str | None = option(
        None, "file with a Jinja template; none: that of the experiment's config.json, or the tokenizer's own"
    )
    thinking: str | None = option(
        None,
        "thinking mode of templates that have one; none: that of the experiment's config.json, or template",
        choices=("template", "on", "off"),
    )
    compare: bool = option(True, "decode again without drafting, for the speedup and a check of the tokens")


@dataclass(frozen=True)
class Decoder:
    """A target with its drafter and controller: the Python interface in two lines.

    decoder = Decoder.load("target", "draft", StaticController(3, 8))
    text = decoder.answer("What is the capital of France?", max_new_tokens=100)
    """

    target: TargetModel
    drafter: Drafter
    controller: Controller
    form: ChatFormat = OWN_FORMAT

    @classmethod
    def load(
        cls,
        target: str | Path,
        draft: str | Path,
        controller: Controller,
        *,
        beam: int | None = None,
        max_depth: int | None = None,
        max_context: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantisation: str = "none",
        form: ChatFormat = OWN_FORMAT,
    ) -> "Decoder":
        """Read both models; raises InputError when either is missing or does not fit the other.

        Trees have `beam` and `max_depth` (None: those that the controller was fitted to, 10 and 12 for one
        that suits all). There is room for the largest that the controller asks for, and for `max_context`
        tokens of prompt and answer (None: 1024, or as many as the target can hold). `form` is how a prompt
        becomes a conversation, as head and policies have learned it.
        """
        beam, max_depth = tree_for(controller, beam, max_depth)
        loaded = load_engine(
            target,
            draft,
            beam=beam,
            max_depth=max_depth,
            max_context=max_context,
            max_tree=room_for_trees(controller),
            device=device,
            dtype=dtype,
            quantisation=quantisation,
        )
        return cls(*loaded, controller, form)

    def encode(self, prompt: str) -> list[int]:
        """Ids of a user's turn, through the tokenizer's chat template where it has one."""
        return encode(self.target.tokenizer, prompt, self.form)

    def answer(self, prompt: str, *, max_new_tokens: int, **sampling) -> str:
        """Text of the answer; sampling options as for `ltd.engine.decoding.decode`, but that without a `seed`
        torch's global generator gives one.
        """
        sampling.setdefault("seed", int(torch.randint(2**62, ())))
        tokens = self.encode(prompt)
        result = decode(
            self.target,
            self.drafter,
            self.controller,
            tokens,
            max_new_tokens=max_new_tokens,
            **sampling,
        )
        return self.target.tokenizer.decode(result.tokens, skip_special_tokens=True)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, form: ChatFormat = OWN_FORMAT) -> list[int]:
    """Ids of a user's turn, through a chat template where there is one."""
    if form.template or tokenizer.chat_template:
        return render(tokenizer, [prompt], [], form)
    return tokenizer(prompt)["input_ids"]


def choose_controller(options: GenerateOptions) -> tuple[Controller, int, int]:
    """Controller, beam and largest depth that the options ask for."""
    if (options.depth is None) != (options.size is None):
        raise InputError("depth, size: give both for a fixed setting, or neither for the trained policies")
    if options.depth is not None:
        if options.policies or options.profile:
            raise InputError(
                "depth, size: a fixed setting has no --policies or --profile; give one or the other"
            )
        controller = StaticController(options.depth, options.size)
        beam, max_depth = tree_for(controller, options.beam, max(options.depth, 1))
        if options.size > (most := max(DEFAULT_TREE, pool_size(beam, max_depth))):
            raise InputError(f"size: {options.size} is not between 1 and {most}")
        return controller, beam, max_depth
    folder = options.policies or options.experiment / "policies" / "ltd" / "best"
    if not folder.is_dir():
        raise InputError(f"{folder}: no trained policies there; give --policies, or --depth and --size")
    if options.beam is not None:
        raise InputError("beam: policies bring their own; give it beside --depth and --size alone")
    machine = None if options.profile is None else LatencyProfile.load(options.profile)
    controller = PolicyController.load(folder, profile=machine)
    return controller, *tree_for(controller, None, None)


def check_room(target: str | Path, prompt: int, new: int, max_tree: int) -> None:
    """Raise InputError when a target has no room for so many tokens of a prompt and its answer."""
    limits = read_config(target).get_text_config().to_dict()
    check_prompt(limits, max_tree, prompt, str(target))
    longest = longest_context(limits, max_tree)
    if longest is not None and prompt + new - 1 > longest:
        raise InputError(
            f"max_new_tokens: {new} after a prompt of {prompt} tokens are more than the {longest} that "
            f"{target} can hold; ask for at most {longest - prompt + 1}"
        )


def form_of(options: GenerateOptions) -> ChatFormat:
    """How the prompt becomes a conversation: as the options say, otherwise as for the answers that head and
    policies of the experiment have learned from, where its target decodes.
    """
    learned = _made_with(options).get("responses", {})

    def chosen(name: str) -> str | None:
        given = getattr(options, name)
        return learned.get(name) if given is None else given

    return chat_format(chosen("system"), chosen("chat_template"), chosen("thinking") or "template")


def computing(options: GenerateOptions) -> dict[str, str]:
    """Number type and precision: as the options say, otherwise as of the experiment whose target decodes."""
    recorded = {"dtype": "auto", "quantisation": "none"} | _made_with(options)
    given = {"dtype": options.dtype, "quantisation": options.quantisation}
    return {key: recorded[key] if value == RECORDED else value for key, value in given.items()}


def target_of(options: GenerateOptions) -> str | Path:
    """The target that decodes: the one given, otherwise the experiment's own, trained there or named in its
    config.json; raises InputError where there is none.
    """
    if options.target is not None:
        return options.target
    trained = options.experiment / "target"
    named = _made_with(options).get("target", {}).get("path")
    if named is None and not trained.is_dir():
        raise InputError(f"{trained}: no target was trained there; give the experiment's own as --target")
    return named or trained


def _made_with(options: GenerateOptions) -> dict[str, Any]:
    """What the experiment was made with, where its target decodes; otherwise nothing."""
    config = kept(options.experiment)
    return config if config and _is_own(options, config["target"]["path"]) else {}


def _is_own(options: GenerateOptions, path: str | None) -> bool:
    """Whether the target that decodes is the experiment's, whose `target.path` is given."""
    own = options.experiment / "target" if path is None else path
    if options.target in (None, str(own)):
        return True
    return Path(options.target).is_dir() and Path(options.target).resolve() == Path(own).resolve()


def generate(options: GenerateOptions) -> None:
    """Stream the answer to standard output and its speed to standard error."""
    controller, beam, max_depth = choose_controller(options)
    settings = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    SamplingOptions(**settings)  # refuses what cannot be, before models are read
    if options.max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {options.max_new_tokens} is not at least 1")
    form = form_of(options)
    name = target_of(options)
    tokenizer = load_tokenizer(name)
    if not (form.template or tokenizer.chat_template):
        print(
            f"generate: the tokenizer of {name} has no chat template, the prompt is taken as it is; give one "
            "with --chat-template",
            file=sys.stderr,
        )
    prompt = encode(tokenizer, options.prompt, form)
    check_room(name, len(prompt), options.max_new_tokens, room_for_trees(controller))
    decoder = Decoder.load(
        name,
        options.draft or options.experiment / "draft",
        controller,
        beam=beam,
        max_depth=max_depth,
        max_context=len(prompt) + options.max_new_tokens - 1,  # nobody asks what follows the last token
        device=options.device,
        **computing(options),
    )
    settings |= {"max_new_tokens": options.max_new_tokens, "seed": options.seed}
    target, drafter = decoder.target, decoder.drafter
    warm_up = min(WARM_UP_TOKENS, options.max_new_tokens)
    decode(target, drafter, controller, prompt, **settings | {"max_new_tokens": warm_up})
    streamer = TextStreamer(target.tokenizer, skip_special_tokens=True)
    result = decode(
        target,
        drafter,
        controller,
        prompt,
        on_tokens=lambda ids: streamer.put(torch.tensor(ids)),
        **settings,
    )
    streamer.end()
    plain = decode_autoregressive(target, prompt, **settings) if options.compare else None
    print(summary(result, plain), file=sys.stderr)


def summary(result: Generation, plain: Generation | None) -> str:
    """One line: tokens per second, acceptance length, and against decoding without drafting where
    measured.
    """
    if not result.cycles:
        return f"{len(result.tokens)} token"
    speed = (len(result.tokens) - 1) / result.seconds
    length = (len(result.tokens) - 1) / len(result.cycles)
    words = [
        f"{len(result.tokens)} tokens",
        f"{speed:.1f} tokens/s",
        f"acceptance length {length:.2f} over {len(result.cycles)} cycles",
    ]
    if plain is not None:
        same = "the same tokens" if plain.tokens == result.tokens else "NOT the same tokens (a near-tie?)"
        gain = speed / ((len(plain.tokens) - 1) / plain.seconds)
        words.append(f"speedup {gain:.2f}x over decoding without drafting, {same}")
    return ", ".join(words)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and answer; wrong input is one line and exit status 2."""
    options = parse_options(GenerateOptions, __doc__, argv)
    try:
        set_threads(options.threads)
        generate(options)
    except InputError as error:
        print(f"generate: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
