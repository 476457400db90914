"""What Snakemake's DAG tells about a run that ends."""

from types import SimpleNamespace

import pytest

from ltd.stage_jobs import is_up_to_date


class Job:
    def __init__(self, rule):
        self.rule = SimpleNamespace(name=rule)


@pytest.mark.parametrize(
    ("rules", "left", "expected"),
    [
        (["all", "report"], [], True),
        (["all", "report"], ["all", "report"], False),
        (["train_draft"], [], False),
        (["a_report", "b_report"], ["b_report"], False),
    ],
)
def test_a_report_is_up_to_date_when_it_was_asked_for_and_is_not_left(rules, left, expected):
    jobs = [Job(rule) for rule in rules]
    dag = SimpleNamespace(jobs=jobs, needrun_jobs=lambda: [j for j in jobs if j.rule.name in left])
    assert is_up_to_date(dag, "report") is expected
