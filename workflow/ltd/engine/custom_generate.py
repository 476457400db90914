"""Speculative decoding inside transformers: `model.generate(**inputs, custom_generate=ltd_generate, ...)`.

transformers prepares the inputs and hands over here in place of its own decoding loop; lengths, sampling
options, stopping criteria and streamers are those of the call.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    GenerationMixin,
    GenerationMode,
    MaxLengthCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.context_limits import check_prompt
from ltd.engine.controllers import Controller, tree_for
from ltd.engine.decoding import decode
from ltd.engine.kept_engine import borrowed_engine
from ltd.engine.loading import room_for_trees
from ltd.errors import InputError

OWN_PROCESSORS = {
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
}
OWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria)
OUTPUTS = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")
KNOWN_INPUTS = ("attention_mask", "position_ids")  # tensors that say where the prompt's tokens are


def ltd_generate(
    model: nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    draft: str | Path | Eagle3Head,
    controller: Controller,
    beam: int | None = None,
    max_depth: int | None = None,
    max_context: int | None = None,
    **prepared,
) -> Tensor | GenerateDecoderOnlyOutput:
    """The callable for `custom_generate`; `draft` (an Eagle3 head or its folder) and `controller` are
    passed on. Trees have `beam` and `max_depth` (None: those that the controller was fitted to, 10 and 12 for
    one that suits all).

    Prompt and answer have room for `max_context` tokens (None: for what the call may generate, as far as the
    model can hold it), which may not be more than a sliding window of the model. The model keeps the engine
    for later calls, until its weights change. On a CPU load it with `dtype=torch.float32`: transformers keeps
    a file of 16 bits in 16 bits, for which the engine is not compiled, and where tokens may differ from those
    of plain decoding at near-ties.

    Give `stop_strings` as a `StopStringCriteria` among the stopping criteria: transformers 5.23 hands no
    tokenizer on to a callable's call.

    input_ids [1, n]. Returns ids [1, n + new], or the model output when `return_dict_in_generate`. With
    `do_sample` the seed comes from torch's global generator, so `torch.manual_seed` makes answers repeat.
    Raises InputError for batches, beams, logits processors other than temperature, top-k and top-p, inputs
    other than tokens, outputs other than tokens, an assistant model, prompts that the model cannot hold, and
    while another call with this model has not ended.
    """
    _check(input_ids, generation_config)
    _check_processors(logits_processor, generation_config)
    _check_inputs(input_ids, prepared, generation_config)
    streamer = _callers("streamer")
    mask = prepared.get("attention_mask")
    prompt = input_ids[0] if mask is None else input_ids[0][mask[0].bool()]
    lengths = [one.max_length for one in stopping_criteria if type(one) is MaxLengthCriteria]
    limit = max(1, min(lengths) - input_ids.shape[1])  # criteria are asked after a token
    beam, max_depth = tree_for(controller, beam, max_depth)
    max_tree = room_for_trees(controller)
    check_prompt(model.config.get_text_config().to_dict(), max_tree, len(prompt), "the model")
    if max_context is not None and max_context < 1:
        raise InputError(f"max_context: {max_context} is not at least 1")
    sampling = {}
    if generation_config.do_sample:
        sampling = {
            "temperature": generation_config.temperature or 1.0,
            "top_k": generation_config.top_k or None,
            "top_p": generation_config.top_p,
            "seed": int(torch.randint(2**62, ())),
        }
    other = [criterion for criterion in stopping_criteria if type(criterion) not in OWN_CRITERIA]

    def stop(answer: list[int]) -> bool:
        ids = torch.cat([input_ids[0], input_ids.new_tensor(answer)])[None]
        return any(bool(torch.as_tensor(criterion(ids, None)).all()) for criterion in other)

    # Nobody asks what follows the last token.
    sizes = {"beam": beam, "max_depth": max_depth, "max_tree": max_tree, "max_context": max_context}
    with borrowed_engine(model, draft, needed=len(prompt) + limit - 1, **sizes) as (target, drafter):
        result = decode(
            target,
            drafter,
            controller,
            prompt,
            max_new_tokens=limit,
            eos_ids=_end_tokens(stopping_criteria),
            on_tokens=(lambda ids: streamer.put(torch.tensor(ids))) if streamer is not None else None,
            stop=stop if other else None,
            **sampling,
        )
    if streamer is not None:
        streamer.end()
    sequences = torch.cat([input_ids[0], input_ids.new_tensor(result.tokens)])[None]
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=sequences)
    return sequences


def _callers(argument: str) -> Any:
    """An argument of the `generate` call that we are in: transformers 5.23 passes neither `streamer` nor
    `assistant_model` to callables.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame.f_locals.get(argument) if frame is not None else None


def _check(input_ids: Tensor, config: GenerationConfig) -> None:
    if _callers("assistant_model") is not None:
        raise InputError("ltd_generate: assistant_model is not supported; leave it out, `draft` drafts")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(f"ltd_generate: {mode.value} is not supported; use greedy decoding or sampling")
    if input_ids.shape[0] != 1:
        raise InputError(f"ltd_generate: batch size 1 is supported, found {input_ids.shape[0]} sequences")
    asked = [name for name in OUTPUTS if getattr(config, name)]
    if asked and config.return_dict_in_generate:
        raise InputError(f"ltd_generate: {', '.join(asked)} is not supported; tokens alone are returned")


def _check_processors(processors: LogitsProcessorList, config: GenerationConfig) -> None:
    """Refuse what changes logits otherwise than `generation_config` says by temperature, top_k and top_p."""
    for processor in processors:
        if type(processor) not in OWN_PROCESSORS:
            raise InputError(
                f"ltd_generate: {type(processor).__name__} is not supported; temperature, top_k and top_p "
                "are; where the model's generation_config asks for it, switch it off in the call, as "
                "repetition_penalty=1.0 does"
            )
    for kind, name in OWN_PROCESSORS.items():
        values = [getattr(processor, name) for processor in processors if type(processor) is kind]
        if values not in ([], [getattr(config, name)]):
            raise InputError(
                f"ltd_generate: {kind.__name__} among the logits processors differs from {name} of the call; "
                f"give {name} to generate instead"
            )


def _check_inputs(input_ids: Tensor, prepared: dict[str, Any], config: GenerationConfig) -> None:
    """Refuse inputs beside the tokens, among them a cache of tokens that are not in `input_ids`."""
    for name, value in prepared.items():
        if isinstance(value, Tensor) and name not in KNOWN_INPUTS:
            raise InputError(f"ltd_generate: {name} is not supported; give the prompt as input_ids alone")
    cache, mask = prepared.get("past_key_values"), prepared.get("attention_mask")
    # transformers drops a mask that hides nothing, and keeps its length.
    length = getattr(config, "_mask_length", input_ids.shape[1]) if mask is None else mask.shape[1]
    if cache is not None and cache.get_seq_length() and length != input_ids.shape[1]:
        raise InputError(
            "ltd_generate: past_key_values holds tokens that input_ids lacks; give all of them as input_ids"
        )
    if (positions := prepared.get("position_ids")) is not None:
        seen = slice(None) if mask is None else mask[0].bool()
        counted = positions[0, -input_ids.shape[1] :][seen]
        if counted.tolist() != list(range(len(counted))):
            raise InputError(
                "ltd_generate: position_ids other than 0, 1, 2, ... are not supported; leave them out"
            )


def _end_tokens(criteria: StoppingCriteriaList) -> list[int]:
    found = [one.eos_token_id.flatten().tolist() for one in criteria if type(one) is EosTokenCriteria]
    return [token for tokens in found for token in tokens]
