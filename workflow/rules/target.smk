# The target model: trained from scratch in the embedded default, otherwise taken from `target.path`.
rule train_target:
    input:
        corpus=f"{RESULTS}/prompts/corpus",
        validation=f"{RESULTS}/prompts/validation",
    output:
        directory(f"{RESULTS}/target"),
    log:
        f"{RESULTS}/logs/train_target.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_target.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        prompts=lambda wildcards, input: str(Path(input.corpus).parent),
        state=f"{RESULTS}/state/train_target",
        options=options("target", leave_out=["path", *EFFORT["target"]], threads=None),
        computing=computing("device", "dtype"),
        effort=effort("target"),
    shell:
        "python -m ltd.train_target --prompts {params.prompts} --output {output} --state {params.state}"
        " {params.options} {params.computing} {params.effort} 2>&1 | tee {log}"


# The target's own answers: what the head learns from and what the traces follow.
rule generate_responses_of_split:
    input:
        prompts=PROMPTS,
        target=TARGET_FILES,
        template=config["responses"]["chat_template"] or [],
    output:
        tokens=f"{RESULTS}/responses/{{split}}-t{{temperature}}.safetensors",
        index=f"{RESULTS}/responses/{{split}}-t{{temperature}}.json",
    log:
        f"{RESULTS}/logs/generate_responses-{{split}}-t{{temperature}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_responses-{{split}}-t{{temperature}}.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        state=f"{RESULTS}/state/generate_responses-{{split}}-t{{temperature}}",
        # A function: Snakemake would take braces in a system prompt for wildcards.
        options=lambda wildcards: model_options(
            "responses", leave_out=EFFORT["responses"], threads=None
        ),
        effort=effort("responses"),
        # Drafters alone learn from this split's answers: no decoding has to repeat them.
        precision=lambda wildcards: (
            "--reduced-precision" if wildcards.split == "draft" else ""
        ),
    shell:
        "python -m ltd.generate_responses --target {params.target:q} --prompts {input.prompts}"
        " --output {output.tokens} --state {params.state} --temperature {wildcards.temperature}"
        " {params.precision} {params.options} {params.effort} 2>&1 | tee {log}"


rule generate_responses:
    input:
        [answer_file(split) for split in SPLITS],
        forced=forced_jobs,
