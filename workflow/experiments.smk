# Several experiments in one DAG, the rules of each under its name, and a table across them.
import sys
from pathlib import Path

from ltd import experiment_files
from ltd.errors import InputError
from ltd.options import command_line

try:
    CONFIGURATIONS = experiment_files.configurations(
        config, Path(workflow.basedir) / "workflow"
    )
except InputError as error:
    sys.exit(f"config: {error}")

OVERVIEW = "results/overview.md"
OUTCOME = [
    OVERVIEW,
    *(f"results/{experiment}/report/report.md" for experiment in CONFIGURATIONS),
]
EXPERIMENTS = {f"{name}_": settings for name, settings in CONFIGURATIONS.items()}
SUMMARY = ("overview", Path(OVERVIEW), "results/<experiment>/report/report.md")


def for_every_experiment(settings):
    """Repeat settings by rule (of a profile, say) for the rules of every experiment."""
    own = {
        f"{experiment}_{rule}": value
        for experiment in CONFIGURATIONS
        for rule, value in settings.items()
    }
    return {**settings, **own}


limits = workflow.resource_settings
limits.overwrite_threads = for_every_experiment(limits.overwrite_threads)
limits.overwrite_resources = for_every_experiment(limits.overwrite_resources)

for name, settings in CONFIGURATIONS.items():
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
        [f"results/{experiment}/report/report.md" for experiment in CONFIGURATIONS],
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
                "experiments": [
                    f"results/{experiment}" for experiment in CONFIGURATIONS
                ],
                "targets": [
                    experiment_files.target_label(c) for c in CONFIGURATIONS.values()
                ],
                "heads": [
                    experiment_files.head_label(c) for c in CONFIGURATIONS.values()
                ],
            }
        ),
    shell:
        "python -m ltd.overview --output {params.output} {params.options} 2>&1 | tee {log}"
