"""The Optuna study: which reward, observation and hyper-parameters give the best pair of policies in replay.

Every trial is a short chain of co-adaptation in this process; its value is the validation speedup of its best
iteration, and it is pruned after an iteration that falls behind the median of the trials before. The first
trial has the settings of the chain `default`, where the space holds them. The winner is retrained with full
steps as the chain `ltd`.

The study lives in a journal file, or in the database that OPTUNA_STORAGE names. Workers, processes on one
machine or many, share it: each takes the next trial, until there are enough.
"""

import csv
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from matplotlib import pyplot
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from ltd.errors import InputError
from ltd.files import atomic_path, file_hash, read_json, write_json
from ltd.option_checks import check_tune
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.rl.co_adaptation import Pair, rehearse_pair, train_chain
from ltd.rl.evaluation import Evaluation
from ltd.rl.policy_settings import PolicySettings, with_overrides, with_step_share
from ltd.rl.search_space import Space, as_settings, as_values, space_on, suggest
from ltd.rl.workshop_files import open_workshop

# What a rehearsal depends on: trials that agree in these start from the same pair.
REHEARSED = ("reward", "observation", "network", "interval")
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# An environment variable, as the address may hold a password; Optuna's own command line reads it, too.
DATABASE = "OPTUNA_STORAGE"
WORKER = "worker"


@dataclass(frozen=True, kw_only=True)
class TuneOptions(StageOptions):
    """Options of the tuning study."""

    traces: Path = option(help="traces of the training prompts")
    validation_traces: Path = option(help="traces of the validation prompts")
    profile: Path = option(help="latency profile of the machine")
    output: Path = option(help="folder of best.json, trials.csv and the plots; a worker's own file")
    state: Path = option(help="folder of the study's journal; an interrupted study goes on from it")
    settings: Path | None = option(None, "settings.json of the chain to improve; none: built-in defaults")
    worker: int | None = option(
        None, "number of a worker that only adds trials; none: write the results, too"
    )
    trials: int = option(30, "finished or pruned trials of the study")
    step_share: float = option(0.2, "share of a full training's steps that a trial spends")
    startup_trials: int = option(6, "trials before the sampler learns from results and pruning begins")


def tune(options: TuneOptions, run: Any) -> None:
    """Run or continue the study, and write its winner; raises InputError for impossible budgets."""
    check_tune(options)
    base = PolicySettings()
    if options.settings is not None:
        base = with_overrides(base, read_json(options.settings), str(options.settings))
    study = open_study(options, base)
    finished = len(study.get_trials(states=DONE))
    if finished < options.trials:
        objective = chain_objective(options, base)
        limit = optuna.study.MaxTrialsCallback(options.trials, states=DONE)
        study.optimize(objective, callbacks=[limit, lambda _, trial: announce(trial, options.trials, run)])
    if options.worker is not None:
        write_json(options.output, {"study": study.study_name, "trials": trials_of(study, options.worker)})
        return
    write_results(study, searched(options), options.output)
    run.metrics({"best_speedup": study.best_value})
    run.artifact(options.output)


def searched(options: TuneOptions) -> Space:
    """What the study searches on the machine of its profile."""
    return space_on(LatencyProfile.load(options.profile).device_type)


def open_storage(state: Path) -> BaseStorage:
    """Open the database, or the journal where none is named; raises InputError when there is no database."""
    if address := os.environ.get(DATABASE):
        for attempt in (1, 2):
            try:
                return RDBStorage(address)
            except (
                Exception
            ) as error:  # of SQLAlchemy, of the database's driver, of the import of that driver
                line = (str(error).strip() or repr(error)).splitlines()[0]
                if attempt == 2:
                    raise InputError(
                        f"{DATABASE}: no database there ({line}); start it or correct it"
                    ) from error
                time.sleep(
                    1
                )  # two workers that find an empty database both make the tables, one of them fails
    state.mkdir(parents=True, exist_ok=True)
    # The lock of a writer that was killed is a link to this path. Through a relative one, which leads nowhere
    # from the link's own folder, Optuna cannot see how old the lock is, and would wait for it for ever.
    return JournalStorage(JournalFileBackend(str(state.resolve() / "journal.log")))


def open_study(options: TuneOptions, base: PolicySettings) -> optuna.Study:
    """Open the study; trials that this worker was running when it died are tried again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(options.state)
    name = study_name(options, base)
    known = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    done = len(optuna.load_study(study_name=name, storage=storage).trials) if name in known else 0
    startup, worker = options.startup_trials, options.worker or 0
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        # Neither a resumed study nor another worker may draw the same first points again.
        sampler=optuna.samplers.TPESampler(
            seed=options.seed + done + 1_000_003 * worker, n_startup_trials=startup
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=startup),
    )
    # A trial that has just begun has no number yet: beside other workers it may be theirs.
    unnumbered = worker if options.worker is None else None
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(WORKER, unnumbered) == worker:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)
    # By whichever worker comes first: the others may have begun before worker 0 is here.
    if (first := as_values(base, searched(options))) is not None:
        study.enqueue_trial(first, skip_if_exists=True)
    return study


def trials_of(study: optuna.Study, worker: int) -> list[int]:
    """Numbers of the trials that a worker finished."""
    return [trial.number for trial in study.get_trials(states=DONE) if trial.user_attrs.get(WORKER) == worker]


def study_name(options: TuneOptions, base: PolicySettings) -> str:
    """Name a study by everything that its values depend on: a change opens a new one in the same journal."""
    content = [searched(options), base.values(), options.step_share, options.seed]
    content += [file_hash(path) for path in (options.traces, options.validation_traces, options.profile)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def chain_objective(options: TuneOptions, base: PolicySettings) -> Callable[[optuna.Trial], float]:
    """The objective: validation speedup of a short chain, reported after every iteration."""
    paths = options.traces, options.validation_traces, options.profile
    # On the measured machine alone: no observation of the space shows the machine.
    workshop = open_workshop(replace(base, machines=0), *paths, options.seed)
    space, rehearsed = searched(options), dict[tuple, Pair]()

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr(WORKER, options.worker or 0)
        settings = shortened(replace(base, **as_settings(suggest(trial, space))), options.step_share)

        def after_iteration(iteration: int, evaluation: Evaluation) -> None:
            trial.report(evaluation.speedup, iteration)
            if trial.should_prune():
                raise optuna.TrialPruned

        shop = workshop.with_settings(settings)
        key = tuple(trial.params.get(name) for name in REHEARSED)
        if key not in rehearsed:
            rehearsed[key] = rehearse_pair(shop) if settings.rehearsal else {}
        _, evaluations = train_chain(
            shop,
            settings.rounds,
            seed=options.seed,
            start=rehearsed[key],
            after_iteration=after_iteration,
        )
        best = max(evaluations, key=lambda evaluation: evaluation.speedup)
        trial.set_user_attr("validation", best.summary())
        return best.speedup

    return objective


def shortened(settings: PolicySettings, share: float) -> PolicySettings:
    """Scale a chain down to a trial's budget of steps and validations."""
    fewer = {"rehearsal": round(settings.rehearsal * share), "validations": max(1, settings.validations // 4)}
    return replace(with_step_share(settings, share), **fewer)


def announce(trial: FrozenTrial, trials: int, run: Any) -> None:
    """Print and log a finished trial."""
    value = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=0.0)
    print(f"trial {trial.number} of {trials}: {trial.state.name.lower()}, validation speedup {value:.4f}")
    run.metrics({"trial_speedup": value}, trial.number)


def write_results(study: optuna.Study, space: Space, output: Path) -> None:
    """Write best.json, trials.csv and the plots; raises InputError when no trial was finished."""
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if not finished:
        raise InputError("tune: no trial finished; look into the log for why they failed")
    best = study.best_trial
    result = {
        "settings": as_settings(best.params),
        "trial": best.number,
        "validation_speedup": best.value,
        "trials": len(study.get_trials(states=DONE)),
        "study": study.study_name,
    }
    with atomic_path(output) as temporary:
        temporary.mkdir()
        write_json(temporary / "best.json", result)
        write_trials(study, space, temporary / "trials.csv")
        write_plots(study, temporary)


def write_trials(study: optuna.Study, space: Space, path: Path) -> None:
    """One row a trial: number, state, seconds, value, the searched values, and the speedup by iteration."""
    rounds = max(space["rounds"]) + 1
    header = ["trial", "state", "seconds", "speedup", *space, *(f"iteration_{i}" for i in range(rounds))]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for trial in study.get_trials():
            seconds = trial.duration.total_seconds() if trial.duration else ""
            steps = [trial.intermediate_values.get(i, "") for i in range(rounds)]
            values = [trial.params.get(name, "") for name in space]
            writer.writerow([trial.number, trial.state.name, seconds, trial.value, *values, *steps])


def write_plots(study: optuna.Study, folder: Path) -> None:
    """History of the study and one panel a searched value."""
    pyplot.switch_backend("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, plot in (("history", plots.plot_optimization_history), ("slices", plots.plot_slice)):
            plot(study)
            pyplot.gcf().savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close("all")


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("tune", TuneOptions, tune, __doc__, argv)


if __name__ == "__main__":
    main()
