# Tables, figures, findings; the paper's numbers beside ours.
rule report:
    input:
        rules.benchmark.output,
    output:
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
        options=common_options(threads=1),
    shell:
        "python -m ltd.report --output {params.output} {params.options} 2>&1 | tee {log}"
