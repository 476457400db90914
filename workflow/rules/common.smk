# What the rules share: paths, options of a stage from its block of config.yaml, checks.
import os
import re
import shlex
import sys
from pathlib import Path

from ltd import configuration, methods, reuse, reused_parts
from ltd.ablations import catalogue as ablations
from ltd.baselines import NAMES as BASELINES
from ltd.effort import OPTIONS as EFFORT
from ltd.errors import InputError
from ltd.files import own_files
from ltd.options import command_line
from ltd.rl import retrained_kind
from ltd.rl.presets import PRESETS
from ltd.stage_jobs import with_jobs


envvars:
    "PATH",


# `python` in a shell command is the one that runs Snakemake, also when its environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# The library is that of this checkout, also in the environments of `--sdm conda`, which hold its pins alone.
LIBRARY = [str(Path(workflow.basedir) / "workflow"), os.environ.get("PYTHONPATH", "")]
shell.prefix(
    f"export PYTHONPATH={shlex.quote(os.pathsep.join(filter(None, LIBRARY)))}; "
)


def check_configuration():
    """Stop with one line before any work is done when the configuration is wrong."""
    try:
        configuration.check(
            config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml"
        )
    except InputError as error:
        sys.exit(f"config: {error}")


check_configuration()


RESULTS = f"results/{config['experiment']}"
OUTCOME = f"{RESULTS}/report/report.md"
EXPERIMENTS = {"": config}
SUMMARY = ("report", Path(RESULTS, "report/summary.txt"), OUTCOME)
# The head learns from the answers to `draft`, the policies from those to `train`.
REPLAYED = ["train", "validation", "test"]
SPLITS = ["draft", *REPLAYED] if config["prompts"]["draft"] else REPLAYED
# Nothing is left to learn where other prompts meet another experiment's models and policies.
if reuse.has_other_prompts(config):
    SPLITS = ["test"]
ITERATIONS = range(config["rl"]["rounds"] + 1)
# As file names have them; the first is 0.
TEMPERATURES = [f"{value:g}" for value in config["benchmark"]["temperatures"]]
# The temperature of the answers that policies, grid and baselines learn from, likewise; the head's are greedy.
LEARNED_AT = f"{config['traces']['temperature']:g}"
# The embedded default trains its own target; `path` puts another in its place.
TARGET = config["target"]["path"] or f"{RESULTS}/target"
TARGET_FILES = (
    own_files(config["target"]["path"], "*") if config["target"]["path"] else [TARGET]
)
# The head is trained, or made from the published one at `path`.
DRAFT = f"{RESULTS}/draft"
DRAFT_FILES = [DRAFT]
IMPORT_OPTIONS = ["rope_theta", "probe_answers"]


PROFILE = f"{RESULTS}/latency/profile.json"
LOOKUP_TRACES = f"{RESULTS}/lookup-traces"


# Chains of policies: the rl block as it is, the paper's formulation, the tuning study's winner.
CHAINS = ["default", "paper", "ltd"]
# Policies that observe the machine, for any machine.
CONDITIONED = "conditioned"
# Policies for the drafter without a network, from traces of its own.
LOOKUP_CHAIN = methods.LOOKUP_CHAIN
# The paper's formulation with all of its steps, beside the short one: `make paper-rl`.
PAPER_FULL = "paper-full"
NAMED_CHAINS = [*CHAINS, CONDITIONED, PAPER_FULL, LOOKUP_CHAIN]
# Ablations and the benchmark may ask for variants of the chains `paper` and `ltd`.
VARIANTS = r"variants/(paper|ltd)-[^/]+"


wildcard_constraints:
    split="|".join(SPLITS),
    temperature=r"[0-9.e+-]+",
    chain="|".join([*NAMED_CHAINS, VARIANTS]),
    iteration=r"\d+",
    policy=r"size|depth",
    baseline="|".join(BASELINES),


def common_options(threads=1, seed=config["seed"]):
    """Render the options that every stage has; `threads` None leaves these to `effort`."""
    common = {"experiment": RESULTS, "seed": seed}
    common |= {"threads": threads} if threads is not None else {}
    return command_line(common)


def effort(block=None):
    """Render what changes how long a stage takes and how much memory, not what it makes: threads, and keys of a
    block.

    A function of the input: what such a one returns Snakemake does not compare with what it was.
    """
    own = {key: config[block][key] for key in EFFORT.get(block, ())}
    return lambda wildcards, input: command_line({"threads": config["threads"]} | own)


def options(block, leave_out=(), tree=False, threads=1):
    """Render one block of the configuration as flags, with the common ones; `tree` adds beam and depth."""
    own = {key: value for key, value in config[block].items() if key not in leave_out}
    return f"{common_options(threads)} {command_line(config['tree'] if tree else {})} {command_line(own)}"


def computing(*keys):
    """Render where, and how precisely, a stage computes that has these keys."""
    return command_line({key: config[key] for key in keys})


def model_options(*arguments, threads=config["threads"], **settings):
    """Render `options` of a stage that loads target and head, and how it does that."""
    own = options(*arguments, threads=threads, **settings)
    return f"{own} {computing('device', 'dtype', 'quantisation')}"


# Tasks that constants, classifiers and policies are fitted to, and tasks that all are compared on.
TRAIN_TASKS = command_line({"train_tasks": config["rl"]["train_tasks"]})
TEST_TASKS = command_line({"test_tasks": config["benchmark"]["test_tasks"]})


def has_training(part):
    """Tell whether the report can show how `target` or `draft` was trained, here or where it is reused from."""
    if config[part]["path"] is not None:
        return False
    return (
        config["reuse"] is None
        or Path(config["reuse"], part, "training.json").is_file()
    )


def program(module, processes):
    """Start a stage, in several processes of this machine when asked to."""
    several = f"torch.distributed.run --standalone --nproc-per-node {processes} -m"
    return f"python -m {several} {module}" if processes > 1 else f"python -m {module}"


def prompts_block():
    """The prompts block: built-in texts only where a target learns from them, and beside models and policies of
    another experiment all prompts are test prompts.
    """
    changed = {} if config["target"]["path"] is None else {"corpus": 0}
    if reuse.has_other_prompts(config):
        changed |= {
            "test_only": config["prompts"]["tasks"],
            "draft": 0,
            "corpus": 0,
            "learned_from": f"{config['reuse']}/prompts",
        }
    return config["prompts"] | changed


def other_counts(split):
    """Counts of the prompts block that change nothing about a split; `draft` and `train` are drawn as one."""
    own = ["draft", "train"] if split in ("draft", "train") else [split]
    counts = ["draft", "train", "validation", "test", "corpus"]
    return {key: prompts_block()[key] for key in counts if key not in own}


def options_of_split(wildcards):
    """The common options, and those of the prompts block that shape a split."""
    others = other_counts(wildcards.split)
    own = {key: value for key, value in prompts_block().items() if key not in others}
    return f"{common_options(threads=None)} {command_line(own)}"


def options_of_other_splits(wildcards, input):
    """What is compared with a split, so that no prompt is in two; a function of the input, as in `effort`."""
    return command_line(other_counts(wildcards.split))


def target_name(wildcards):
    """The target as stages take it: a folder, or the id of a model on the hub."""
    return TARGET


def draft_name(wildcards):
    """The head as stages take it."""
    return DRAFT


def forced_jobs(wildcards):
    """Input of a stage of several jobs, no file: where `-R` names the stage, its jobs are forced with it.

    What is forced is not known before all rules are read; inputs are asked for before it counts.
    """
    prefixes = ["", f"{config['experiment']}_"]
    names = with_jobs(workflow.dag_settings.forcerun, prefixes)
    forced = filter(lambda known: known.name in names, workflow.rules)
    workflow.dag.forcerules.update(forced)
    return []


def folder_of_output(wildcards, output):
    """The folder that a stage with several output files writes into."""
    return str(Path(output[-1]).parent)


def answer_file(split):
    """The target's answers to a split, as they are learned from."""
    temperature = "0" if split == "draft" else LEARNED_AT
    return f"{RESULTS}/responses/{split}-t{temperature}.safetensors"


def trace_file(split, temperature=LEARNED_AT):
    """Draft trees along a split's answers, those that policies learn from unless told otherwise."""
    return (
        f"{RESULTS}/traces/{split}-t{temperature}-w{config['tree']['beam']}.safetensors"
    )


def traces_of_chain(split):
    """What a chain learns from or is chosen on: trees of the drafter that it is for."""
    looked_up = f"{LOOKUP_TRACES}/{split}.safetensors"
    return lambda wildcards: (
        looked_up if wildcards.chain == LOOKUP_CHAIN else trace_file(split)
    )


def profile_of_chain(wildcards):
    """The machine's latencies, with those of the drafter that the chain is for."""
    looked_up = wildcards.chain == LOOKUP_CHAIN
    return f"{LOOKUP_TRACES}/profile.json" if looked_up else PROFILE


def unvaried(training):
    """Input: the same training of the base, for a variant's chain that may turn out to change nothing."""

    def folder(wildcards):
        if wildcards.chain in NAMED_CHAINS:
            return []
        method = methods.parse_chain(wildcards.chain)
        if methods.seed_of(method.variant, 0):
            return []
        return f"{RESULTS}/policies/{method.base}/{training.format(**wildcards)}"

    return folder


def unvaried_option(wildcards, input):
    return f"--unvaried {input.unvaried}" if input.unvaried else ""


def options_of_chain(wildcards):
    """The rl block, but for what the preset of a chain fixes; the tuned chain puts the study's winner over it.

    A variant's chain has all settings of its base, and over them what it varies.
    """
    if wildcards.chain not in NAMED_CHAINS:
        method = methods.parse_chain(wildcards.chain)
        base = f"{RESULTS}/policies/{method.base}/best/settings.json"
        varied = command_line({"settings": base, "variant": method.variant})
        return f"{options_of_combination(wildcards)} {varied}"
    known = ablations.trainable_tasks(config)
    paper = {
        "train_tasks": [task for task in config["rl"]["paper_tasks"] if task in known]
    }
    extra = {
        "paper": {"preset": config["rl"]["paper_preset"]} | paper,
        PAPER_FULL: {"preset": "paper"} | paper,
        CONDITIONED: {"preset": "conditioned"},
        "ltd": {"settings": f"{RESULTS}/tuning/best.json"},
    }.get(wildcards.chain, {})
    fixed = [*PRESETS[extra.get("preset", "default")], *extra]
    # How many rounds follow changes nothing about a training.
    left_out = ["rounds", "paper_preset", "paper_tasks", *fixed]
    return f"{options('rl', left_out)} {command_line(extra)}"


def options_of_combination(wildcards):
    """The common options with the chain's own seed, by which machines are drawn to validate on."""
    seed = config["seed"]
    if wildcards.chain not in NAMED_CHAINS:
        variant = methods.parse_chain(wildcards.chain).variant
        seed = methods.seed_of(variant, seed)
    return common_options(seed=seed)


def options_of_policies():
    """The rl block, as far as it shapes what policies see, are and may do; none of their training."""
    return command_line({key: config["rl"][key] for key in reused_parts.SHAPE})


def settings_of_chain(wildcards):
    if wildcards.chain not in NAMED_CHAINS:
        return f"{RESULTS}/policies/{methods.parse_chain(wildcards.chain).base}/best"
    return f"{RESULTS}/tuning/best.json" if wildcards.chain == "ltd" else []


def policies_of(names):
    """Folders of the policies that methods decode with."""
    return methods.needed_folders(names, f"{RESULTS}/policies")


def previous_pair(wildcards):
    return (
        f"{RESULTS}/policies/{wildcards.chain}/iteration-{int(wildcards.iteration) - 1}"
    )


def policy_of_iteration(wildcards):
    """Rounds alternate: size first, as in the paper's section 6.1."""
    return retrained_kind(int(wildcards.iteration))


def asked(names):
    """Those of `names` that the benchmark asks for, with whichever variant."""
    wanted = {method.partition(":")[0] for method in config["benchmark"]["methods"]}
    return [name for name in names if name in wanted]


def profile_of_machine(wildcards):
    """The machine to move to; a profile of `transfer.profiles` is looked into before any work is done."""
    for path in config["transfer"]["profiles"]:
        if Path(path).stem == wildcards.machine:
            try:
                configuration.check_machine(config, path, Path(workflow.basedir))
            except InputError as error:
                sys.exit(f"config: {error}")
    return MACHINES[wildcards.machine]


MACHINES = {
    "measured": PROFILE,
    **{
        f"slower-{factor:g}": f"{RESULTS}/latency/slower-{factor:g}.json"
        for factor in config["transfer"]["slower_growth"]
    },
    **{
        Path(path).stem: str(configuration.find_profile(path, Path(workflow.basedir)))
        for path in config["transfer"]["profiles"]
    },
}
