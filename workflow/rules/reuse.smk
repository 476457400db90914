# Copies of what a finished experiment made, before the rules that would make it here: those serve for the rest.
ANNOUNCEMENT = reuse.announcement(config)
if ANNOUNCEMENT and workflow.is_main_process:
    # Not among what Snakemake itself prints there, a graph say.
    print(ANNOUNCEMENT, file=sys.stderr)


ruleorder: reuse_folder > train_target
ruleorder: reuse_folder > train_initial_policy
ruleorder: reuse_folder > combine_policies
ruleorder: reuse_folder > train_policy_round
ruleorder: reuse_folder > choose_policies
ruleorder: reuse_folder > fit_baseline
ruleorder: reuse_folder > fit_opponent
ruleorder: reuse_folder > fit_lookup
ruleorder: reuse_file > profile_latency
ruleorder: reuse_file > grid_search
ruleorder: reuse_file > tune


if config["draft"]["path"] is None:

    ruleorder: reuse_folder > train_draft

else:

    ruleorder: reuse_folder > import_draft


# Models, and of the rest the parts that the same keys have made.
TAKEN = reuse.taken(config)
FOLDERS = "|".join(["target|draft", *(part.folders for part in TAKEN if part.folders)])
# The traces of training are for what is fitted here.
FILES = "|".join(
    [
        rf"traces/(train|validation)-t{re.escape(LEARNED_AT)}-w\d+\.safetensors",
        *(part.files for part in TAKEN if part.files),
    ]
)
# Its own prompts again, with what the target answered and the head drafted.
if not reuse.has_other_prompts(config):
    FOLDERS += "|prompts/[^/]+"
    FILES += r"|traces/test-t[^/]+\.safetensors"


rule reuse_folder:
    input:
        f"{config['reuse']}/{{folder}}",
    output:
        directory(f"{RESULTS}/{{folder}}"),
    log:
        f"{RESULTS}/logs/reuse/{{folder}}.log",
    wildcard_constraints:
        folder=FOLDERS,
    localrule: True
    conda:
        "../../envs/ltd.yaml"
    shell:
        "cp -r {input:q} {output:q} 2>&1 | tee {log}"


if not reuse.has_other_prompts(config):

    ruleorder: reuse_folder > prepare_prompts_of_split
    ruleorder: reuse_file > record_traces_of_split
    ruleorder: reuse_responses > generate_responses_of_split

    rule reuse_responses:
        input:
            multiext(
                f"{config['reuse']}/responses/{{responses}}", ".safetensors", ".json"
            ),
        output:
            multiext(f"{RESULTS}/responses/{{responses}}", ".safetensors", ".json"),
        log:
            f"{RESULTS}/logs/reuse/responses-{{responses}}.log",
        localrule: True
        conda:
            "../../envs/ltd.yaml"
        params:
            folder=folder_of_output,
        shell:
            "cp {input:q} {params.folder} 2>&1 | tee {log}"


rule reuse_file:
    input:
        f"{config['reuse']}/{{file}}",
    output:
        f"{RESULTS}/{{file}}",
    log:
        f"{RESULTS}/logs/reuse/{{file}}.log",
    wildcard_constraints:
        file=FILES,
    localrule: True
    conda:
        "../../envs/ltd.yaml"
    shell:
        "cp {input:q} {output:q} 2>&1 | tee {log}"
