# The Eagle3 head: trained on the target's own answers, or a published one put into our layout.
if config["draft"]["path"] is None:

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
            gpu=config["draft"]["processes"],
        params:
            target=target_name,
            program=program("ltd.train_draft", config["draft"]["processes"]),
            state=f"{RESULTS}/state/train_draft",
            options=model_options(
                "draft",
                leave_out=["path", "processes", *IMPORT_OPTIONS, *EFFORT["draft"]],
                threads=None,
            ),
            effort=effort("draft"),
        shell:
            "{params.program} --target {params.target:q} --responses {input.train}"
            " --validation {input.validation} --output {output} --state {params.state}"
            " {params.options} {params.effort} 2>&1 | tee {log}"

else:

    rule import_draft:
        input:
            target=TARGET_FILES,
            draft=own_files(config["draft"]["path"], "*"),
            responses=f"{RESULTS}/responses/validation-t0.safetensors",
        output:
            directory(f"{RESULTS}/draft"),
        log:
            f"{RESULTS}/logs/import_draft.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_draft.tsv"
        conda:
            "../../envs/ltd.yaml"
        threads: workflow.cores
        resources:
            gpu=1,
        params:
            target=target_name,
            draft=config["draft"]["path"],
            options=model_options(
                "draft",
                leave_out=[
                    key for key in config["draft"] if key not in IMPORT_OPTIONS
                ],
                threads=None,
            ),
            effort=effort(),
        shell:
            "python -m ltd.import_draft --target {params.target:q} --draft {params.draft:q}"
            " --responses {input.responses} --output {output} {params.options} {params.effort} 2>&1"
            " | tee {log}"
