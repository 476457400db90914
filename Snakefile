# Learning to Draft, end to end: prompts, target, Eagle3 head, latency, traces, policies, tuning, benchmark, report.
from snakemake.utils import min_version

min_version("9.0")


# Found beside this file also when --directory moves the work elsewhere.
configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/target.smk"
include: "workflow/rules/draft.smk"
include: "workflow/rules/latency.smk"
include: "workflow/rules/traces.smk"
include: "workflow/rules/policies.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/opponents.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/report.smk"


onstart:
    open_parent_run()


onsuccess:
    close_parent_run("FINISHED")
    print_outcome()


onerror:
    close_parent_run("FAILED")


localrules:
    all,


# The whole reproduction.
rule all:
    default_target: True
    input:
        f"{RESULTS}/report/report.md",
