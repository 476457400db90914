"""A random target and head, small enough for hundreds of live cycles a second, and answers of the target."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head
from ltd.engine.decoding import decode_autoregressive
from ltd.engine.loading import make_drafter
from ltd.engine.target import TargetModel
from ltd.texts.responses import Sequence

VOCAB = 14
END = 0


def tiny_target(seed=0):
    """A two-layer Llama over 14 tokens; large weights keep its choices far from ties."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.35,
        eos_token_id=END,
        bos_token_id=None,
    )
    return TargetModel(LlamaForCausalLM(config), max_context=160)


def tiny_head(target, seed=1):
    """An untrained head that knows 12 of the 14 tokens; with so few, it is right now and then."""
    torch.manual_seed(seed)
    config = Eagle3Config(
        hidden_size=24,
        target_hidden_size=24,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        vocab_size=VOCAB,
        draft_vocab_size=12,
        rope_theta=10000.0,
        max_position_embeddings=256,
        tap_layers=target.tap_layers,
    )
    head = Eagle3Head(config, target.model.get_input_embeddings().weight)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(2.0)
    head.set_draft_vocabulary(torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13]))
    return head.eval()


def tiny_drafter(head, beam, max_depth):
    """Drafter for `tiny_target`."""
    return make_drafter(head, beam=beam, max_depth=max_depth, max_context=160)


def tiny_answers(target, count, temperature=0.0, max_new_tokens=60, seed=0):
    """Answers of plain decoding to random prompts of different lengths, and their seeds."""
    generator = torch.Generator().manual_seed(seed)
    answers = []
    for number in range(count):
        length = int(torch.randint(1, 20, (), generator=generator))
        prompt = torch.randint(1, VOCAB, (length,), generator=generator)
        generation = decode_autoregressive(
            target, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=number
        )
        tokens = torch.cat([prompt, torch.tensor(generation.tokens)])
        answers.append(Sequence(tokens, length, ("chat", "code")[number % 2], number, 0, number))
    return answers
