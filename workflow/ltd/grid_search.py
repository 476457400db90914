"""Static grid search in replay: the best depth and size, plain decoding included, and the bounds.

Every depth of the traces (0 too) with every size from 1; over several beam widths when one trace file and one
profile a width are given. Chosen on the traces it is given, which must not be those of the test prompts.
Beside the winners stand the clairvoyant bound and the bound of one choice per task.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.files import write_json
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.simulator import Simulation
from ltd.replay.static_grid import StaticGrid, static_grid
from ltd.replay.traces import Traces, of_tasks


@dataclass(frozen=True, kw_only=True)
class GridSearchOptions(StageOptions):
    """Options of the grid search."""

    traces: tuple[Path, ...] = option(help="trace files of the validation prompts, one a beam width")
    profiles: tuple[Path, ...] = option(help="latency profiles, in the order of the trace files")
    output: Path = option(help="JSON file of the winners and bounds")
    train_tasks: tuple[str, ...] = option((), "tasks to choose for, those that policies see; none: all")
    max_size: int = option(38, "largest tree of the grid; every size from 1 to this one is tried")


def search_grid(traces: Traces, profile: LatencyProfile, max_size: int) -> dict[str, Any]:
    """Try every static setting on one beam width; throughputs in tokens a second.

    Raises InputError when traces and profile do not belong together or a size has no measured time.
    """
    sizes = range(1, max_size + 1)
    grid = static_grid(traces, profile, range(traces.max_depth + 1), sizes)
    clairvoyant = oracle(traces, profile, sizes)
    return {
        "beam": traces.beam,
        "temperature": traces.temperature,
        "overall": _winner(grid, None),
        "tasks": {task: _winner(grid, task) for task in sorted(set(grid.tasks))},
        "bounds": {
            "autoregressive": _throughputs(grid.setting(0, 1)),
            "overall": _throughputs(grid.setting(*grid.best()[:2])),
            "one_choice_per_task": _throughputs(grid.best_per_task()),
            "oracle": _throughputs(clairvoyant),
        },
        "depths": list(grid.depths),
        "sizes": list(grid.sizes),
        "tokens_per_second": grid.throughput().round(3).tolist(),
        "acceptance_length": grid.acceptance_length().round(4).tolist(),
    }


def _winner(grid: StaticGrid, task: str | None) -> dict[str, Any]:
    depth, size, throughput = grid.best(task)
    simulation = grid.setting(depth, size)
    return {
        "depth": depth,
        "size": size,
        "tokens_per_second": throughput,
        "speedup": throughput / grid.setting(0, grid.sizes[0]).throughput(task),
        "acceptance_length": simulation.acceptance_length(task),
    }


def _throughputs(simulation: Simulation) -> dict[str, float]:
    tasks = sorted(set(simulation.tasks))
    return {"overall": simulation.throughput()} | {task: simulation.throughput(task) for task in tasks}


def grid_search(options: GridSearchOptions, run: Any) -> None:
    """Search every beam width and write the results, the fastest first."""
    if len(options.traces) != len(options.profiles) or not options.traces:
        raise InputError(
            f"profiles: {len(options.profiles)} given for {len(options.traces)} trace files; one each"
        )
    if options.max_size < 1:
        raise InputError(f"max_size: {options.max_size}; the smallest tree has one node")
    pairs = [
        (of_tasks(Traces.load(traces), options.train_tasks, str(traces)), LatencyProfile.load(profile))
        for traces, profile in zip(options.traces, options.profiles, strict=True)
    ]
    results = [search_grid(traces, profile, options.max_size) for traces, profile in pairs]
    results.sort(key=lambda result: -result["overall"]["tokens_per_second"])
    write_json(
        options.output, {"best": results[0]["overall"] | {"beam": results[0]["beam"]}, "grids": results}
    )
    run.artifact(options.output)
    run.metrics({f"grid.{key}": float(value) for key, value in results[0]["overall"].items()})
    for result in results:
        print(_summary(result))


def _summary(result: dict[str, Any]) -> str:
    lines = [f"beam {result['beam']}: best static setting, speedup over plain decoding, bounds"]
    plain, bounds = result["bounds"]["autoregressive"], result["bounds"]
    for name, winner in {"overall": result["overall"], **result["tasks"]}.items():
        shown = [
            f"{key} {bounds[key][name] / plain[name]:.3f}x"
            for key in ("overall", "one_choice_per_task", "oracle")
        ]
        lines.append(
            f"  {name:14s} depth {winner['depth']:2d} size {winner['size']:3d} {winner['speedup']:.3f}x"
            f"  ({', '.join(shown)})"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("grid_search", GridSearchOptions, grid_search, __doc__, argv)


if __name__ == "__main__":
    main()
