"""A hand-made tree, and traces to fit published baselines to."""

import torch

from ltd.baselines.threshold import ThresholdController, ThresholdSettings
from ltd.baselines.variants import FitData, TrainingSettings
from ltd.engine.controllers import DraftState
from ltd.rl.replay_walk import ReplayWorld
from synthetic import synthetic_profile

BEAM, DEPTH, SIZES = 3, 5, (1, 2, 4, 8)
# A tree of beam 2 and depth 3; the beams hold 0.9, 0.6 and 0.35 of the probability.
LEVELS = [[0.6, 0.3], [0.4, 0.1, 0.2, 0.05], [0.25, 0.1, 0.1, 0.02]]


def state_at(depth, entropy=0.0, feature=None):
    """A draft state of the hand-made tree after `depth` passes."""
    scores = torch.full((10,), -torch.inf)
    drafted = torch.tensor([p for level in LEVELS[:depth] for p in level])
    scores[: len(drafted)] = drafted.log()

    class State(DraftState):
        def entropy(self):
            return entropy

    return State(max_depth=3, beam=2, scores=scores, depth=depth, feature=feature)


def depth_chosen(controller, states):
    """Depth at which a controller stops, the states given by depth."""
    depth = 0
    while depth < 3 and controller.continue_drafting(states[depth]):
        depth += 1
    return depth


def threshold_controller(rule, threshold, checkpoints=(1, 2), max_depth=3, network=None):
    settings = ThresholdSettings(threshold, checkpoints, max_depth, 7)
    return ThresholdController(rule.name, settings, rule.signal(network), network)


def data_of(traces, profile=None):
    training = TrainingSettings(4, 1e-2, 64, 500, 8, 0)
    world = ReplayWorld(traces, profile or synthetic_profile(traces.beam, traces.max_depth), (1, 16))
    return FitData(traces, world, SIZES, 6, 4, 16, training)
