"""Runs and cycles of a benchmark whose every number is known."""

import numpy as np
import pandas as pd

TASKS = ("chat", "maths", "stdlib")


def make_runs(
    speeds: dict[str, float], prompts: int = 12, noise: float = 0.0, temperature: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and cycles in which a method's speedup on every prompt is `speeds[method]`, up to noise."""
    rng = np.random.default_rng(0)
    runs, cycles = [], []
    for task in TASKS:
        for prompt in range(prompts):
            tokens = int(rng.integers(20, 60))
            for method, speed in speeds.items():
                for repeat in range(2):
                    key = {
                        "method": method,
                        "task": task,
                        "prompt": str(prompt),
                        "turn": 0,
                        "repeat": repeat,
                        "temperature": temperature,
                        "source": "measured",
                    }
                    seconds = 0.005 * tokens / speed * (1 + noise * rng.standard_normal())
                    ids = list(range(tokens + 1))
                    runs.append(
                        key
                        | {"tokens": tokens, "seconds": seconds, "prefill_seconds": 0.01, "token_ids": ids}
                    )
                    phases = {"draft_ms": 0.2, "verify_ms": 0.5, "policy_ms": 0.1, "rest_ms": 0.2}
                    share = seconds * 1000 / 2
                    for index in range(2):
                        cycles.append(
                            key
                            | {"cycle": index, "tokens": tokens / 2, "depth": index + 1, "verified": 4}
                            | {name: share * value for name, value in phases.items()}
                        )
    return pd.DataFrame(runs), pd.DataFrame(cycles)
