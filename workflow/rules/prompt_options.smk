# Options of a split of the prompts: its own, and those of the others, which it is compared with.


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
