"""Workshops from files: traces replayed on the measured machine, or on a family drawn around it."""

from pathlib import Path

from ltd.files import file_hash
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import draw_family
from ltd.replay.traces import Traces, of_tasks
from ltd.rl.co_adaptation import Workshop
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.replay_walk import ReplayWorld


def open_workshop(
    settings: PolicySettings, traces: Path, validation_traces: Path, profile: Path, seed: int
) -> Workshop:
    """Read traces and profile; raises InputError when they do not belong together or a task is absent."""
    machine = LatencyProfile.load(profile)
    training = of_tasks(Traces.load(traces), settings.train_tasks, str(traces))
    validation = of_tasks(Traces.load(validation_traces), settings.train_tasks, str(validation_traces))
    trained_on = {
        "traces": file_hash(traces),
        "profile": file_hash(profile),
        "target": training.target_hash,
        "draft": training.draft_hash,
    }
    worlds = [
        world_of(part, machine, settings, seed, validating)
        for part, validating in ((training, False), (validation, True))
    ]
    return Workshop(*worlds, settings, trained_on, seed).with_settings(settings)


def world_of(
    traces: Traces, machine: LatencyProfile, settings: PolicySettings, seed: int, validating: bool
) -> ReplayWorld:
    """Replay on the measured machine, or on a family around it; that of validation has other machines."""
    family = draw_family(machine, settings.machines, (seed, int(validating))) if settings.machines else ()
    return ReplayWorld(traces, machine, settings.sizes, family)
