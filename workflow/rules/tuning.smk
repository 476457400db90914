# The Optuna study over reward and hyper-parameters; its journal is resumable state, not an output.
rule tune:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
        untuned=f"{RESULTS}/policies/default/best",
    output:
        best=f"{RESULTS}/tuning/best.json",
        trials=f"{RESULTS}/tuning/trials.csv",
    log:
        f"{RESULTS}/logs/tune.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    params:
        output=folder_of_output,
        state=f"{RESULTS}/state/tune",
        options=options("tune"),
    shell:
        "python -m ltd.tune --traces {input.traces} --validation-traces {input.validation}"
        " --profile {input.profile} --settings {input.untuned}/settings.json"
        " --output {params.output} --state {params.state}"
        " {params.options} 2>&1 | tee {log}"
