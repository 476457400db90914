# Learning to Draft, end to end: prompts, target, Eagle3 head, latency, traces, policies, tuning, benchmark, report.
from snakemake.utils import min_version

min_version("9.0")


# Found beside this file also when --directory moves the work elsewhere.
configfile: f"{workflow.basedir}/config.yaml"


# Both give OUTCOME, and for the handlers EXPERIMENTS, the configurations by the prefix of their rules, and SUMMARY, the
# rule and the file of the table to print and where the report is.
if config.get("experiments"):

    include: "workflow/experiments.smk"

else:

    include: "workflow/experiment.smk"


onstart:
    from ltd import reproduction  # loads MLflow, which planning needs not

    try:
        reproduction.begin(EXPERIMENTS)
    except InputError as error:
        sys.exit(str(error))


onsuccess:
    from ltd import reproduction

    reproduction.end(EXPERIMENTS, workflow.dag, "FINISHED")
    if words := reproduction.last_words(workflow.dag, *SUMMARY):
        print(words)


onerror:
    from ltd import reproduction

    reproduction.end(EXPERIMENTS, workflow.dag, "FAILED")


# The whole reproduction.
rule all:
    default_target: True
    input:
        OUTCOME,
