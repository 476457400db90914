# Two policies, made to co-adapt: initial ones alone, then rounds that retrain one against the other.
# Three chains: `default` from the rl block, `paper` with its own formulation, `ltd` with the tuned winner.
rule train_initial_policy:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
        settings=settings_of_chain,
    output:
        directory(f"{RESULTS}/policies/{{chain}}/initial/{{policy}}"),
    log:
        f"{RESULTS}/logs/train_policies-{{chain}}-initial-{{policy}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_policies-{{chain}}-initial-{{policy}}.tsv"
    conda:
        "../../envs/ltd.yaml"
    params:
        options=options_of_chain,
        state=f"{RESULTS}/state/train_policies-{{chain}}-initial-{{policy}}",
    shell:
        "python -m ltd.train_policy --policy {wildcards.policy} --traces {input.traces}"
        " --validation-traces {input.validation} --profile {input.profile} --output {output}"
        " --state {params.state} {params.options} 2>&1 | tee {log}"
