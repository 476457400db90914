# One experiment, end to end: what `Snakefile` runs once, or once for each of `experiments`.
include: "rules/common.smk"
include: "rules/prompts.smk"
include: "rules/target.smk"
include: "rules/draft.smk"
include: "rules/latency.smk"
include: "rules/traces.smk"
include: "rules/policies.smk"
include: "rules/tuning.smk"
include: "rules/baselines.smk"
include: "rules/opponents.smk"
include: "rules/transfer.smk"
include: "rules/benchmark.smk"
include: "rules/ablations.smk"
include: "rules/report.smk"


if config["reuse"]:

    include: "rules/reuse.smk"
