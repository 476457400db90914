# Policies on machines that they were not trained for, in replay: as they are, made for any machine, retrained.
include: "machines.smk"


# The measured machine with a verification that grows more slowly, as where arithmetic is to spare.
rule vary_profile:
    input:
        profile=rules.profile_latency.output,
    output:
        f"{RESULTS}/latency/slower-{{factor}}.json",
    log:
        f"{RESULTS}/logs/vary_profile-{{factor}}.log",
    wildcard_constraints:
        factor=r"[0-9.e+-]+",
    conda:
        "../../envs/ltd.yaml"
    params:
        options=common_options(),
    shell:
        "python -m ltd.vary_profile --profile {input.profile} --output {output}"
        " --slower-growth {wildcards.factor} {params.options} 2>&1 | tee {log}"


rule transfer_to_machine:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        test=trace_file("test"),
        profile=profile_of_machine,
        policies=f"{RESULTS}/policies/default/best",
        conditioned=f"{RESULTS}/policies/conditioned/best",
    output:
        directory(f"{RESULTS}/transfer/{{machine}}"),
    log:
        f"{RESULTS}/logs/transfer-{{machine}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/transfer-{{machine}}.tsv"
    wildcard_constraints:
        machine="|".join(map(re.escape, MACHINES)),
    conda:
        "../../envs/ltd.yaml"
    params:
        max_size=config["grid"]["max_size"],
        rounds=config["rl"]["rounds"],
        tasks=TEST_TASKS,
        options=common_options(),
    shell:
        "python -m ltd.transfer --traces {input.traces} --validation-traces {input.validation}"
        " --test-traces {input.test} --profile {input.profile:q} --policies {input.policies}"
        " --conditioned {input.conditioned} --output {output} --max-size {params.max_size}"
        " --rounds {params.rounds}"
        " {params.tasks} {params.options} 2>&1 | tee {log}"


rule transfer:
    input:
        machines=expand(f"{RESULTS}/transfer/{{machine}}", machine=MACHINES),
        forced=forced_jobs,
