# Prompts of every task in disjoint splits, from the built-in generators, JSONL files or hub data sets.
rule prepare_prompts:
    input:
        own_files(config["prompts"]["path"], "**/*.jsonl"),
    output:
        prompts=[file for split in SPLITS for file in prompt_files(split)],
        summary=f"{RESULTS}/prompts/summary.json",
    log:
        f"{RESULTS}/logs/prepare_prompts.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_prompts.tsv"
    conda:
        "../../envs/ltd.yaml"
    params:
        output=folder_of_output,
        options=options_of_prompts(),
        effort=effort(),
    shell:
        "python -m ltd.prepare_prompts --output {params.output} {params.options} {params.effort} 2>&1"
        " | tee {log}"
