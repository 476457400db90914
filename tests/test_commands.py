"""Every command that Snakemake would run is one that its stage understands."""

import importlib
import re
import shlex

import pytest
import yaml

from checked_configuration import saved_model
from finished_experiment import finished
from ltd import overview
from ltd.files import write_jsonl
from ltd.options import parse_options
from pipeline import ROOT, snakemake

METHODS = yaml.safe_load((ROOT / "workflow/experiments/paper.yaml").read_text())["benchmark"]["methods"]
EVERYTHING = {
    "traces": {"features": True},
    "tune": {"workers": 2},
    "benchmark": {"methods": [*METHODS, "ltd:trained-on-code", "ltd:paper-seed-1"], "temperatures": [0, 0.5]},
    "ablations": {"run": ["components", "overhead", "rewards", "networks-paper"]},
    "transfer": {"in_report": True, "profiles": []},
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Stage and arguments of every command of dry runs of all that can be asked for at once, and of several
    experiments: with a head and a template of one's own, and with other prompts for what is finished.
    """
    folder = tmp_path_factory.mktemp("commands")
    finished(folder / "results/finished")
    saved_model(folder / "head")
    (folder / "template.jinja").write_text("{{ messages }}")
    write_jsonl(folder / "questions/mails.jsonl", [{"turns": [f"Mail {number}?"]} for number in range(6)])
    asked = {
        "everything": EVERYTHING,
        "several": {"experiments": ["own.yaml", "other.yaml"]},
        "own": {
            "draft": {"path": "head"},
            "responses": {"system": "Answer {briefly}.", "chat_template": "template.jinja"},
        },
        "other": {
            "reuse": "results/finished",
            "prompts": {"path": "questions", "tasks": ["mails"]},
            "benchmark": {"test_tasks": ["mails"]},
        },
    }
    for name, settings in asked.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"experiment": name} | settings))
    found = set()
    for name in ("everything", "several"):
        further = ["train_paper_policies"] if name == "everything" else []
        dry_run = ["--dry-run", "--printshellcmds", "all", *further]
        planned = snakemake(folder, *dry_run, config=[f"{name}.yaml"])
        assert planned.returncode == 0, planned.stdout + planned.stderr
        found.update(re.findall(r"-m ltd\.(\w+) (.*) 2>&1", planned.stdout + planned.stderr))
    return sorted(found)


def test_every_stage_of_the_rules_is_among_them(commands):
    rules = [*(ROOT / "workflow/rules").glob("*.smk"), ROOT / "workflow/experiments.smk"]
    text = "".join(file.read_text() for file in rules)
    stages = set(re.findall(r"python -m ltd\.(\w+)", text))
    assert {stage for stage, _ in commands} == stages


def test_every_stage_understands_its_arguments(commands, monkeypatch, capsys):
    def parsed(stage, options_type, function, description, argv):
        return parse_options(options_type, description, argv)

    # The only one that is no stage of an experiment.
    monkeypatch.setattr(overview, "overview", lambda options: None)
    for stage, arguments in commands:
        module = importlib.import_module(f"ltd.{stage}")
        if module is not overview:
            monkeypatch.setattr(module, "run_stage", parsed)
        try:
            module.main(shlex.split(arguments))
        except SystemExit:
            pytest.fail(f"{stage} {arguments}\n{capsys.readouterr().err}")
