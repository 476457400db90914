# What the rules share: paths, options of a stage from its block of config.yaml, checks.
import os
import re
import shlex
import sys
from pathlib import Path

from ltd import configuration, methods, reuse
from ltd.ablations import catalogue as ablations
from ltd.baselines import NAMES as BASELINES
from ltd.effort import OPTIONS as EFFORT
from ltd.errors import InputError
from ltd.files import own_files
from ltd.options import command_line
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


def policies_of(names):
    """Folders of the policies that methods decode with."""
    return methods.needed_folders(names, f"{RESULTS}/policies")


def asked(names):
    """Those of `names` that the benchmark asks for, with whichever variant."""
    wanted = {method.partition(":")[0] for method in config["benchmark"]["methods"]}
    return [name for name in names if name in wanted]
