# What is measured at one temperature; the tables beside it hold all of them.
MEASURED = f"{RESULTS}/benchmark/t{{temperature}}"


# The best static setting, chosen on validation prompts in replay: the baseline that counts.
rule grid_search:
    input:
        traces=trace_file("validation"),
        profile=rules.profile_latency.output,
    output:
        f"{RESULTS}/benchmark/grid.json",
    log:
        f"{RESULTS}/logs/grid_search.log",
    benchmark:
        f"{RESULTS}/benchmarks/grid_search.tsv"
    conda:
        "../../envs/ltd.yaml"
    params:
        tasks=TRAIN_TASKS,
        options=options("grid"),
    shell:
        "python -m ltd.grid_search --traces {input.traces} --profiles {input.profile}"
        " --output {output} {params.tasks} {params.options} 2>&1 | tee {log}"


# A second drafter for the same target, look-up in its answers, for `lookup/grid` and `lookup/ltd`.
rule fit_lookup:
    input:
        target=TARGET_FILES,
        texts=answer_file(SPLITS[0]),
        validation=answer_file("validation"),
        profile=rules.profile_latency.output,
    output:
        directory(f"{RESULTS}/lookup"),
    log:
        f"{RESULTS}/logs/fit_lookup.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_lookup.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        tree=command_line(config["tree"]),
        tasks=TRAIN_TASKS,
        options=f"{common_options()} {computing('device')}",
    shell:
        "python -m ltd.fit_lookup --target {params.target:q} --texts {input.texts}"
        " --validation {input.validation} --profile {input.profile} --output {output}"
        " {params.tree} {params.tasks} {params.options} 2>&1 | tee {log}"


# What it would have drafted at every position of the target's answers: the chain `lookup` learns from that.
# Times its passes: like the profile, with nothing beside it.
rule record_lookup:
    input:
        lookup=rules.fit_lookup.output,
        texts=rules.fit_lookup.input.texts,
        train=answer_file("train"),
        validation=answer_file("validation"),
        profile=rules.profile_latency.output,
    output:
        train=f"{LOOKUP_TRACES}/train.safetensors",
        validation=f"{LOOKUP_TRACES}/validation.safetensors",
        profile=f"{LOOKUP_TRACES}/profile.json",
    log:
        f"{RESULTS}/logs/record_lookup.log",
    benchmark:
        f"{RESULTS}/benchmarks/record_lookup.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        output=folder_of_output,
        temperature=LEARNED_AT,
        options=f"{common_options()} {computing('device')}",
    shell:
        "python -m ltd.record_lookup --lookup {input.lookup} --texts {input.texts} --train {input.train}"
        " --validation {input.validation} --profile {input.profile} --output {params.output}"
        " --temperature {params.temperature} {params.options} 2>&1 | tee {log}"


# Real decoding, every method on every test prompt, interleaved. Takes all cores and the GPU. Whatever the
# temperature, policies, baselines and grid are those that learned at `traces.temperature`.
rule benchmark_at_temperature:
    input:
        target=TARGET_FILES,
        draft=DRAFT_FILES,
        profile=rules.profile_latency.output,
        grid=rules.grid_search.output,
        policies=policies_of(config["benchmark"]["methods"]),
        baselines=expand(BASELINE, baseline=asked(BASELINES)),
        opponents=[
            f"{RESULTS}/opponents/{method}"
            for method in config["benchmark"]["methods"]
            if method in OPPONENTS
        ],
        lookup=(
            f"{RESULTS}/lookup"
            if {methods.LOOKUP, methods.LOOKUP_LEARNED}
            & set(config["benchmark"]["methods"])
            else []
        ),
        responses=f"{RESULTS}/responses/test-t{{temperature}}.safetensors",
        traces=trace_file("test", "{temperature}"),
    output:
        cycles=f"{MEASURED}/cycles.parquet",
        runs=f"{MEASURED}/runs.parquet",
        oracle=f"{MEASURED}/oracle.parquet",
        summary=f"{MEASURED}/summary.csv",
        details=f"{MEASURED}/benchmark.json",
        profile=f"{MEASURED}/profile.json",
    log:
        f"{RESULTS}/logs/benchmark-t{{temperature}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/benchmark-t{{temperature}}.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        draft=draft_name,
        policies=lambda wildcards: f"{RESULTS}/policies",
        baselines=lambda wildcards: f"{RESULTS}/baselines",
        opponents=lambda wildcards: f"{RESULTS}/opponents",
        lookup=lambda wildcards: f"{RESULTS}/lookup",
        output=folder_of_output,
        state=f"{RESULTS}/state/benchmark-t{{temperature}}",
        options=model_options("benchmark", leave_out=["temperatures"]),
        # As long as the recorded answers, which replay follows to their end.
        max_new_tokens=config["responses"]["max_new_tokens"],
    shell:
        "python -m ltd.benchmark --target {params.target:q} --draft {params.draft}"
        " --profile {input.profile} --grid {input.grid} --policies {params.policies}"
        " --baselines {params.baselines}"
        " --opponents {params.opponents} --lookup {params.lookup}"
        " --responses {input.responses} --traces {input.traces} --output {params.output}"
        " --state {params.state} --max-new-tokens {params.max_new_tokens} {params.options} 2>&1 | tee {log}"


# All temperatures in one set of files: another one in the configuration decodes at that one alone.
rule benchmark:
    input:
        expand(rules.benchmark_at_temperature.output, temperature=TEMPERATURES),
        forced=forced_jobs,
    output:
        cycles=f"{RESULTS}/benchmark/cycles.parquet",
        runs=f"{RESULTS}/benchmark/runs.parquet",
        oracle=f"{RESULTS}/benchmark/oracle.parquet",
        summary=report(
            f"{RESULTS}/benchmark/summary.csv",
            caption="../report/summary.rst",
            category="Benchmark",
        ),
        details=f"{RESULTS}/benchmark/benchmark.json",
    log:
        f"{RESULTS}/logs/join_benchmark.log",
    conda:
        "../../envs/ltd.yaml"
    params:
        parts=expand(MEASURED, temperature=TEMPERATURES),
        output=folder_of_output,
        options=common_options(),
    shell:
        "python -m ltd.join_benchmark --parts {params.parts} --output {params.output}"
        " {params.options} 2>&1 | tee {log}"
