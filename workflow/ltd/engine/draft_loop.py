"""Drafting a tree under a controller: level by level here, or, compiled, all of it in one call."""

from ltd.engine.controllers import CompiledController, Controller
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
    """The loop that suits how the drafter computes and the controller decides."""
    compiled = drafter.drafts_in_one_call and _decides_by_kernels(controller)
    if compiled and controller.compiled_decisions() is not None:
        from ltd.engine.compiled.draft_loop import CompiledDraftLoop  # a GPU needs no Numba

        return CompiledDraftLoop(drafter, controller, clock)
    return DraftLoop(drafter, controller, clock)


def _decides_by_kernels(controller: Controller) -> bool:
    """Whether the kernels are those of what it decides now: a subclass may have changed the one alone."""

    def owner(method: str) -> type:
        classes = type(controller).__mro__
        return next((kind for kind in classes if method in vars(kind)), classes[0])

    return isinstance(controller, CompiledController) and all(
        issubclass(owner("compiled_decisions"), owner(method))
        for method in ("continue_drafting", "choose_size")
    )
