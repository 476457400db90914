# The machines that policies are moved to: the measured one, made-up ones and those of `transfer.profiles`.
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


def profile_of_machine(wildcards):
    """The machine to move to; a profile of `transfer.profiles` is looked into before any work is done."""
    for path in config["transfer"]["profiles"]:
        if Path(path).stem == wildcards.machine:
            try:
                configuration.check_machine(config, path, Path(workflow.basedir))
            except InputError as error:
                sys.exit(f"config: {error}")
    return MACHINES[wildcards.machine]
