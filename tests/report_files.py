"""A small experiment with every file that the report reads, from synthetic runs."""

import pandas as pd

from ltd.files import write_json
from ltd.join_benchmark import JoinBenchmarkOptions, join_benchmark
from ltd.measurement.summary import PHASES, mark_lossless, summarise
from ltd.tracking import StageRun
from synthetic_runs import make_runs

MACHINE = {
    "device": "a processor",
    "device_type": "cpu",
    "dtype": "float32",
    "threads": 2,
    "versions": {"torch": "2.13.0"},
}
SPEEDS = {"autoregressive": 1.0, "eagle3": 0.9, "eagle3_grid": 1.4, "ltd:paper": 1.45, "ltd": 1.6}
# With sampling, learned policies and the best static setting are equally fast.
SAMPLED_SPEEDS = SPEEDS | {"eagle3_grid": 1.2, "ltd:paper": 1.1, "ltd": 1.2}


def measured_and_replayed(speeds=SPEEDS, noise=0.02, temperature=0.0):
    runs, cycles = make_runs(speeds, noise=noise, temperature=temperature)
    replay_runs, replay_cycles = make_runs(speeds | {"oracle": 2.0}, noise=noise, temperature=temperature)
    replay_cycles[list(PHASES)] = float("nan")
    runs, replay_runs = mark_lossless(runs), mark_lossless(replay_runs).assign(source="replay")
    summary = summarise(
        pd.concat([runs, replay_runs]), pd.concat([cycles, replay_cycles.assign(source="replay")])
    )
    return runs, cycles, summary


def write_benchmark(folder, runs, cycles, summary, checked):
    """The benchmark of one temperature; `checked` are the counts of the comparison with transformers."""
    folder.mkdir(parents=True)
    runs.to_parquet(folder / "runs.parquet")
    cycles = cycles.assign(size=cycles["verified"])
    cycles.to_parquet(folder / "cycles.parquet")
    cycles[["temperature", "task", "depth", "size", "tokens"]].to_parquet(folder / "oracle.parquet")
    summary.to_csv(folder / "summary.csv", index=False)
    write_json(
        folder / "benchmark.json",
        {
            "seed": 0,
            "repeats": 2,
            "max_new_tokens": 64,
            "grid": {"depth": 2, "size": 4},
            "default": {"depth": 8, "size": 60},
            "clock_gap": 0.001,
            "recorded_answers": {"prompts": 4, "same": 3, "cycles": {"eagle3_grid": 3, "ltd": 2}},
            "hindsight": {"depth": 1, "size": 4, "gain": 0.0126},
            "drift": {"autoregressive_step": 0.05, "grid_cycle": -0.02},
            "prompts_of_interrupted_run": 0,
            "transformers": checked,
        },
    )
    write_json(folder / "profile.json", MACHINE)


def write_experiment(folder, sampled=False, learned_at=0.0):
    """An experiment with every file that the report reads, on request at temperature 1 too."""
    benchmark = folder / "benchmark"
    checked = {"tokens": 900, "near_ties": 3, "disagreements": 1, "largest_margin": 0.0004}
    write_benchmark(benchmark / "t0", *measured_and_replayed(), checked | {"near_tie_margin": 0.01})
    if sampled:
        tables = measured_and_replayed(SAMPLED_SPEEDS, noise=0.0, temperature=1.0)
        write_benchmark(benchmark / "t1", *tables, None)
    parts = tuple(sorted(benchmark.glob("t*")))
    join_benchmark(JoinBenchmarkOptions(parts=parts, output=benchmark), StageRun())
    grid = {
        "temperature": learned_at,
        "depths": [0, 1, 2],
        "sizes": [1, 4],
        "tokens_per_second": [[100.0, 100.0], [120.0, 130.0], [125.0, 140.0]],
        "acceptance_length": [[1.0, 1.0], [1.6, 1.8], [1.6, 2.3]],
        "bounds": {"autoregressive": {"overall": 100.0}},
        "tasks": {"chat": {}, "code": {}},
    }
    write_json(benchmark / "grid.json", {"best": {"depth": 2, "size": 4}, "grids": [grid]})
    table = {"axis": [1, 2], "ms": [[1.0, 2.0], [3.0, 4.0]], "spread": [[0.1, 0.1], [0.1, 0.1]]}
    plain = {"axis": [1], "ms": [[5.0, 6.0]], "spread": [[0.1, 0.1]]}
    error = {"points": 9, "bias": -0.01, "median": 0.02, "largest": 0.1}
    write_json(
        folder / "latency" / "profile.json",
        MACHINE
        | {
            "beam": 4,
            "max_depth": 8,
            "context_lengths": [64, 128],
            "tables": {
                "autoregressive_step": plain,
                "draft_prefix": table,
                "draft_step": table | {"axis": [2, 3]},
                "verify": table,
            },
            "interpolation_error": {"verify_sizes": error, "contexts": error, "cycles": error},
            "matrix_product_share": 0.61,
        },
    )
    epoch = {"epoch": 1, "acceptance": [0.9, 0.8, 0.7, 0.7, 0.66], "acceptance_length": 3.1}
    best = epoch | {"tasks": {"chat": epoch}}
    write_json(folder / "draft" / "training.json", {"best": best, "epochs": [best, best | {"epoch": 2}]})
    losses = {"final_loss.chat": 0.5, "well_formed.chat": 0.9}
    removed = {"grown_blocks": 2.5, "blocks_0_to_3": 3.25, "blocks_4_to_7": 1.75}
    losses |= {f"final_loss_without_{name}.chat": loss for name, loss in removed.items()}
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "held_out_loss.mean": 2.1}]
    write_json(
        folder / "target" / "training.json",
        {"summary": losses | {"loop.chat": 0.1, "parameters": 12e6}, "history": history},
    )
    for number in range(3):
        path = folder / "policies" / "ltd" / f"iteration-{number}"
        validation = {
            "speedup": 1.4 + number / 10,
            "tasks": {"code": 1.4 + number / 10},
            "static": {"speedup": 1.35},
            "size": {"is_constant": True},
        }
        write_json(path / "validation.json", validation)
        curves = [{"steps": 1000.0 * i, "reward": 0.1 * i, "speedup": 1.4 + 0.02 * i} for i in range(4)]
        for kind in ("size", "depth"):
            write_json(path / f"{kind}.training.json", {"best_steps": 2000, "curves": curves})
    speedups = {f"iteration-{number}": 1.4 + number / 10 for number in range(3)}
    chosen = {"chosen": "iteration-2", "validation_speedup": speedups}
    write_json(folder / "policies" / "ltd" / "best" / "chosen.json", chosen)
    write_json(folder / "tuning" / "best.json", {"settings": {"learning_rate": 0.001}})
    (folder / "benchmarks" / "train_policy-variants").mkdir(parents=True)
    header = "s\th:m:s\tmax_rss\n"
    (folder / "benchmarks" / "train_policy-ltd-1.tsv").write_text(header + "90.0\t0:01:30\t300.0\n")
    (folder / "benchmarks" / "train_policy-variants" / "ltd-seed-1.tsv").write_text(
        header + "30.0\t0:00:30\t500.0\n"
    )
    (folder / "benchmarks" / "tune.tsv").write_text(header + "60.0\t0:01:00\t-\n")
