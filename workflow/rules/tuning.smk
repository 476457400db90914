# The Optuna study over reward and hyper-parameters; its journal is resumable state, not an output.
# Workers, where there are several, add trials to it until there are enough; on a cluster each is a job. A trial's
# networks are too small for a second thread, which made trials a fifth slower.
WORKERS = range(config["tune"]["workers"])
WORKER_FILE = f"{RESULTS}/tuning-workers/{{worker}}.json"


rule tune_worker:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
        untuned=f"{RESULTS}/policies/default/best",
    output:
        WORKER_FILE,
    log:
        f"{RESULTS}/logs/tune-worker-{{worker}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune-worker-{{worker}}.tsv"
    wildcard_constraints:
        worker=r"\d+",
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        state=f"{RESULTS}/state/tune",
        options=options("tune", leave_out=["workers"]),
    shell:
        "python -m ltd.tune --worker {wildcards.worker} --traces {input.traces}"
        " --validation-traces {input.validation} --profile {input.profile}"
        " --settings {input.untuned}/settings.json --output {output} --state {params.state}"
        " {params.options} 2>&1 | tee {log}"


rule tune:
    input:
        traces=trace_file("train"),
        validation=trace_file("validation"),
        profile=rules.profile_latency.output,
        untuned=f"{RESULTS}/policies/default/best",
        workers=expand(WORKER_FILE, worker=WORKERS) if len(WORKERS) > 1 else [],
        forced=forced_jobs,
    output:
        best=f"{RESULTS}/tuning/best.json",
        trials=f"{RESULTS}/tuning/trials.csv",
    log:
        f"{RESULTS}/logs/tune.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune.tsv"
    priority: 1
    conda:
        "../../envs/ltd.yaml"
    params:
        output=folder_of_output,
        state=f"{RESULTS}/state/tune",
        options=options("tune", leave_out=["workers"]),
    shell:
        "python -m ltd.tune --traces {input.traces} --validation-traces {input.validation}"
        " --profile {input.profile} --settings {input.untuned}/settings.json"
        " --output {params.output} --state {params.state}"
        " {params.options} 2>&1 | tee {log}"
