"""The engine that a transformers model keeps from one `generate` call to the next: packing its weights takes
longer than an answer. It is made anew when the weights, the head, or what is asked of it have changed.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from torch import nn

from ltd.devices import working_on
from ltd.draft_head.eagle3 import Eagle3Head, load_head
from ltd.engine.drafting import Drafter
from ltd.engine.loading import make_drafter, within_limits
from ltd.engine.target import DEFAULT_CONTEXT, TargetModel
from ltd.errors import InputError
from ltd.hub import local_folder

Engine = tuple[TargetModel, Drafter]
ATTRIBUTE = "_ltd_engine"  # of the model, whose end is the engine's


class Keeper:
    """One model's lock, its engine, what that was made from and the context that it was made for."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.engine: Engine | None = None
        self.made_from: Any = None
        self.context = 0
        self._folders: dict[str, Path] = {}

    def folder(self, draft: str | Path) -> Path:
        """The folder of a head; the hub is asked once for each."""
        name = str(draft)
        if name not in self._folders or not self._folders[name].is_dir():
            self._folders[name] = local_folder(draft)
        return self._folders[name]

    def __reduce__(self) -> tuple:
        return Keeper, ()  # a copy of the model, or a file of it, begins without an engine


@contextmanager
def borrowed_engine(
    model: nn.Module,
    draft: str | Path | Eagle3Head,
    *,
    beam: int,
    max_depth: int,
    max_tree: int,
    needed: int,
    max_context: int | None,
) -> Iterator[Engine]:
    """Target and drafter for at least `needed` tokens, as far as the model can hold them, or exactly
    `max_context`; while they are used the model's device is the current one, and its dropout off.

    Raises InputError while another call has them.
    """
    keeper, modules = vars(model).setdefault(ATTRIBUTE, Keeper()), _modules(model)
    if not keeper.lock.acquire(blocking=False):
        raise InputError(
            "ltd_generate: another call with this model has not ended, and an engine decodes one sequence at "
            "a time; wait for it, or load the model twice"
        )
    try:
        with working_on(model.device), _evaluating(model, modules):
            yield _engine(keeper, model, modules, draft, (beam, max_depth, max_tree), needed, max_context)
    finally:
        keeper.lock.release()


def _engine(
    keeper: Keeper,
    model: nn.Module,
    modules: list[nn.Module],
    draft: str | Path | Eagle3Head,
    tree: tuple[int, int, int],
    needed: int,
    max_context: int | None,
) -> Engine:
    if not isinstance(draft, Eagle3Head):
        draft = keeper.folder(draft)
    asked = model.device, model.dtype, *tree, max_context
    needed = within_limits(model.config, needed, tree[-1]) if max_context is None else max_context
    if keeper.made_from != (asked, _edition(draft), _fingerprint(modules)) or keeper.context < needed:
        # The old engine goes first: with two of them fused and packed weights may not fit.
        keeper.engine = keeper.made_from = None
        gc.collect()
        keeper.context = roomy_context(model, needed, tree[-1]) if max_context is None else max_context
        keeper.engine = _make(model, draft, tree, keeper.context)
        keeper.made_from = asked, _edition(draft), _fingerprint(modules)
    return keeper.engine


def _make(model: nn.Module, draft: Path | Eagle3Head, tree: tuple[int, int, int], context: int) -> Engine:
    beam, max_depth, max_tree = tree
    head = draft if isinstance(draft, Eagle3Head) else load_head(draft, model)
    target = TargetModel(model, tap_layers=head.config.tap_layers, max_context=context, max_tree=max_tree)
    drafter = make_drafter(head, beam=beam, max_depth=max_depth, max_context=target.max_context)
    target.new_cache()  # makes its forward, which moves weights
    return target, drafter


def roomy_context(model: nn.Module, needed: int, max_tree: int) -> int:
    """More than `needed` tokens, so that longer answers find room, as far as the model allows it."""
    return within_limits(model.config, max(DEFAULT_CONTEXT, 1 << needed.bit_length()), max_tree)


def _edition(draft: Path | Eagle3Head) -> Any:
    """What changes when the head does."""
    if isinstance(draft, Eagle3Head):
        return draft, _fingerprint(_modules(draft))
    folder = draft.resolve()
    return folder, sorted((file.name, file.stat().st_mtime_ns) for file in folder.glob("*"))


def _fingerprint(modules: list[nn.Module]) -> tuple[list[int], list[int]]:
    """Where the weights lie and how often each was written to: changes with every training step, loaded file,
    adapter and device, and takes half a millisecond for 1000 of them. What is written through `.data` is not
    counted: whoever does that drops the engine, `del model._ltd_engine`.
    """
    weights = [w for module in modules for w in module._parameters.values() if w is not None]
    try:
        written = [weight._version for weight in weights]
    except RuntimeError:  # of a model made in inference mode, which cannot be trained
        written = []
    return [weight.data_ptr() for weight in weights], written


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules, some perhaps twice: `Module.modules` takes four times as long."""
    found = [model]
    for module in found:
        if module._modules:
            found.extend([part for part in module._modules.values() if part is not None])
    return found


@contextmanager
def _evaluating(model: nn.Module, modules: list[nn.Module]) -> Iterator[None]:
    """The model's modules evaluate; afterwards those that were training do so again."""
    training = [module for module in modules if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
