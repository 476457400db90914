"""`ltd_generate` beside the model's own `generate`: what it obeys, what it refuses, and the engine that a
model keeps.
"""

import copy
import os
from threading import Event, Thread

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from engine_models import random_head, random_model
from ltd.draft_head.eagle3 import save_head
from ltd.engine.controllers import StaticController
from ltd.engine.custom_generate import ltd_generate
from ltd.engine.kept_engine import ATTRIBUTE, roomy_context
from ltd.engine.lean_forward import LeanForward
from ltd.engine.model_forward import ModelForward
from ltd.engine.target import TargetModel
from ltd.errors import InputError

PROMPT = torch.tensor([[3, 4, 5, 9]])


def options(model, **changes):
    """What `model.generate` needs to decode with a random head."""
    head = random_head(TargetModel(model, max_context=64), draft_vocab=15)
    engine = {"custom_generate": ltd_generate, "draft": head, "controller": StaticController(3, 12)}
    return engine | {"beam": 5, "max_depth": 3, "do_sample": False, "max_new_tokens": 20} | changes


def own(model, **changes):
    """The model's own answer."""
    return model.generate(PROMPT, **{"do_sample": False, "max_new_tokens": 20} | changes).tolist()


def kept(model):
    """The engine that the model keeps."""
    return getattr(model, ATTRIBUTE).engine


@pytest.fixture(scope="module")
def model():
    return random_model("qwen3", layers=4)


@pytest.fixture(scope="module")
def engine(model):
    return options(model)


class Adapted(nn.Linear):
    """A linear layer that adds something, as that of an adapter does."""

    def forward(self, rows):
        return super().forward(rows) + rows.flip(-1)[..., : self.out_features] * 2


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.o_proj", "model.layers.3.mlp.up_proj", "lm_head"])
def test_layers_that_add_something_are_computed(name):
    model = random_model("llama", intermediate_size=48)
    plain = own(model)
    model.get_submodule(name).__class__ = Adapted
    assert own(model) != plain
    assert model.generate(PROMPT, **options(model)).tolist() == own(model)
    assert isinstance(kept(model)[0].forward, ModelForward)


def test_stopping_criteria_of_the_call_are_obeyed(model, engine):
    token = own(model)[0][10]
    for one in (MaxLengthCriteria(12), MaxLengthCriteria(3), EosTokenCriteria(token)):
        criteria = {"stopping_criteria": StoppingCriteriaList([one]), "pad_token_id": 0}
        assert model.generate(PROMPT, **engine, **criteria).tolist() == own(model, **criteria)


def test_a_criterion_may_answer_with_a_plain_bool(model, engine):
    def third(ids, scores, **others):
        return ids.shape[1] >= PROMPT.shape[1] + 3

    criteria = {"stopping_criteria": StoppingCriteriaList([third]), "pad_token_id": 0}
    assert model.generate(PROMPT, **engine, **criteria).tolist() == own(model, **criteria)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"do_sample": True, "logits_processor": LogitsProcessorList([TopKLogitsWarper(5)])},
            "TopKLogitsWarper among the logits processors differs from top_k of the call; give top_k",
        ),
        (
            {
                "do_sample": True,
                "temperature": 0.5,
                "logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)]),
            },
            "TemperatureLogitsWarper among",
        ),
        (
            {"repetition_penalty": 1.5},
            "Repetition.* is not supported.*the model's generation_config .* switch it off",
        ),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores is not supported"),
        ({"assistant_model": random_model("qwen3", layers=1)}, "assistant_model is not supported"),
        ({"token_type_ids": torch.zeros(1, 4)}, "token_type_ids is not supported"),
        ({"position_ids": torch.tensor([[1, 2, 3, 4]])}, "position_ids other than 0, 1, 2"),
    ],
)
def test_what_is_not_computed_is_refused(model, engine, changes, message, monkeypatch):
    monkeypatch.setattr(model, "_validate_model_kwargs", lambda given: None)  # models that read token types
    with pytest.raises(InputError, match=message):
        model.generate(PROMPT, **engine | changes)


def test_embedded_prompts_are_refused(model, engine):
    embedded = model.get_input_embeddings()(PROMPT)
    with pytest.raises(InputError, match="inputs_embeds is not supported"):
        model.generate(inputs_embeds=embedded, **engine)


@pytest.mark.parametrize("hidden", [0, 1])
def test_a_cache_of_other_tokens_is_refused(model, engine, hidden):
    cache = DynamicCache()
    model(PROMPT, past_key_values=cache)
    mask = torch.ones(1, 6, dtype=torch.int64)
    mask[0, :hidden] = 0
    given = {"past_key_values": cache, "attention_mask": mask}
    with pytest.raises(InputError, match="past_key_values holds tokens that input_ids lacks"):
        model.generate(torch.tensor([[7, 8]]), **engine, **given)
    # With all tokens it says nothing new.
    longer = torch.cat([PROMPT, torch.tensor([[7, 8]])], dim=1)
    expected = model.generate(longer, max_new_tokens=20, do_sample=False).tolist()
    assert model.generate(longer, **engine, past_key_values=cache).tolist() == expected


def test_the_engine_is_kept_for_equal_and_smaller_calls():
    model = random_model("qwen3", layers=4, max_position_embeddings=4096)
    engine = options(model)
    model.generate(PROMPT, **engine | {"max_new_tokens": 2000, "eos_token_id": 4})
    first = kept(model)
    assert first[0].max_context == 2048
    model.generate(PROMPT, **engine)
    assert kept(model) is first
    model.generate(PROMPT, **engine | {"beam": 4})
    assert kept(model) is not first and kept(model)[0].max_context == 1024


def test_the_engine_has_room_as_far_as_the_model_allows():
    assert roomy_context(random_model("mistral", sliding_window=64), 40, 256) == 64
    assert roomy_context(random_model(max_position_embeddings=5000), 3000, 256) == 4096
    model = random_model("mistral", sliding_window=64)
    assert model.generate(PROMPT, **options(model)).tolist() == own(model)


@pytest.mark.parametrize(
    "limit", [{"sliding_window": 64}, {"max_position_embeddings": 64}], ids=["window", "positions"]
)
def test_answers_end_where_the_model_does(limit):
    """By its window as by its positions, unless a context is asked for; the engine is made once."""
    model = random_model("mistral", **limit)
    engine = options(model, max_new_tokens=80)
    expected = own(model, max_new_tokens=61)
    with pytest.warns(UserWarning, match="answer cut after 61 tokens"):
        assert model.generate(PROMPT, **engine).tolist() == expected
    first = kept(model)
    with pytest.warns(UserWarning, match="answer cut"):
        model.generate(PROMPT, **engine)
    assert kept(model) is first
    for given in ({}, {"max_context": 100}):
        with pytest.raises(
            InputError, match="prompt: 65 tokens are more than the 64 that the model can hold"
        ):
            model.generate(PROMPT.repeat(1, 17)[:, :65], **engine, **given)
    with pytest.raises(InputError, match="max_context: 0 is not at least 1"):
        model.generate(PROMPT, **engine, max_context=0)


def test_the_engine_has_room_for_the_trees_of_the_controller(model, engine):
    large = engine | {"controller": StaticController(5, 300), "beam": 14, "max_depth": 5}
    assert model.generate(PROMPT, **large).tolist() == own(model)
    assert kept(model)[0].max_tree == 300


def test_the_engine_follows_the_weights():
    model = random_model("qwen3", layers=4)
    engine = options(model)
    before = model.generate(PROMPT, **engine).tolist()
    model.load_state_dict(random_model("qwen3", seed=1, layers=4).state_dict())
    assert model.generate(PROMPT, **engine).tolist() == own(model) != before
    model.lm_head = copy.deepcopy(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert model.generate(PROMPT, **engine).tolist() == own(model)
    assert model.double().generate(PROMPT, **engine | {"draft": options(model)["draft"]}).tolist() == own(
        model
    )


def test_the_engine_follows_the_folder_of_the_head(model, tmp_path):
    save_head(options(model)["draft"], tmp_path / "draft")
    engine = options(model, draft=tmp_path / "draft")
    model.generate(PROMPT, **engine)
    first = kept(model)
    model.generate(PROMPT, **engine)
    assert kept(model) is first
    os.utime(tmp_path / "draft/model.safetensors", (1, 1))
    model.generate(PROMPT, **engine)
    assert kept(model) is not first


def test_the_hub_is_asked_once_for_a_head(model, tmp_path, monkeypatch):
    asked = []

    def local_folder(name):
        asked.append(name)
        return tmp_path / "draft"

    monkeypatch.setattr("ltd.engine.kept_engine.local_folder", local_folder)
    save_head(options(model)["draft"], tmp_path / "draft")
    for _ in range(2):
        assert model.generate(PROMPT, **options(model, draft="owner/head")).tolist() == own(model)
    assert asked == ["owner/head"]


def test_a_copy_of_the_model_begins_without_an_engine():
    model = random_model("qwen3", layers=4)
    model.generate(PROMPT, **options(model))
    copied = copy.deepcopy(model)
    assert kept(copied) is None
    copied.generate(PROMPT, **options(copied))
    assert kept(copied)[0].model is copied and kept(model)[0].model is model


def test_two_threads_do_not_share_an_engine(model, engine):
    begun, end = Event(), Event()

    def wait(ids, scores):
        begun.set()
        end.wait(20)
        return torch.ones(1, dtype=torch.bool)

    held = Thread(target=lambda: model.generate(PROMPT, **engine, stopping_criteria=[wait]))
    held.start()
    assert begun.wait(20)
    with pytest.raises(InputError, match="another call with this model has not ended"):
        model.generate(PROMPT, **engine)
    end.set()
    held.join()
    assert model.generate(PROMPT, **engine).tolist() == own(model)


def train_step(model):
    """One step of an optimiser on the prompt."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(PROMPT, labels=PROMPT).loss.backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_trained_on_after_an_answer(dtype):
    model = random_model("qwen3", layers=4).to(dtype)
    model.train()
    model.model.layers[0].eval()  # someone's own choice
    training = [module.training for module in model.modules()]
    engine = options(model.eval())
    for module, flag in zip(model.modules(), training, strict=True):
        module.training = flag
    answers = []
    for _ in range(2):
        answers.append(model.generate(PROMPT, **engine).tolist())
        assert [module.training for module in model.modules()] == training
        assert isinstance(kept(model)[0].forward, LeanForward) == (dtype == torch.bfloat16)
        train_step(model)
    assert answers[0] != answers[1]
    if dtype == torch.float32:
        assert model.generate(PROMPT, **engine).tolist() == own(model)
