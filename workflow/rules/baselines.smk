# Published methods as baselines: classifiers learn from the training traces, constants from validation in replay.
BASELINE = f"{RESULTS}/baselines/{{baseline}}"


rule fit_baseline:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
    output:
        directory(BASELINE),
    log:
        f"{RESULTS}/logs/fit_baselines-{{baseline}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_baselines-{{baseline}}.tsv"
    conda:
        "../../envs/ltd.yaml"
    params:
        options=options("baselines"),
        tasks=TRAIN_TASKS,
    shell:
        "python -m ltd.fit_baselines --baseline {wildcards.baseline} --traces {input.traces}"
        " --validation-traces {input.validation} --profile {input.profile} --output {output}"
        " {params.tasks} {params.options} 2>&1 | tee {log}"


# All of them; some read entropies or hidden states, which the traces hold when asked to.
rule fit_baselines:
    input:
        expand(
            BASELINE,
            baseline=[
                name
                for name in BASELINES
                if (name != "specdecpp" or config["traces"]["features"])
                and (name not in ("svip", "disco") or config["traces"]["entropy"])
            ],
        ),
        forced=forced_jobs,
