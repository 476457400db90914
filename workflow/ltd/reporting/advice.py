"""The advice of `ltd.advise` in words: settings in each engine's own terms and counting.

The engines count what they verify differently. SGLang's num_steps is the depth (the pass over newly accepted
tokens included), its eagle_topk the beam, its num_draft_tokens the verified nodes *and the root*; with a topk
of 1 it sets num_draft_tokens to num_steps + 1 whatever was asked. vLLM's num_speculative_tokens and
TensorRT-LLM's max_draft_len count the drafted tokens of a chain.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ltd.measurement.replayed_runs import answer_labels, replayed_runs
from ltd.measurement.summary import MEAN_TASK, compare
from ltd.replay.latency import LatencyProfile
from ltd.replay.simulator import Simulation
from ltd.replay.traces import Traces

LABELS = {"tree": "best tree", "chain": "best chain", "policies": "ltd", "oracle": "oracle"}


@dataclass(frozen=True)
class Advice:
    """What was found; `simulations` by `plain`, `chain`, `chain at most`, `oracle`, maybe `tree`, `policies`.

    tree is (depth, size), None where no tree was faster than the best chain on the validation prompts; chain
    is a length; chain_exact the share of positions at which the traces tell all of the chain.
    """

    experiment: Path
    profile: LatencyProfile
    traces: Traces
    held_out: bool
    times_of_benchmark: bool
    tree: tuple[int, int] | None
    chain: int
    chain_exact: float
    simulations: dict[str, Simulation]
    seed: int = 0

    @property
    def static(self) -> str:
        """Which of `tree` and `chain` is the best static setting."""
        return "chain" if self.tree is None else "tree"


def sglang_flags(depth: int, size: int, beam: int) -> str:
    """A tree in SGLang's terms.

    The narrowest beam that changes nothing: the best V nodes have fewer than V others before them on any
    level, so that beams of V and of anything wider select the same tree.
    """
    return sglang(depth, max(2, min(beam, size)), size + 1)


def sglang(steps: int, topk: int, tokens: int) -> str:
    """SGLang's three flags; `tokens` counts the root."""
    return (
        f"--speculative-num-steps {steps} --speculative-eagle-topk {topk} "
        f"--speculative-num-draft-tokens {tokens}"
    )


def vllm_config(chain: int) -> str:
    """A chain as vLLM's speculative configuration; the model is left to the reader."""
    return json.dumps({"method": "eagle3", "model": "<head>", "num_speculative_tokens": chain})


def speedups(advice: Advice) -> pd.DataFrame:
    """Replayed throughput over plain decoding: ratio, low, high by method and task.

    The rows of `bound` and `gain` are those of the oracle and of the policies over the best static setting.
    """
    runs = replayed_runs(advice.simulations, answer_labels(advice.traces))
    pairs = {name: (name, "plain") for name in advice.simulations if name != "plain"}
    pairs["bound"] = ("oracle", advice.static)
    if "policies" in advice.simulations:
        pairs["gain"] = ("policies", advice.static)
    tables = [compare(runs, *pair, advice.seed).assign(method=name) for name, pair in pairs.items()]
    return pd.concat(tables).set_index(["method", "task"])


def render(advice: Advice) -> str:
    """One screen of plain text."""
    table = speedups(advice)
    parts = [_header(advice), _verdict(table, advice.static), _engines(advice, table), _tasks(table)]
    return "\n\n".join([*parts, _adapting(table, advice.static), _notes(advice, table)])


def _mean(table: pd.DataFrame, method: str) -> float:
    return float(table.loc[(method, MEAN_TASK), "ratio"])


def _with_interval(table: pd.DataFrame, method: str, task: str = MEAN_TASK) -> str:
    row = table.loc[(method, task)]
    return f"{row['ratio']:.2f}x [{row['low']:.2f}, {row['high']:.2f}]"


def _header(advice: Advice) -> str:
    profile = advice.profile
    prompts = "test prompts" if advice.held_out else "the validation prompts that also chose the settings"
    taken = "taken in the benchmark" if advice.times_of_benchmark else "latency profile"
    return (
        f"Advice from {advice.experiment}: {profile.device}, {profile.dtype}, {profile.threads} threads, "
        f"batch size 1, temperature {advice.traces.temperature:g}.\n"
        f"Speedups over plain decoding, replayed with the times of THIS engine here ({taken}),\n"
        f"on {prompts}; another engine has other times: take its settings as where to start, and measure."
    )


def _verdict(table: pd.DataFrame, static: str) -> str:
    row = table.loc[(static, MEAN_TASK)]
    shown = _with_interval(table, static)
    tasks = table.loc[static].drop(index=MEAN_TASK)
    losing = ", ".join(tasks.index[tasks["high"] < 1])
    losses = f" It loses on {losing}." if losing else ""
    if row["low"] > 1:
        return f"Speculation pays: {shown} the plain speed with the best static setting.{losses}"
    learned = _policies_pay(table)
    if row["high"] < 1:
        rest = learned or " Leave it off."
        return f"Speculation does not pay: {shown} the plain speed with the best static setting.{rest}"
    return (
        f"No significant gain from speculation: {shown} the plain speed with the best static setting."
        f"{losses}{learned}"
    )


def _policies_pay(table: pd.DataFrame) -> str:
    """Say by how much the trained policies beat plain decoding; nothing where they are absent or do not."""
    if ("policies", MEAN_TASK) not in table.index or table.loc[("policies", MEAN_TASK), "low"] <= 1:
        return ""
    return f"\nWith the trained policies it pays on this engine: {_with_interval(table, 'policies')}."


def _engines(advice: Advice, table: pd.DataFrame) -> str:
    chain, steps = advice.chain, _with_interval(table, "chain")
    flags, gain = sglang(chain, 1, chain + 1), steps
    if advice.tree is not None:
        flags, gain = sglang_flags(*advice.tree, advice.profile.beam), _with_interval(table, "tree")
    return "\n".join(
        [
            f"SGLang        --speculative-algorithm EAGLE3 --speculative-draft-model-path <head> {flags}",
            f"              {gain}; counts the root among the draft tokens",
            f"vLLM          --speculative-config '{vllm_config(chain)}'",
            f"              {steps}; drafts chains",
            f"TensorRT-LLM  Eagle3DecodingConfig(max_draft_len={chain}, ...)",
            f"              {steps}; a chain, unless use_dynamic_tree is set",
        ]
    )


def _tasks(table: pd.DataFrame) -> str:
    methods = [name for name in LABELS if name in table.index.get_level_values("method")]
    by_task = table["ratio"].unstack("method")[methods].rename(columns=LABELS)
    order = [*(task for task in by_task.index if task != MEAN_TASK), MEAN_TASK]
    columns = by_task.loc[order].rename_axis(index=None, columns=None).T
    return columns.to_string(float_format="{:.2f}".format)


def _adapting(table: pd.DataFrame, static: str) -> str:
    # What adapting must beat: plain decoding, where the best static setting is slower than that.
    bound, gain, rival = "bound", "gain", "best static setting's"
    if _mean(table, static) < 1:
        bound, gain, rival = "oracle", "policies", "plain"
    lines = [
        "Choosing depth and size anew in every cycle, as this engine can, would at best (clairvoyant oracle) "
        f"have {_mean(table, bound):.2f} of the\n{rival} speed."
    ]
    if (gain, MEAN_TASK) in table.index:
        row = table.loc[(gain, MEAN_TASK)]
        word = "" if row["low"] > 1 or row["high"] < 1 else " (no significant difference)"
        shown = _with_interval(table, gain)
        lines.append(f"The trained policies have {shown}{word}, their own time included.")
    return " ".join(lines)


def _notes(advice: Advice, table: pd.DataFrame) -> str:
    exact, loose = advice.chain_exact, _mean(table, "chain at most") - _mean(table, "chain")
    known = "all positions" if exact == 1 else f"{100 * exact:.2f}% of the positions"
    rest = "" if exact == 1 else f", the others could add {loose:.4f} to the speedup"
    return (
        f"Traces of beam {advice.profile.beam} tell a chain's acceptance exactly at {known}{rest}.\n"
        "Its draft passes are charged at least their cost, so that chains may be a little faster than shown."
    )
