# Learning to Draft, end to end: prompts, target, Eagle3 head, latency, traces, policies, tuning, benchmark, report.
from snakemake.utils import min_version

min_version("9.0")


# Found beside this file also when --directory moves the work elsewhere.
configfile: f"{workflow.basedir}/config.yaml"


# Both give OUTCOME, open_parent_run, close_parent_run and print_outcome.
if config.get("experiments"):

    include: "workflow/experiments.smk"

else:

    include: "workflow/experiment.smk"


onstart:
    open_parent_run()


onsuccess:
    print_outcome()
    close_parent_run("FINISHED")


onerror:
    close_parent_run("FAILED")


localrules:
    all,


# The whole reproduction.
rule all:
    default_target: True
    input:
        OUTCOME,
