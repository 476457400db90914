# What the rules of policies.smk take of a chain of policies: inputs, and options of its trainings.
from ltd.rl import retrained_kind
from ltd.rl.presets import PRESETS


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


def settings_of_chain(wildcards):
    if wildcards.chain not in NAMED_CHAINS:
        return f"{RESULTS}/policies/{methods.parse_chain(wildcards.chain).base}/best"
    return f"{RESULTS}/tuning/best.json" if wildcards.chain == "ltd" else []


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


def previous_pair(wildcards):
    return (
        f"{RESULTS}/policies/{wildcards.chain}/iteration-{int(wildcards.iteration) - 1}"
    )


def policy_of_iteration(wildcards):
    """Rounds alternate: size first, as in the paper's section 6.1."""
    return retrained_kind(int(wildcards.iteration))
