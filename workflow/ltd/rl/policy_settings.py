"""Settings of policy training: fields and checks. The block `rl` of config.yaml has the same keys."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ltd.errors import InputError
from ltd.option_checks import check_policies, check_shape
from ltd.options import option
from ltd.rl import rewards

SIZES = (1, 2, 3, 4, 5, 6, 7, 9, 11, 15, 23, 38)
# A summary of the draft, and with it what is known before.
COMPACT = ("levels", "one_hot_depth", "length")
OBSERVED = (*COMPACT, "suffix")
# What is known before the first draft pass alone: nothing waits for a look at the draft.
PLANNED = ("one_hot_depth", "length", "suffix")


@dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """What a pair of policies sees, is and may do; `size_` and `depth_` fields belong to one each."""

    train_tasks: tuple[str, ...] = option((), "tasks whose train split the policies see; none: all")
    sizes: tuple[int, ...] = option(SIZES, "numbers of verified nodes to choose from, ascending")
    first_decision: int = option(0, "depth of the first depth decision; 0 allows plain steps")
    interval: int = option(1, "levels from one depth decision to the next")
    size_observation: tuple[str, ...] = option(OBSERVED, "parts of the size policy's observation")
    depth_observation: tuple[str, ...] = option(OBSERVED, "parts of the depth policy's observation")
    top: int = option(3, "nodes of every level in the observation part `levels`")
    size_network: tuple[int, ...] = option((32, 32), "hidden layers of the size policy")
    depth_network: tuple[int, ...] = option((32, 32), "hidden layers of the depth policy")

    def __post_init__(self) -> None:
        check_shape(self)

    def of(self, kind: str, name: str) -> Any:
        """The field `<kind>_<name>`."""
        return getattr(self, f"{kind}_{name}")

    def shape(self) -> dict[str, Any]:
        """These fields alone, without those of what inherits them."""
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(PolicyShape)}


@dataclass(frozen=True, kw_only=True)
class PolicySettings(PolicyShape):
    """Everything that shapes the training of the policies."""

    rounds: int = option(3, "rounds of co-adaptation after the initial pair: size, depth, size, ...")
    reward: str = option("saving", "what a finished cycle is paid", choices=rewards.KINDS)
    whole_answers: bool = option(False, "an episode is a whole answer instead of one cycle")
    machines: int = option(
        0, "machines drawn around the measured one to train on, for the observation part `machine`; 0: none"
    )
    critic_network: tuple[int, ...] = option((64, 64), "hidden layers of both critics")
    size_gamma: float = option(1.0, "discount of the size policy")
    depth_gamma: float = option(1.0, "discount of the depth policy")
    gae_lambda: float = option(0.95, "lambda of generalised advantage estimation")
    size_steps: int = option(65_536, "environment steps of one training of the size policy")
    depth_steps: int = option(131_072, "environment steps of one training of the depth policy")
    lanes: int = option(256, "environments stepped at once")
    rollout: int = option(8192, "steps of all lanes together between two updates")
    minibatch: int = option(1024, "steps in a gradient step")
    epochs: int = option(6, "passes over each rollout")
    learning_rate: float = option(3e-4, "largest learning rate; decays linearly to zero")
    warm_up: float = option(0.01, "share of the steps in which the learning rate rises")
    entropy_coefficient: float = option(0.003, "weight of the entropy bonus")
    clip_range: float = option(0.2, "how far an update may move an action's probability ratio")
    validations: int = option(4, "checkpoints in a training; the best on the validation traces is kept")
    rehearsal: int = option(
        4000, "gradient steps of the joint warm start before the initial trainings; 0: none"
    )
    fixed_size: int = option(
        0, "size during the first depth training; 0: the best static one on training prompts"
    )

    def __post_init__(self) -> None:
        check_policies(self)

    def values(self) -> dict[str, Any]:
        """The settings alone, without the options of a stage that inherits them."""
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(PolicySettings)}


def asked_depths(first_decision: int, interval: int, max_depth: int) -> np.ndarray:
    """Depths at which a depth decision is made, ascending; elsewhere drafting goes on."""
    return np.arange(first_decision, max_depth, interval)


def decisions_up_to(depth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How many depth decisions, made at the depths `asked`, a draft of `depth` takes; same shape."""
    return np.minimum(np.searchsorted(asked, depth) + 1, len(asked))


SettingsType = TypeVar("SettingsType", bound=PolicySettings)


def with_overrides(settings: SettingsType, overrides: dict[str, Any], source: str) -> SettingsType:
    """Return the settings with some replaced; raises InputError naming `source` on an unknown one."""
    known = {field.name for field in dataclasses.fields(PolicySettings)}
    for name in overrides:
        if name not in known:
            raise InputError(
                f"{source}: {name}: no setting of policy training; known: {', '.join(sorted(known))}"
            )
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in overrides.items()}
    return dataclasses.replace(settings, **values)


def with_step_share(settings: SettingsType, share: float) -> SettingsType:
    """Return the settings with the steps of both trainings scaled, to one rollout at least.

    Raises InputError unless share is above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"step_share: {share}: expected a share above 0 and up to 1")
    steps = {
        name: max(settings.rollout, round(getattr(settings, name) * share))
        for name in ("size_steps", "depth_steps")
    }
    return dataclasses.replace(settings, **steps)
