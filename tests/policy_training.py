"""A small training of policies on made-up traces: two worlds, and settings that take seconds."""

from ltd.rl.co_adaptation import Workshop
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.replay_walk import ReplayWorld
from synthetic import synthetic_profile, synthetic_traces

SIZES = (1, 2, 4, 8, 16)

TINY = {
    "sizes": SIZES,
    "size_steps": 4096,
    "depth_steps": 8192,
    "lanes": 64,
    "rollout": 1024,
    "minibatch": 256,
    "epochs": 4,
    "learning_rate": 3e-3,
    "validations": 4,
    "rehearsal": 0,
    "rounds": 1,
}


def workshop(**overrides):
    settings = PolicySettings(**TINY | overrides)
    worlds = [
        ReplayWorld(synthetic_traces(seed=seed, sequences=16), synthetic_profile(), settings.sizes)
        for seed in (1, 2)
    ]
    return Workshop(*worlds, settings, {"traces": "t"})
