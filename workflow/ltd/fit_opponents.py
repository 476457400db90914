"""Fit one of the learned policies' opponents: what they see and may do, but no reinforcement.

best_constant is the best depth and size; marginal_rule weighs recalibrated chances against measured times;
supervised imitates the best actions; optimal_stopping regresses the values of stopping and of going on. The
latter two are fitted several times: as the chain `default` is set up, then with observations, networks and,
on a GPU, intervals of the study that tunes `ltd`. On a GPU marginal_rule is fitted with every interval. What
does best on the validation traces is kept.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltd.files import atomic_path, write_json
from ltd.opponents import NAMES
from ltd.opponents.cross_fitting import Effort
from ltd.opponents.decisions import Decisions
from ltd.opponents.folders import save_constant, save_rule
from ltd.opponents.marginal_fit import decide, fit_marginal_rule, grow
from ltd.opponents.marginal_rule import MarginalRule
from ltd.opponents.optimal_stopping import OPTIMAL_STOPPING
from ltd.opponents.stopping import Fitted, Fitting, fit_pair
from ltd.opponents.supervised import SUPERVISED
from ltd.option_checks import check_opponents
from ltd.options import StageOptions, option, run_stage
from ltd.rl.co_adaptation import Workshop
from ltd.rl.evaluation import Evaluation, best_static, evaluate, evaluate_static
from ltd.rl.policies import VALIDATION, save_policies
from ltd.rl.policy_folders import action_histogram
from ltd.rl.policy_settings import PolicySettings, PolicyShape
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.search_space import shapes, space_on
from ltd.rl.workshop_files import open_workshop

# Times the largest learning rate that a trial may have, or divided by.
RATE_SPREAD = 3.0
APPROACHES = {"supervised": SUPERVISED, "optimal_stopping": OPTIMAL_STOPPING}


@dataclass(frozen=True, kw_only=True)
class FitOpponentsOptions(StageOptions, PolicyShape):
    """Options of the fit; what the policies see, are and may do is that of the first trial."""

    opponent: str = option(help="which opponent to fit", choices=NAMES)
    traces: Path = option(help="traces of the training prompts")
    validation_traces: Path = option(help="traces of the validation prompts")
    profile: Path = option(help="latency profile of the machine to fit for")
    output: Path = option(help="folder of the fitted opponent")
    fit_trials: int = option(4, "fits with different settings; the best on validation is kept")
    fit_rounds: int = option(5, "rounds of values and decisions; the best on validation is kept")
    fit_folds: int = option(2, "folds of the prompts for cross-fitting")
    fit_steps: int = option(3000, "gradient steps of a network in the first round; half as many later")
    fit_minibatch: int = option(1024, "drafts in a gradient step")
    fit_learning_rate: float = option(3e-3, "largest learning rate of the first round; half of it later")

    def as_policies(self) -> PolicySettings:
        """Settings of policies of the same shape: what a workshop is for."""
        return PolicySettings(**self.shape())


def fit_opponents(options: FitOpponentsOptions, run: Any) -> None:
    """Fit, replay on the validation traces, and write the folder."""
    check_opponents(options)
    paths = options.traces, options.validation_traces, options.profile
    workshop = open_workshop(options.as_policies(), *paths, options.seed)
    depth, size = best_static(workshop.validation, options.first_decision)
    with atomic_path(options.output) as folder:
        folder.mkdir(parents=True)
        if options.opponent == "best_constant":
            save_constant(folder, depth, size)
            evaluation, details = evaluate_static(workshop.validation, depth, size), {}
        elif options.opponent == "marginal_rule":
            rule, evaluation = best_rule(workshop, evaluate(workshop.training, depth, size).throughput)
            save_rule(folder, rule)
            details = {"rate": rule.rate * workshop.training.step_seconds}
        else:
            best = best_trial(workshop, options, (depth, size), run)
            save_policies(folder, best.fitted.depth, best.fitted.size)
            evaluation, details = best.evaluation, {"rates": list(best.fitted.rates)}
            run.params({f"chosen.{name}": value for name, value in best.varied.items()})
        validation = validate(evaluation, options) | details | {"static": {"depth": depth, "size": size}}
        write_json(folder / VALIDATION, validation)
    run.metrics({f"{options.opponent}.{key}": v for key, v in validation.items() if isinstance(v, float)})
    tasks = validation["tasks"].items()
    run.metrics({f"{options.opponent}.speedup.{task}": speedup for task, speedup in tasks})
    run.artifact(options.output)
    print(f"{options.opponent}: {validation['speedup']:.3f}x on the validation prompts in replay")


def best_rule(workshop: Workshop, rate: float) -> tuple[MarginalRule, Evaluation]:
    """Fit for the interval between decisions that is asked for, and for those searched on this device.

    Returns the rule that does best on the validation traces, and its replay there. Its rate begins at `rate`
    (tokens a second).
    """
    tried = []
    searched = space_on(device_type(workshop)).get("interval", [])
    for interval in dict.fromkeys([workshop.settings.interval, *searched]):
        own = replace(workshop, settings=replace(workshop.settings, interval=interval))
        rule = fit_marginal_rule(own, rate)
        world = workshop.validation.with_networks(rule.weights)
        tried.append((rule, decisions_of(rule, world).replay(world)))
    return max(tried, key=lambda outcome: outcome[1].speedup)


def device_type(workshop: Workshop) -> str:
    """The type of the device whose times are replayed."""
    return workshop.training.measured.device_type


@dataclass(frozen=True)
class Trial:
    """A pair fitted with settings that differ from those asked for by `varied`, and its validation."""

    varied: dict[str, Any]
    fitted: Fitted
    evaluation: Evaluation


def best_trial(
    workshop: Workshop, options: FitOpponentsOptions, constant: tuple[int, int], run: Any
) -> Trial:
    """Fit with the settings of every trial; return the one that does best on the validation traces."""
    trials = []
    drawn = tqdm(variations(options, device_type(workshop)), desc=options.opponent, unit="fit", leave=False)
    for number, varied in enumerate(drawn):
        settings = replace(options, **varied)
        own = workshop.with_settings(settings.as_policies())
        fitted = fit_networks(own, settings, constant)
        trials.append(Trial(varied, fitted, evaluate(own.validation, fitted.depth, fitted.size)))
        run.metrics({f"{options.opponent}.trial": trials[-1].evaluation.speedup}, number)
    return max(trials, key=lambda trial: trial.evaluation.speedup)


def variations(options: FitOpponentsOptions, device: str) -> list[dict[str, Any]]:
    """What the trials change: nothing at first, then learning rate and, among those that the study of `tune`
    searches on this type of device, observation, network and schedule, at random.
    """
    rng = np.random.default_rng(options.seed)
    known, others = shapes(space_on(device)), options.fit_trials - 1
    drawn = [known[place] for place in rng.choice(len(known), others, replace=others > len(known))]
    rates = options.fit_learning_rate * RATE_SPREAD ** rng.uniform(-1, 1, len(drawn))
    return [{}] + [
        shape | {"fit_learning_rate": float(rate)} for shape, rate in zip(drawn, rates, strict=True)
    ]


def fit_networks(workshop: Workshop, options: FitOpponentsOptions, constant: tuple[int, int]) -> Fitted:
    """Fit a pair of networks, beginning with the best constant's decisions."""
    effort = Effort(options.fit_steps, options.fit_minibatch, options.fit_learning_rate)
    fitting = Fitting(options.fit_rounds, options.fit_folds, effort)
    return fit_pair(workshop, APPROACHES[options.opponent], fitting, constant, options.seed)


def decisions_of(rule: MarginalRule, world: ReplayWorld) -> Decisions:
    """What the rule decides at every position of the world."""
    return decide(rule, grow(world, rule), world)


def validate(evaluation: Evaluation, settings: PolicyShape) -> dict[str, Any]:
    """Speedups and what was chosen how often, as for the policies."""
    depths = tuple(range(evaluation.world.max_depth + 1))
    return evaluation.summary() | {
        "throughput": evaluation.throughput,
        "tasks": evaluation.task_speedups,
        "depth": action_histogram(evaluation, "depth", depths),
        "size": action_histogram(evaluation, "size", settings.sizes),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("fit_opponents", FitOpponentsOptions, fit_opponents, __doc__, argv)


if __name__ == "__main__":
    main()
