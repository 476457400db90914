# What the head would have drafted at every position of the target's answers: exact replay needs no GPU.
rule record_traces_of_split:
    input:
        target=TARGET_FILES,
        draft=DRAFT_FILES,
        responses=f"{RESULTS}/responses/{{split}}-t{{temperature}}.safetensors",
    output:
        f"{RESULTS}/traces/{{split}}-t{{temperature}}-w{config['tree']['beam']}.safetensors",
    log:
        f"{RESULTS}/logs/record_traces-{{split}}-t{{temperature}}-w{config['tree']['beam']}.log",
    benchmark:
        f"{RESULTS}/benchmarks/record_traces-{{split}}-t{{temperature}}-w{config['tree']['beam']}.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        draft=draft_name,
        state=f"{RESULTS}/state/record_traces-{{split}}-t{{temperature}}-w{config['tree']['beam']}",
        options=model_options(
            "traces",
            leave_out=["temperature", *EFFORT["traces"]],
            tree=True,
            threads=None,
        ),
        effort=effort("traces"),
    shell:
        "python -m ltd.record_traces --target {params.target:q} --draft {params.draft}"
        " --responses {input.responses} --output {output} --state {params.state}"
        " --temperature {wildcards.temperature}"
        " {params.options} {params.effort} 2>&1 | tee {log}"


rule record_traces:
    input:
        [trace_file(split) for split in REPLAYED],
        forced=forced_jobs,
