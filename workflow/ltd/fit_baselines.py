"""Fit one published baseline to the traces: train its classifier, if it has one, and choose its constants.

The classifier learns from the traces of the training prompts; thresholds, depths and sizes are those that
are fastest in replay of the validation traces on this machine's latency profile, as for the static grid
and our policies. The constants of the papers are kept beside them as the method `<name>:published`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.baselines import CLASSIFIERS
from ltd.baselines.catalogue import BASELINES, save_baseline
from ltd.baselines.variants import FitData, TrainingSettings, Variant
from ltd.errors import InputError
from ltd.files import file_hash
from ltd.option_checks import check_baselines
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import Traces, of_tasks
from ltd.rl.replay_walk import ReplayWorld
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class FitBaselinesOptions(StageOptions):
    """Options of the fitting of one baseline."""

    baseline: str = option(help="which baseline to fit", choices=tuple(BASELINES))
    traces: Path = option(help="traces of the training prompts")
    validation_traces: Path = option(help="traces of the validation prompts")
    profile: Path = option(help="latency profile of the machine to fit for")
    output: Path = option(help="folder of the fitted baseline")
    train_tasks: tuple[str, ...] = option((), "tasks to fit to; none: all")
    sizes: tuple[int, ...] = option(
        (1, 2, 3, 4, 5, 6, 7, 9, 11, 15, 23, 38), "sizes to try, ascending; then all around the best"
    )
    thresholds: int = option(24, "thresholds to try, spread evenly over what occurs; then finer ones")
    published_size: int = option(
        38, "size of `<name>:published`, and of the trees that `c2t:published` learns from"
    )
    learning_rate: float = option(1e-4, "learning rate of the classifiers")
    batch_size: int = option(256, "samples of a gradient step of the classifiers")
    samples: int = option(50_000, "accepted draft tokens to learn from at most, and as many rejected ones")
    disco_hidden: int = option(128, "hidden units of disco")
    disco_epochs: int = option(50, "passes over the samples of disco")
    c2t_hidden: int = option(64, "hidden units of c2t")
    c2t_epochs: int = option(50, "passes over the samples of c2t")
    specdecpp_hidden: int = option(1024, "hidden units of specdecpp")
    specdecpp_epochs: int = option(5, "passes over the samples of specdecpp")


def fit_data(options: FitBaselinesOptions) -> FitData:
    """Read traces and profile; raises InputError when they do not belong together."""
    profile = LatencyProfile.load(options.profile)
    training, validation = (
        of_tasks(Traces.load(path), options.train_tasks, str(path))
        for path in (options.traces, options.validation_traces)
    )
    if (training.beam, training.max_depth) != (validation.beam, validation.max_depth):
        raise InputError(f"{options.traces}: other beam or depth than {options.validation_traces}")
    largest = max(*options.sizes, options.published_size)
    world = ReplayWorld(validation, profile, (*options.sizes, largest))
    static = static_grid(validation, profile, range(1, validation.max_depth + 1), options.sizes)
    return FitData(
        traces=training,
        world=world,
        sizes=options.sizes,
        thresholds=options.thresholds,
        static_size=static.best()[1],
        published_size=options.published_size,
        training=training_settings(options),
    )


def training_settings(options: FitBaselinesOptions) -> TrainingSettings | None:
    """How the baseline's classifier is trained; None for a rule without one."""
    if options.baseline not in CLASSIFIERS:
        return None
    return TrainingSettings(
        epochs=getattr(options, f"{options.baseline}_epochs"),
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        samples=options.samples,
        hidden=getattr(options, f"{options.baseline}_hidden"),
        seed=options.seed,
    )


def fit_baselines(options: FitBaselinesOptions, run: StageRun) -> None:
    """Fit, save, and log what replay says about the validation prompts."""
    check_baselines(options)
    data = fit_data(options)
    variants = BASELINES[options.baseline].fit(data)
    trained_on = {
        "traces": file_hash(options.traces),
        "profile": file_hash(options.profile),
        "target": data.traces.target_hash,
        "draft": data.traces.draft_hash,
    }
    tree = (data.traces.beam, data.traces.max_depth)
    save_baseline(options.output, options.baseline, variants, tree, trained_on)
    log(run, options, variants)


def log(run: StageRun, options: FitBaselinesOptions, variants: dict[str, Variant]) -> None:
    """Log the validation speedups and the description; print a line a variant."""
    for key, variant in variants.items():
        label, values = f"baselines.{options.baseline}.{key}", variant.validation
        scalars = {name: value for name, value in values.items() if name != "tasks"}
        run.metrics({f"{label}.{name}": value for name, value in scalars.items()})
        tasks: dict[str, Any] = values["tasks"]
        run.metrics({f"{label}.speedup.{task}": value for task, value in tasks.items()})
        print(f"{options.baseline} {key}: validation speedup {values['speedup']:.3f}, {variant.settings}")
    run.artifact(options.output)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("fit_baselines", FitBaselinesOptions, fit_baselines, __doc__, argv)


if __name__ == "__main__":
    main()
