"""A start that can copy: the first two blocks are wired as an induction circuit before training begins.

Answers repeat names and numbers of their prompt, also ones never seen before. Transformers do that with two
attention layers: one lets every token carry its predecessor along, the next looks for earlier places whose
predecessor equals the current token and proposes what stood there (Olsson et al., "In-context learning and
induction heads", 2022). Left to find this by itself, a model spends all of a short training without it; wired
from the start, training only refines it. Initial weights with a purpose are known as mimetic initialisation
(Trockman and Kolter, 2023).
"""

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

# One channel of every embedding is this constant: queries and keys get something that no token changes.
CONSTANT = 4.0
PREVIOUS_SHARPNESS = 1.0
MATCH_SHARPNESS = 2.0
COPY_STRENGTH = 1.5
HEAD_SCALE = 0.1


@torch.no_grad()
def wire_copying(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Wire blocks 0 and 1 and the output head, in place; all other blocks are expected to be silent.

    Random projections keep apart what a token is, what its predecessor was and what is to be said next. The
    head reads the last of these: it is the transposed embedding behind a rotation, so that copying a token
    raises its logit and its mere presence does not.
    """
    width, size = model.config.hidden_size, model.config.head_dim
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    rotation = _orthogonal(width, width, generator)
    meaning = _orthogonal(size, width, generator)
    predecessor = _orthogonal(size, width, generator)
    head.copy_(HEAD_SCALE * embedding @ rotation.T)
    embedding[:, 0] = CONSTANT
    _attend_to_previous(model, meaning, predecessor)
    _copy_after_match(model, meaning, predecessor, rotation, generator)


def _attend_to_previous(model: LlamaForCausalLM, meaning: Tensor, predecessor: Tensor) -> None:
    """Block 0: the first key-value head looks one token back and stores that token as the predecessor.

    Constant queries and keys leave the position as all that matters: with keys turned one step ahead, the
    rotary embedding's fast frequencies agree only at distance 1.
    """
    attention, size = model.model.layers[0].self_attn, model.config.head_dim
    frequency = model.model.rotary_emb.inv_freq
    fast = (torch.arange(size // 2) < size // 4).float()
    query = torch.cat([fast, torch.zeros(size // 2)])
    key = torch.cat([fast * frequency.cos(), fast * frequency.sin()])
    sharing = model.config.num_attention_heads // model.config.num_key_value_heads
    queries, keys = attention.q_proj.weight[: sharing * size], attention.k_proj.weight[:size]
    queries.zero_()
    keys.zero_()
    queries[:, 0] = PREVIOUS_SHARPNESS * query.repeat(sharing)
    keys[:, 0] = PREVIOUS_SHARPNESS * key
    attention.v_proj.weight[:size] = meaning
    attention.o_proj.weight[:, :size] = predecessor.T


def _copy_after_match(
    model: LlamaForCausalLM,
    meaning: Tensor,
    predecessor: Tensor,
    rotation: Tensor,
    generator: torch.Generator,
) -> None:
    """Block 1: one query head per key-value head matches the current token with earlier predecessors.

    Matching uses the slow rotary frequencies, which distance hardly turns; what is found goes to the head.
    """
    attention, size = model.model.layers[1].self_attn, model.config.head_dim
    sharing = model.config.num_attention_heads // model.config.num_key_value_heads
    slow = torch.arange(size) % (size // 2) >= size // 4
    for number in range(model.config.num_key_value_heads):
        queries = attention.q_proj.weight[number * sharing * size :][:size]
        keys = attention.k_proj.weight[number * size :][:size]
        queries[slow] += MATCH_SHARPNESS * meaning[: slow.sum()]
        keys[slow] += MATCH_SHARPNESS * predecessor[: slow.sum()]
        part = _orthogonal(size, model.config.hidden_size, generator)
        attention.v_proj.weight[number * size :][:size] = part
        columns = slice(number * sharing * size, (number * sharing + 1) * size)
        attention.o_proj.weight[:, columns] = COPY_STRENGTH * rotation @ part.T


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrix [rows, columns] with orthonormal rows; rows <= columns."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T
