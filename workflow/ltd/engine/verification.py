"""What brings a sequence forward: a plain step or a verified tree, and what of it is kept."""

from torch import Tensor

from ltd.engine.bucketed_drafting import BucketedDrafter
from ltd.engine.drafting import Drafter
from ltd.engine.lookup_drafting import LookupDrafter
from ltd.engine.sampling import Sampler, SamplingOptions, TensorSampler, make_sampler
from ltd.engine.target import TargetModel
from ltd.engine.tree import DraftTree
from ltd.errors import InputError


class Verification:
    """The target's side of a cycle: `step`, or `select` and `verify`; then `follow` and `keep`.

    It changes target and drafter, which may be None where there are plain steps alone.
    """

    def __init__(self, target: TargetModel, drafter: Drafter | None, sampler: Sampler) -> None:
        self.target, self.drafter, self.sampler = target, drafter, sampler
        self._tree: DraftTree | None = None

    def begin(self, token: Tensor) -> None:
        """Go on after a prefill with the newest token [1]; the drafter knows it already."""
        self._token = token

    def step(self) -> None:
        """Plain pass over the newest token."""
        self._tree = None
        self._logits, self._taps = self.target.step(self._token)

    def select(self, size: int) -> int:
        """Choose the best `size` drafted nodes for `verify`; how many there are."""
        self._tree = self.drafter.select(size)
        return self._tree.size

    def verify(self) -> None:
        """Pass over the selected tree."""
        tree = self._tree
        self._logits, self._taps = self.target.verify(tree.tokens, tree.depths, tree.ancestors)

    def follow(self, position: int) -> list[int]:
        """Tokens that the target chooses from output position `position` on: one after each accepted row."""
        if self._tree is None:
            self._rows, self._tokens = None, self.sampler.choose(self._logits[None], position)
        else:
            levels = self.drafter.state.depth
            self._rows, self._tokens = self.sampler.follow(self._logits, position, self._tree, levels)
        return self._tokens.tolist()

    def keep(self, count: int) -> None:
        """Make the first `count` of these tokens, at least one, part of the sequence."""
        rows, tokens = self._rows, self._tokens
        if count < len(tokens):
            rows, tokens = rows[:count], tokens[:count]
        if rows is not None:
            self.target.keep(rows, self._tree.size + 1)
        if self.drafter is not None:
            self.drafter.defer(self._taps, tokens, rows)
        self._token = tokens[-1:]


def make_verification(target: TargetModel, drafter: Drafter | None, options: SamplingOptions) -> Verification:
    """The verification that suits how target and drafter compute.

    Raises InputError when the drafter was made for another target: kernels would write beyond their arrays.
    """
    if drafter is not None:
        _check_fit(target, drafter)
    depth = 0 if drafter is None else drafter.max_depth
    settings = options, target.vocab_size, depth, target.device
    if target.has_fixed_passes and isinstance(drafter, BucketedDrafter):
        from ltd.engine.bucketed_verification import BucketedVerification  # which builds on this module

        return BucketedVerification(target, drafter, TensorSampler(*settings))
    sampler = make_sampler(*settings)
    if target.is_compiled:
        from ltd.engine.compiled.drafting import CompiledDrafter  # a GPU needs no Numba
        from ltd.engine.compiled.verification import CompiledVerification

        if drafter is None or isinstance(drafter, CompiledDrafter):
            return CompiledVerification(target, drafter, sampler)
    return Verification(target, drafter, sampler)


def _check_fit(target: TargetModel, drafter: Drafter | LookupDrafter) -> None:
    if drafter.vocab_size != target.vocab_size:
        raise InputError(
            f"drafter: made for a vocabulary of {drafter.vocab_size} tokens, the target has "
            f"{target.vocab_size}; use one made for this target as it is now"
        )
    if isinstance(drafter, LookupDrafter):
        return
    if drafter.max_context < target.max_context:
        raise InputError(
            f"drafter: made for contexts of {drafter.max_context} tokens, the target's are up to "
            f"{target.max_context}; make both with the same max_context"
        )
    tapped = len(target.tap_layers) * target.hidden_size
    if 3 * drafter.head.config.target_hidden_size != tapped:
        raise InputError(
            f"drafter: its head reads {3 * drafter.head.config.target_hidden_size} numbers a token, the "
            f"target taps {tapped}; use a head trained for this target"
        )
    if drafter.head.config.tap_layers != target.tap_layers:
        raise InputError(
            f"drafter: its head reads layers {drafter.head.config.tap_layers}, the target taps "
            f"{target.tap_layers}; make the target with the head's tap_layers (ltd.engine.loading.tapped_for)"
        )
    weight = drafter.head.embed_tokens.weight
    if (weight.dtype, weight.device) != (target.dtype, target.device):
        raise InputError(
            f"drafter: its head is in {weight.dtype} on {weight.device}, the target in {target.dtype} on "
            f"{target.device}; load the head for this model (ltd.draft_head.eagle3.load_head)"
        )
