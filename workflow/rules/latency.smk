# Milliseconds of every phase on this machine. Takes all cores and the GPU, so that nothing runs beside it.
rule profile_latency:
    input:
        target=TARGET_FILES,
        draft=DRAFT_FILES,
    output:
        f"{RESULTS}/latency/profile.json",
    log:
        f"{RESULTS}/logs/profile_latency.log",
    benchmark:
        f"{RESULTS}/benchmarks/profile_latency.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        draft=draft_name,
        options=model_options("latency", tree=True),
    shell:
        "python -m ltd.profile_latency --target {params.target:q} --draft {params.draft}"
        " --output {output} {params.options} 2>&1 | tee {log}"
