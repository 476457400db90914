"""Drafting a tree under a controller: level by level here, or, compiled, all of it in one call."""

from ltd.engine.controllers import CompiledController, Controller, check_tree
from ltd.engine.drafting import Drafter
from ltd.engine.phases import PhaseClock


class DraftLoop:
    """Asks the controller before every level whether to go on, and in the end for a size."""

    def __init__(self, drafter: Drafter, controller: Controller, clock: PhaseClock) -> None:
        self.drafter, self.controller, self.clock = drafter, controller, clock

    def __call__(self) -> tuple[int, int]:
        """Draft a tree of the newest token; its depth and the size chosen, both 0 for a plain step."""
        drafter, controller, clock, state = self.drafter, self.controller, self.clock, self.drafter.state
        while state.depth < state.max_depth:
            more = controller.continue_drafting(state)
            clock.mark("policy")
            if not more:
                break
            drafter.expand() if state.depth else drafter.extend()
            clock.mark("draft")
        if not state.depth:
            return 0, 0
        size = int(controller.choose_size(state))
        clock.mark("policy")
        return state.depth, size


def make_draft_loop(drafter: Drafter, controller: Controller, clock: PhaseClock) -> DraftLoop:
    """The loop that suits how the drafter computes and the controller decides.

    Raises InputError when the controller was fitted to trees of another beam or to shallower ones.
    """
    check_tree(controller, drafter.beam, drafter.max_depth)
    compiled = drafter.drafts_in_one_call and _decides_by_kernels(controller)
    if compiled and controller.compiled_decisions() is not None:
        from ltd.engine.compiled.draft_loop import CompiledDraftLoop  # a GPU needs no Numba

        return CompiledDraftLoop(drafter, controller, clock)
    return DraftLoop(drafter, controller, clock)


def _decides_by_kernels(controller: Controller) -> bool:
    """Whether the kernels are those of what it decides now: a subclass, or somebody who put a method into the
    object itself, may have changed the one alone.
    """
    decisions, put_in = ("continue_drafting", "choose_size"), getattr(controller, "__dict__", {})
    if not isinstance(controller, CompiledController) or any(name in put_in for name in decisions):
        return False

    def owner(method: str) -> type:
        return next((kind for kind in type(controller).__mro__ if method in vars(kind)), object)

    return all(issubclass(owner("compiled_decisions"), owner(method)) for method in decisions)
