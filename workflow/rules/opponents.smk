# Opponents of the learned policies: other methods on the chain default's observations, traces and actions.
from ltd.opponents import NAMES as OPPONENTS
from ltd.reused_parts import SHAPE

# The rl block, as far as it shapes what policies see, are and may do; none of their training.
POLICY_SHAPE = command_line({key: config["rl"][key] for key in SHAPE})
OPPONENT = f"{RESULTS}/opponents/{{opponent}}"


rule fit_opponent:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
    output:
        directory(OPPONENT),
    log:
        f"{RESULTS}/logs/fit_opponents-{{opponent}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_opponents-{{opponent}}.tsv"
    wildcard_constraints:
        opponent="|".join(OPPONENTS),
    conda:
        "../../envs/ltd.yaml"
    params:
        policies=POLICY_SHAPE,
        options=options("opponents"),
    shell:
        "python -m ltd.fit_opponents --opponent {wildcards.opponent} --traces {input.traces}"
        " --validation-traces {input.validation} --profile {input.profile} --output {output}"
        " {params.policies} {params.options} 2>&1 | tee {log}"


rule fit_opponents:
    input:
        expand(OPPONENT, opponent=OPPONENTS),
        forced=forced_jobs,
