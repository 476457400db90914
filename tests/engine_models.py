"""Small random models for the engine's tests: odd sizes, and heads whose drafts are often accepted."""

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ltd.bfloat16 import in_bfloat16, to_bfloat16
from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head
from ltd.engine import lean_layers
from ltd.engine.bucketed_drafting import BucketedDrafter
from ltd.engine.bucketed_forward import padded_mask
from ltd.engine.compiled.drafting import CompiledDrafter
from ltd.engine.drafting import Drafter
from ltd.engine.target import TargetModel
from ltd.engine.tree import log_probabilities

VOCAB = 23
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES = {
    "llama": dict(
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=20,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=LLAMA3_ROPE,
    ),
    "qwen2": dict(
        hidden_size=35, num_attention_heads=5, num_key_value_heads=1, head_dim=14, tie_word_embeddings=True
    ),
    "qwen3": dict(hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=14),
    "mistral": dict(
        hidden_size=44, num_attention_heads=4, num_key_value_heads=4, head_dim=6, sliding_window=512
    ),
}
CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "mistral": (MistralForCausalLM, MistralConfig),
}
ARCHITECTURES = tuple(SHAPES)
# The heads do not divide the hidden size, where a configuration allows it (Llama's does not).
UNEVEN = {
    "qwen2": dict(hidden_size=37, num_attention_heads=5, num_key_value_heads=1, head_dim=14),
    "qwen3": dict(hidden_size=37, num_attention_heads=5, num_key_value_heads=5, head_dim=10),
    "mistral": dict(hidden_size=37, num_attention_heads=6, num_key_value_heads=2, head_dim=8),
}


def random_model(
    architecture="llama", seed=0, vocab=VOCAB, layers=5, half_weights=False, bfloat16=False, **changes
):
    """A transformers model with random weights, large enough that its answers vary."""
    torch.manual_seed(seed)
    model_class, config_class = CLASSES[architecture]
    common = dict(
        vocab_size=vocab,
        intermediate_size=50,
        num_hidden_layers=layers,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = model_class(config_class(**common | SHAPES[architecture] | changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            if half_weights:
                weight.copy_(weight.half())
    return to_bfloat16(model) if bfloat16 else model


# How a target may compute on a CPU: options of `random_target`, and the drafter that goes with it.
FORWARDS = {
    "compiled": {"compiled": True},
    "lean": {},
    "bucketed": {"bucketed": True},
    "model": {"lean": False},
}
DRAFTERS = {"compiled": CompiledDrafter, "lean": Drafter, "bucketed": BucketedDrafter, "model": Drafter}


def random_target(
    architecture="llama",
    seed=0,
    max_context=160,
    max_tree=64,
    lean=True,
    compiled=False,
    bucketed=False,
    dtype=torch.float32,
    **changes,
):
    """A `TargetModel` over `random_model`, in another number type if asked for."""
    model = random_model(architecture, seed, **changes).to(dtype)
    ways = {"lean": lean, "compiled": compiled, "bucketed": bucketed}
    return TargetModel(model, max_context=max_context, max_tree=max_tree, **ways)


def random_head(target, seed=1, draft_vocab=None, **changes):
    """A random head; a draft vocabulary of about the beam's width makes acceptance frequent."""
    torch.manual_seed(seed)
    shape = dict(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        intermediate_size=40,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        rms_norm_eps=1e-5,
        vocab_size=target.vocab_size,
        draft_vocab_size=draft_vocab or target.vocab_size,
        rope_theta=1000.0,
        max_position_embeddings=512,
        tap_layers=target.tap_layers,
    )
    config = Eagle3Config(**(shape | changes))
    head = Eagle3Head(config, target.model.get_input_embeddings().weight).eval()
    if draft_vocab:
        head.set_draft_vocabulary(torch.randperm(target.vocab_size)[:draft_vocab].sort().values)
    head = head.to(target.dtype).requires_grad_(False)
    return to_bfloat16(head) if in_bfloat16(target.model) else head


def random_drafter(target, seed=1, beam=5, max_depth=5, draft_vocab=None, compiled=False):
    """A `Drafter` or `CompiledDrafter` over `random_head`."""
    head = random_head(target, seed, draft_vocab)
    kind = CompiledDrafter if compiled else Drafter
    return kind(head, beam=beam, max_depth=max_depth, max_context=target.max_context)


def suited_drafter(forward, target, beam=5, max_depth=5, draft_vocab=None, known=()):
    """The drafter that goes with one of the ways of `FORWARDS`; `known` tokens come first in its vocabulary,
    so that it drafts them often.
    """
    head = random_head(target, draft_vocab=draft_vocab)
    if known:
        first = list(dict.fromkeys([*known, *range(target.vocab_size)]))[:draft_vocab]
        head.set_draft_vocabulary(torch.tensor(sorted(first)))
    return DRAFTERS[forward](head, beam=beam, max_depth=max_depth, max_context=target.max_context)


def random_engine(forward, architecture="llama", seed=0, beam=5, draft_vocab=None, **changes):
    """Target and drafter that compute in one of the ways of `FORWARDS`."""
    target = random_target(architecture, seed, **FORWARDS[forward], **changes)
    return target, suited_drafter(forward, target, beam, draft_vocab=draft_vocab)


def trained_tokenizer():
    """A byte-level tokenizer whose words are those of a sentence."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["The quick brown fox jumps over the lazy dog."] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


# Roundings of the largest number that two ways of computing in 16 bits may differ by: 2.2 were seen.
MARGIN = 4


def margin(numbers):
    """How far numbers of 16 bits may be from those of another way of computing."""
    return (MARGIN * torch.finfo(numbers.dtype).eps * numbers.abs().max()).item()


@torch.no_grad()
def sequence_logits(target, tokens):
    """What transformers itself computes for whole sequences [B, S]: logits [B, S, vocab]."""
    return target.model(input_ids=tokens, use_cache=False).logits


def check_near_best(target, prompt, tokens):
    """Every token's logit is within the margin of the largest after the tokens before it."""
    logits = sequence_logits(target, torch.tensor([[*prompt, *tokens]]))
    for row, token in zip(logits[0, len(prompt) - 1 : -1], tokens, strict=True):
        assert row.max() - row[token] <= margin(row)


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)] if isinstance(value, tuple | list) else []


def fusable(rows, heads, kv_heads, head_dim, device="cpu", dtype=torch.float32):
    """The functions that a GPU fuses, with random arguments."""

    def random(*shape):
        return torch.randn(*shape, device=device).to(dtype)

    width, both, eps = heads * head_dim, heads + 2 * kv_heads, 1e-5
    rotation = torch.randn(rows, 2, both, 2, head_dim // 2, device=device)
    slots = random(2 * kv_heads, 70, head_dim)[:, :rows]
    norm = random(heads + kv_heads, head_dim)
    mask = torch.zeros(rows, 90, device=device, dtype=dtype).masked_fill_(random(rows, 90) > 1, float("-inf"))
    logits = torch.randn(rows, 3000, device=device)
    return (
        (lean_layers.normalise, (random(rows, 2, width), random(2, width), eps)),
        (lean_layers.add_and_normalise, (random(rows, width), random(rows, width), random(width), eps)),
        (lean_layers.rotate_and_store, (random(rows, both, head_dim), rotation, slots, None, eps)),
        (lean_layers.rotate_and_store, (random(rows, both, head_dim), rotation, slots, norm, eps)),
        (lean_layers.attention_weights, (random(kv_heads, heads // kv_heads, rows, 90), mask)),
        (lean_layers.gated, (random(rows, 2 * width),)),
        (log_probabilities, (logits, logits.topk(5, dim=-1)[1])),
        (padded_mask, (mask[:, :rows] == 0, torch.tensor([40], device=device), 64, dtype)),
    )


def check_same(function, other, arguments):
    """Both return the same and leave the same in their arguments, within the margin of the number type."""
    given = [[a.clone() if isinstance(a, torch.Tensor) else a for a in arguments] for _ in range(2)]
    results = function(*given[0]), other(*given[1])
    ours, theirs = (flat([result, *after]) for result, after in zip(results, given, strict=True))
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        if not two.is_floating_point():
            assert torch.equal(one, two)
            continue
        finite = two.isfinite()
        assert torch.equal(one[~finite], two[~finite])
        assert torch.allclose(one[finite], two[finite], atol=margin(two[finite]), rtol=0)


class RandomController:
    """Any depth and any size, anew every cycle, plain steps included."""

    name = "random"

    def __init__(self, seed=0, max_size=60, stop=0.25):
        self.generator = torch.Generator().manual_seed(seed)
        self.max_size, self.stop = max_size, stop

    def begin(self, prompt_length):
        self.prompt_length = prompt_length

    def continue_drafting(self, state):
        return torch.rand((), generator=self.generator).item() > self.stop

    def choose_size(self, state):
        return int(torch.randint(1, self.max_size + 1, (), generator=self.generator))

    def accepted(self, count):
        self.last = count
