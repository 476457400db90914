"""The pair of a chain that is deployed: the iteration with the best validation throughput in replay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.files import read_json
from ltd.options import StageOptions, option, run_stage
from ltd.rl.policies import VALIDATION
from ltd.rl.policy_folders import copy_pair


@dataclass(frozen=True, kw_only=True)
class ChoosePoliciesOptions(StageOptions):
    """Options of the choice."""

    candidates: tuple[Path, ...] = option(help="folders of the iterations, first to last")
    output: Path = option(help="folder of the chosen pair")


def choose_policies(options: ChoosePoliciesOptions, run: Any) -> None:
    """Copy the best candidate and write beside it, in chosen.json, how all of them did."""
    if not options.candidates:
        raise InputError("candidates: none given; name the folders of the iterations")
    speedups = {str(folder): read_json(folder / VALIDATION)["speedup"] for folder in options.candidates}
    best = max(options.candidates, key=lambda folder: speedups[str(folder)])
    by_name = {Path(folder).name: speedup for folder, speedup in speedups.items()}
    copy_pair(best, options.output, chosen={"chosen": best.name, "validation_speedup": by_name})
    for iteration, speedup in enumerate(speedups.values()):
        run.metrics({"speedup": speedup}, iteration)
    run.artifact(options.output)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("choose_policies", ChoosePoliciesOptions, choose_policies, __doc__, argv)


if __name__ == "__main__":
    main()
