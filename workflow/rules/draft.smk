# The Eagle3 head, trained on the target's own answers; with `draft.path` an existing head is used instead.
rule train_draft:
    input:
        target=TARGET_FILES,
        train=f"{RESULTS}/responses/draft-t0.safetensors",
        validation=f"{RESULTS}/responses/validation-t0.safetensors",
    output:
        directory(f"{RESULTS}/draft"),
    log:
        f"{RESULTS}/logs/train_draft.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_draft.tsv"
    conda:
        "../../envs/ltd.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        target=target_name,
        state=f"{RESULTS}/state/train_draft",
        options=options("draft", leave_out=["path"]),
    shell:
        "python -m ltd.train_draft --target {params.target} --responses {input.train}"
        " --validation {input.validation} --output {output} --state {params.state}"
        " {params.options} 2>&1 | tee {log}"
