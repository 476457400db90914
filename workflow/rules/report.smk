# Tables, figures, findings; the paper's numbers beside ours.
FIGURES = [
    "speedups",
    "composition",
    "latency",
    "lengths",
    "iterations",
    *(f"policies_{chain}" for chain in CHAINS),
    *(
        f"ablation_{name}"
        for name in config["ablations"]["run"]
        if name.startswith(("iterations", "generalisation"))
    ),
]


# What `ltd` chose, where it decoded.
if methods.TUNED in config["benchmark"]["methods"]:
    FIGURES += ["tradeoff", "choices"]
# Of what was trained, here or by the experiment that is reused.
for part, figure in (("draft", "acceptance"), ("target", "target_loss")):
    there = Path(config["reuse"] or RESULTS, part, "training.json").is_file()
    if config[part]["path"] is None and (there or not config["reuse"]):
        FIGURES.append(figure)
if config["transfer"]["in_report"]:
    FIGURES.append("transfer")


# One answer of the benchmark, cycle by cycle, static and learned side by side.
rule walk_answer:
    input:
        target=TARGET_FILES,
        runs=rules.benchmark.output.runs,
        cycles=rules.benchmark.output.cycles,
        responses=f"{RESULTS}/responses/test-t0.safetensors",
    output:
        report(
            f"{RESULTS}/report/answer.html",
            caption="../report/answer.rst",
            category="Report",
        ),
    log:
        f"{RESULTS}/logs/walk_answer.log",
    benchmark:
        f"{RESULTS}/benchmarks/walk_answer.tsv"
    conda:
        "../../envs/ltd.yaml"
    params:
        target=target_name,
        options=common_options(),
    shell:
        "python -m ltd.walk_answer --target {params.target:q} --runs {input.runs}"
        " --cycles {input.cycles} --responses {input.responses} --output {output}"
        " {params.options} 2>&1 | tee {log}"


rule report:
    input:
        rules.benchmark.output,
        answer=rules.walk_answer.output,
        grid=rules.grid_search.output,
        profile=rules.profile_latency.output,
        policies=expand(f"{CHAIN}/best", chain=CHAINS),
        # Their training is shown, too.
        initial=expand(
            f"{CHAIN}/initial/{{policy}}", chain=CHAINS, policy=["size", "depth"]
        ),
        iterations=expand(
            f"{CHAIN}/iteration-{{iteration}}", chain=CHAINS, iteration=ITERATIONS
        ),
        tuning=rules.tune.output,
        ablations=rules.evaluate_ablations.input.tables,
        transfer=(
            rules.transfer.input.machines if config["transfer"]["in_report"] else []
        ),
    output:
        figures=[
            report(
                f"{RESULTS}/report/{name}.svg",
                caption=f"../report/{name.split('_')[0]}.rst",
                category="Figures",
            )
            for name in FIGURES
        ],
        table=f"{RESULTS}/report/summary.txt",
        text=report(
            f"{RESULTS}/report/report.md",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "../../envs/ltd.yaml"
    params:
        output=folder_of_output,
        options=common_options(),
        ablations=command_line({"ablations": config["ablations"]["run"]}),
        machines=command_line(
            {"machines": list(MACHINES) if config["transfer"]["in_report"] else []}
        ),
    shell:
        "python -m ltd.report --output {params.output} {params.ablations} {params.machines}"
        " {params.options} 2>&1 | tee {log}"
