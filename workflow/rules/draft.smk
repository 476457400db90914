# The Eagle3 head: trained on the target's own answers, or a published one put into our layout.
IMPORT_OPTIONS = ["rope_theta", "probe_answers"]
# One process, or several of this machine that train together.
PROCESSES = config["draft"]["processes"]
PROGRAM = "python -m ltd.train_draft"
if PROCESSES > 1:
    several = f"torch.distributed.run --standalone --nproc-per-node {PROCESSES}"
    PROGRAM = f"python -m {several} -m ltd.train_draft"


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
            gpu=PROCESSES,
        params:
            target=target_name,
            program=PROGRAM,
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
