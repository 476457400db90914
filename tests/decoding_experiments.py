"""Small experiments that the command and the interfaces decode with."""

from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    PreTrainedTokenizerFast,
)

from engine_models import VOCAB, random_head, random_model
from ltd.draft_head.eagle3 import save_head
from ltd.engine.target import TargetModel
from ltd.rl.machine import machine_width
from ltd.rl.policies import PolicyNetwork, load_policy, save_policies
from saved_engine import save_engine
from saved_experiment import made_up_world, random_policies


def save_words(experiment):
    """Target and head over words w0, w1, ..., without policies; returns the folder."""
    model = random_model("qwen3", half_weights=True, max_position_embeddings=2048)
    model.save_pretrained(experiment / "target")
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} w1 {% endfor %}"
    tokenizer.save_pretrained(experiment / "target")
    save_head(random_head(TargetModel(model), draft_vocab=15), experiment / "draft")
    return experiment


def save_with_policies(experiment):
    """Another with policies in the place of tuned ones, some that observe the machine, and a profile."""
    world = made_up_world()
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
