# Prompts of every task in disjoint splits, from the built-in generators, JSONL files or hub data sets: a job a split,
# so that another number of test prompts makes no other training prompts.
include: "prompt_options.smk"


PROMPTS = f"{RESULTS}/prompts/{{split}}"
PROMPT_SPLITS = [*SPLITS, *(["corpus"] if prompts_block()["corpus"] else [])]


rule prepare_prompts_of_split:
    input:
        own_files(config["prompts"]["path"], "**/*.jsonl"),
    output:
        directory(PROMPTS),
    log:
        f"{RESULTS}/logs/prepare_prompts-{{split}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_prompts-{{split}}.tsv"
    wildcard_constraints:
        split="|".join(PROMPT_SPLITS),
    conda:
        "../../envs/ltd.yaml"
    params:
        options=options_of_split,
        others=options_of_other_splits,
        effort=effort(),
    shell:
        "python -m ltd.prepare_prompts --split {wildcards.split} --output {output} {params.options}"
        " {params.others} {params.effort} 2>&1 | tee {log}"


rule prepare_prompts:
    input:
        expand(PROMPTS, split=PROMPT_SPLITS),
        forced=forced_jobs,
