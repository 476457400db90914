"""How a target's logits follow from its final hidden states: what a draft head is taught, and begins with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltd.bfloat16 import computes_in
from ltd.errors import InputError

PROBED = 8  # tokens of the pass that says how
SAME_SCALE = 1e-2  # 16 bits show a scale no better, and no model has one so close to 1


@dataclass(frozen=True)
class TargetOutput:
    """Rows of a target's output head: float32 weight [V, Ht] and bias [V], what their product is multiplied
    by (Granite, Cohere) and the bound that it is bent to at last (Gemma 2), None for none.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, final: Tensor) -> Tensor:
        """[N, V] after final hidden states [N, Ht]."""
        logits = final.to(self.weight) @ self.weight.T
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1:
            logits *= self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()

    def to(self, device: torch.device) -> "TargetOutput":
        """The same on this device."""
        bias = None if self.bias is None else self.bias.to(device)
        return TargetOutput(self.weight.to(device), bias, self.scale, self.cap)


@torch.no_grad()
def output_of(model, ids: Tensor) -> TargetOutput:
    """The output of a transformers model for the tokens `ids`; raises InputError where its logits follow from
    more than a `TargetOutput` holds.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    ids = ids.to(head.weight.device)
    weight = head.weight[ids].float()
    bias, cap = getattr(head, "bias", None), getattr(config, "final_logit_softcapping", None)
    plain = TargetOutput(weight, None if bias is None else bias[ids].float())
    tokens = torch.arange(min(PROBED, config.vocab_size), device=model.device)[None]
    final = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0].to(weight.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0].to(weight.device)[:, ids].float()
    if weight.shape[1] == final.shape[1] == config.hidden_size:
        scale = _scale(plain.logits(final), logits) if cap is None else 1.0
        found = TargetOutput(weight, plain.bias, scale, cap)
        tolerance = 1e-3 if computes_in(model) == torch.float32 else 5e-2
        if (found.logits(final) - logits).abs().max() <= tolerance * logits.abs().max():
            return found
    raise InputError(
        f"target: the logits of this {config.model_type!r} model are more than a product of its last hidden "
        "states, of which a head learns; use a published head, or another target"
    )


def _scale(products: Tensor, logits: Tensor) -> float:
    """What makes the products the logits. It is measured: configurations have several words for it, one of
    which means a divisor here and a factor there.
    """
    scale = ((products * logits).sum() / products.square().sum()).item()
    return scale if abs(scale - 1) > SAME_SCALE else 1.0


@torch.no_grad()
def norm_gain(norm: nn.Module, width: int) -> Tensor:
    """What a norm of rows [width] multiplies them by: mostly its weight, in Gemma one more, in OLMo 1."""
    weight = getattr(norm, "weight", None)
    probe = torch.ones(width) if weight is None else torch.ones_like(weight)
    probe[1::2] = -1  # of size 1 and, for norms that subtract it, of mean 0
    gain = (norm(probe) - norm(-probe)) / 2 * probe  # a bias goes
    return weight if weight is not None and torch.allclose(gain, weight, rtol=1e-2, atol=1e-2) else gain
