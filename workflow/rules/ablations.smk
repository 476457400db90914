# Ablations: the policies of `ltd` or `paper` varied, retrained where that is needed, and compared in replay.
# The chains of variants, policies/variants/<base>-<variant>, are trained by the rules of policies.smk.
rule evaluate_ablation:
    input:
        traces=trace_file("test"),
        profile=rules.profile_latency.output,
        grid=rules.grid_search.output,
        policies=lambda wildcards: policies_of(
            ablations.methods_of(config, wildcards.ablation)
        ),
        cycles=lambda wildcards: (
            rules.benchmark.output.cycles if wildcards.ablation == "overhead" else []
        ),
    output:
        table=f"{RESULTS}/ablations/{{ablation}}.csv",
        finding=f"{RESULTS}/ablations/{{ablation}}.json",
    log:
        f"{RESULTS}/logs/evaluate_ablation-{{ablation}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_ablation-{{ablation}}.tsv"
    wildcard_constraints:
        ablation="|".join(ablations.ALL_NAMES),
    conda:
        "../../envs/ltd.yaml"
    params:
        policies=f"{RESULTS}/policies",
        methods=lambda wildcards: command_line(
            {"methods": ablations.methods_of(config, wildcards.ablation)}
        ),
        cycles=lambda wildcards, input: f"--cycles {input.cycles}" * bool(input.cycles),
        depth=config["benchmark"]["default_depth"],
        tasks=TEST_TASKS,
        options=common_options(),
    shell:
        "python -m ltd.evaluate_ablation --name {wildcards.ablation} --traces {input.traces}"
        " --profile {input.profile} --grid {input.grid} --policies {params.policies}"
        " --output {output.table} --default-depth {params.depth} {params.cycles} {params.methods}"
        " {params.tasks} {params.options}"
        " 2>&1 | tee {log}"


rule evaluate_ablations:
    input:
        tables=expand(
            f"{RESULTS}/ablations/{{ablation}}.csv",
            ablation=config["ablations"]["run"],
        ),
        forced=forced_jobs,
