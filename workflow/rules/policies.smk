# Two policies, made to co-adapt: initial ones alone, then rounds that retrain one against the other.
# Chains: `default` from the rl block, `paper` with the paper's formulation, `ltd` with the tuned winner, and those
# of common.smk that only some ask for. Each job waits for the one before, so that chains take longest: they
# go first, and what is fitted to the traces beside them fills the cores that are left.
include: "chains.smk"


CHAIN = f"{RESULTS}/policies/{{chain}}"


rule train_initial_policy:
    input:
        traces=traces_of_chain("train"),
        validation=traces_of_chain("validation"),
        profile=profile_of_chain,
        settings=settings_of_chain,
        unvaried=unvaried("initial/{policy}"),
    output:
        directory(f"{CHAIN}/initial/{{policy}}"),
    log:
        f"{RESULTS}/logs/train_policy-{{chain}}-initial-{{policy}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_policy-{{chain}}-initial-{{policy}}.tsv"
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        options=options_of_chain,
        unvaried=unvaried_option,
        state=f"{RESULTS}/state/train_policy-{{chain}}-initial-{{policy}}",
    shell:
        "python -m ltd.train_policy --policy {wildcards.policy} --traces {input.traces}"
        " --validation-traces {input.validation} --profile {input.profile} --output {output}"
        " --state {params.state} {params.options} {params.unvaried} 2>&1 | tee {log}"


# Iteration 0: the two initial policies together.
rule combine_policies:
    input:
        size_policy=f"{CHAIN}/initial/size",
        depth_policy=f"{CHAIN}/initial/depth",
        validation=traces_of_chain("validation"),
        profile=profile_of_chain,
    output:
        directory(f"{CHAIN}/iteration-0"),
    log:
        f"{RESULTS}/logs/combine_policies-{{chain}}.log",
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        options=options_of_combination,
    shell:
        "python -m ltd.combine_policies --size {input.size_policy} --depth {input.depth_policy}"
        " --validation-traces {input.validation} --profile {input.profile} --output {output}"
        " {params.options} 2>&1 | tee {log}"


# Iterations 1, 2, 3, ...: size, depth, size, ... starting from the pair before.
rule train_policy_round:
    input:
        traces=traces_of_chain("train"),
        validation=traces_of_chain("validation"),
        profile=profile_of_chain,
        settings=settings_of_chain,
        unvaried=unvaried("iteration-{iteration}"),
        previous=previous_pair,
    output:
        directory(f"{CHAIN}/iteration-{{iteration}}"),
    log:
        f"{RESULTS}/logs/train_policy-{{chain}}-{{iteration}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_policy-{{chain}}-{{iteration}}.tsv"
    wildcard_constraints:
        iteration=r"[1-9]\d*",
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        policy=policy_of_iteration,
        options=options_of_chain,
        unvaried=unvaried_option,
        state=f"{RESULTS}/state/train_policy-{{chain}}-{{iteration}}",
    shell:
        "python -m ltd.train_policy --policy {params.policy} --previous {input.previous}"
        " --traces {input.traces} --validation-traces {input.validation} --profile {input.profile}"
        " --output {output} --state {params.state} {params.options} {params.unvaried} 2>&1 | tee {log}"


# The pair to deploy: the iteration that does best on the validation prompts.
rule choose_policies:
    input:
        expand(
            f"{CHAIN}/iteration-{{iteration}}",
            iteration=ITERATIONS,
            allow_missing=True,
        ),
    output:
        directory(f"{CHAIN}/best"),
    log:
        f"{RESULTS}/logs/choose_policies-{{chain}}.log",
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        options=common_options(),
    shell:
        "python -m ltd.choose_policies --candidates {input} --output {output} {params.options} 2>&1"
        " | tee {log}"


rule train_policies:
    input:
        expand(f"{CHAIN}/best", chain=["default", "paper"]),
        forced=forced_jobs,


# What no other stage needs: the paper's own training, 2.3 million steps.
rule train_paper_policies:
    input:
        f"{RESULTS}/policies/{PAPER_FULL}/best",
