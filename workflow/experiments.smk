# Several experiments in one DAG, the rules of each under its name, and a table across them.
import sys
from pathlib import Path

from ltd import experiment_files, made_with, preflight
from ltd.errors import InputError
from ltd.options import command_line
from ltd.stage_jobs import is_up_to_date

try:
    EXPERIMENTS = experiment_files.configurations(
        config, Path(workflow.basedir) / "workflow"
    )
except InputError as error:
    sys.exit(f"config: {error}")

OVERVIEW = "results/overview.md"
OUTCOME = [
    OVERVIEW,
    *(f"results/{experiment}/report/report.md" for experiment in EXPERIMENTS),
]


def for_every_experiment(settings):
    """Repeat settings by rule (of a profile, say) for the rules of every experiment."""
    own = {
        f"{experiment}_{rule}": value
        for experiment in EXPERIMENTS
        for rule, value in settings.items()
    }
    return {**settings, **own}


limits = workflow.resource_settings
limits.overwrite_threads = for_every_experiment(limits.overwrite_threads)
limits.overwrite_resources = for_every_experiment(limits.overwrite_resources)

for name, settings in EXPERIMENTS.items():
    module_name, prefix = f"experiment_{name}", f"{name}_"

    module:
        name: module_name
        snakefile:
            "experiment.smk"
        config:
            settings

    use rule * from module_name as prefix*


# Reads what every experiment's report reads.
rule overview:
    input:
        [f"results/{experiment}/report/report.md" for experiment in EXPERIMENTS],
    output:
        table="results/overview.csv",
        text=report(OVERVIEW, caption="report/overview.rst", category="Overview"),
    log:
        "results/overview.log",
    conda:
        "../envs/ltd.yaml"
    params:
        output=lambda wildcards, output: str(Path(output.table).parent),
        options=command_line(
            {
                "experiments": [f"results/{experiment}" for experiment in EXPERIMENTS],
                "targets": [
                    experiment_files.target_label(c) for c in EXPERIMENTS.values()
                ],
                "heads": [
                    experiment_files.head_label(c) for c in EXPERIMENTS.values()
                ],
            }
        ),
    shell:
        "python -m ltd.overview --output {params.output} {params.options} 2>&1 | tee {log}"


def open_parent_run():
    from ltd import tracking  # loads MLflow, which planning needs not

    try:
        for settings in EXPERIMENTS.values():
            preflight.check(settings)
        for experiment, settings in EXPERIMENTS.items():
            tracking.open_parent(Path("results") / experiment, settings)
            made_with.begin(Path("results") / experiment, settings)
    except InputError as error:
        sys.exit(str(error))


def close_parent_run(status):
    from ltd import tracking

    for experiment in EXPERIMENTS:
        folder = Path("results") / experiment
        is_whole = is_up_to_date(workflow.dag, f"{experiment}_report")
        if is_whole:
            made_with.finish(folder)
        try:
            # What failed may be another one of them.
            tracking.close_parent(folder, "FINISHED" if is_whole else status)
        except InputError as error:
            print(error)


def print_outcome():
    """Print the table across experiments, when there is one."""
    if Path(OVERVIEW).is_file():
        print(Path(OVERVIEW).read_text())
        print("reports: results/<experiment>/report/report.md")
