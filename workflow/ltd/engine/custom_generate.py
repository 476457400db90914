"""Speculative decoding inside transformers: `model.generate(**inputs, custom_generate=ltd_generate, ...)`.

transformers prepares the inputs and hands over here in place of its own decoding loop; lengths, sampling
options, stopping criteria and streamers are those of the call.
"""

import gc
import inspect
from pathlib import Path

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
from transformers.generation.streamers import BaseStreamer

from ltd.draft_head.eagle3 import Eagle3Head, load_head
from ltd.engine.controllers import Controller, tree_for
from ltd.engine.decoding import decode
from ltd.engine.drafting import Drafter
from ltd.engine.loading import make_drafter
from ltd.engine.target import DEFAULT_CONTEXT, TargetModel
from ltd.errors import InputError

Engine = tuple[TargetModel, Drafter]
OWN_PROCESSORS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
OWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria)


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

    Prompt and answer have room for `max_context` tokens (None: for what the call may generate, 1024 at
    least); a model with a sliding window needs one that is not larger than the window. On a CPU load the
    model with `dtype=torch.float32`: transformers keeps a file of 16 bits in 16 bits, for which the engine
    is not compiled, and where tokens may differ from those of plain decoding at near-ties.

    Give `stop_strings` as a `StopStringCriteria` among the stopping criteria: transformers 5.23 hands no
    tokenizer on to a callable's call.

    input_ids [1, n]. Returns ids [1, n + new], or the model output when `return_dict_in_generate`. With
    `do_sample` the seed comes from torch's global generator, so `torch.manual_seed` makes answers repeat.
    Raises InputError for batches, beams and logits processors other than temperature, top-k and top-p.
    """
    _check(input_ids, logits_processor, generation_config)
    streamer = _callers_streamer()
    mask = prepared.get("attention_mask")
    prompt = input_ids[0] if mask is None else input_ids[0][mask[0].bool()]
    limit = generation_config.max_length - input_ids.shape[1]
    context = max_context or max(DEFAULT_CONTEXT, 1 << (len(prompt) + limit - 1).bit_length())
    target, drafter = _engine(model, draft, *tree_for(controller, beam, max_depth), context)
    sampling = {}
    if generation_config.do_sample:
        sampling = {
            "temperature": generation_config.temperature or 1.0,
            "top_k": generation_config.top_k or None,
            "top_p": generation_config.top_p,
            "seed": int(torch.randint(2**62, ())),
        }
    other = [criterion for criterion in stopping_criteria if not isinstance(criterion, OWN_CRITERIA)]

    def stop(answer: list[int]) -> bool:
        ids = torch.cat([input_ids[0], input_ids.new_tensor(answer)])[None]
        return any(bool(criterion(ids, None).all()) for criterion in other)

    result = decode(
        target,
        drafter,
        controller,
        prompt,
        max_new_tokens=limit,
        eos_ids=_end_tokens(generation_config),
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


def _callers_streamer() -> BaseStreamer | None:
    """The `streamer` of the `generate` call that we are in: transformers 5.23 does not pass it to
    callables.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame.f_locals.get("streamer") if frame is not None else None


def _check(input_ids: Tensor, processors: LogitsProcessorList, config: GenerationConfig) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(f"ltd_generate: {mode.value} is not supported; use greedy decoding or sampling")
    if input_ids.shape[0] != 1:
        raise InputError(f"ltd_generate: batch size 1 is supported, found {input_ids.shape[0]} sequences")
    for processor in processors:
        if not isinstance(processor, OWN_PROCESSORS):
            raise InputError(
                f"ltd_generate: {type(processor).__name__} depends on what came before, which tree "
                "verification does not follow; temperature, top_k and top_p are supported"
            )


def _engine(
    model: nn.Module, draft: str | Path | Eagle3Head, beam: int, max_depth: int, context: int
) -> Engine:
    """Target and drafter for `context` tokens; the model keeps them, for packing takes longer than an
    answer.
    """
    source = draft if isinstance(draft, Eagle3Head) else str(draft)
    key = (source, beam, max_depth, context)
    known_key, engine = getattr(model, "_ltd_engine", None) or (None, None)
    if known_key != key:
        # The old engine goes first: with two of them fused and packed weights may not fit.
        engine = model._ltd_engine = None
        gc.collect()
        head = draft if isinstance(draft, Eagle3Head) else load_head(Path(draft), model)
        target = TargetModel(model, tap_layers=head.config.tap_layers, max_context=context)
        drafter = make_drafter(head, beam=beam, max_depth=max_depth, max_context=target.max_context)
        engine = target, drafter
        model._ltd_engine = key, engine
    return engine


def _end_tokens(config: GenerationConfig) -> tuple[int, ...]:
    ids = config.eos_token_id
    return tuple(ids) if isinstance(ids, list | tuple) else (() if ids is None else (ids,))
