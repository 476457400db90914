"""Which rules do the work of a stage whose own rule only gathers their files.

A target of Snakemake's command line has no wildcards, so the rule with the stage's name cannot be the one
that runs once a split, temperature or policy; forcing it would rerun none of them.
"""

from collections.abc import Iterable
from typing import Any

JOBS = {
    "prepare_prompts": ("prepare_prompts_of_split",),
    "generate_responses": ("generate_responses_of_split",),
    "record_traces": ("record_traces_of_split",),
    "train_policies": (
        "train_initial_policy",
        "combine_policies",
        "train_policy_round",
        "choose_policies",
    ),
    "tune": ("tune_worker",),
    "fit_baselines": ("fit_baseline",),
    "fit_opponents": ("fit_opponent",),
    "transfer": ("transfer_to_machine",),
    "benchmark": ("benchmark_at_temperature",),
    "evaluate_ablations": ("evaluate_ablation",),
}


def with_jobs(forced: Iterable[str], prefixes: Iterable[str]) -> frozenset[str]:
    """Add to the rules and files of `-R` the rules that do the work of its stages.

    `prefixes` stand before the rules of the workflow's experiments: `alpha_` has a stage `alpha_benchmark`.
    """
    jobs = {
        f"{prefix}{stage}": [f"{prefix}{job}" for job in JOBS[stage]] for prefix in prefixes for stage in JOBS
    }
    forced = frozenset(forced)
    return forced.union(*(jobs.get(name, ()) for name in forced))


def is_up_to_date(dag: Any, rule: str) -> bool:
    """Whether jobs of a rule are in Snakemake's DAG of the present run, and none of them is left to do."""
    jobs = {job for job in dag.jobs if job.rule.name == rule}
    return bool(jobs) and jobs.isdisjoint(dag.needrun_jobs())
