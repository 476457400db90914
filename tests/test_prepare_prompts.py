"""The stage that writes the prompts of a split, from any source."""

import dataclasses

import pytest

from ltd import world
from ltd.errors import InputError
from ltd.files import read_jsonl, write_jsonl
from ltd.prepare_prompts import Options, main, prepare_prompts
from ltd.texts.prompts import builtin_prompts
from ltd.tracking import StageRun
from noted_run import NotedRun
from test_prompts import COUNTS, Rows, hub, rows  # noqa: F401 (a fixture)

SMALL = {"draft": 5, "train": 8, "validation": 3, "test": 4, "corpus": 20}


def options(folder, split, **changes):
    small = Options(split=split, output=folder / "prompts" / split, tasks=("code", "qa"), **SMALL)
    return dataclasses.replace(small, **changes)


def test_where_nothing_is_trained_there_are_test_prompts_alone(tmp_path):
    write_jsonl(tmp_path / "own/mt-bench.jsonl", rows(6))
    tasks = ("mt-bench",)
    own = {"tasks": tasks, "test_only": tasks, "path": str(tmp_path / "own"), "corpus": 0}
    prepare_prompts(options(tmp_path, "test", **own), StageRun())
    assert len(read_jsonl(tmp_path / "prompts/test/mt-bench.jsonl")) == 4
    with pytest.raises(InputError, match=r"^prompts\.train: there are none"):
        prepare_prompts(options(tmp_path, "train", **own), StageRun())


@pytest.mark.parametrize("source", ["path", "hub"])
def test_what_a_finished_experiment_learned_from_is_not_asked(tmp_path, hub, source):  # noqa: F811
    write_jsonl(tmp_path / "own/mail.jsonl", rows(6))
    hub.rows = Rows({"question": row["turns"][0]} for row in rows(6))
    sources = {"path": str(tmp_path / "own"), "hub": ("mail=me/mine::test:question",)}
    own = {"tasks": ("mail",), "test_only": ("mail",), "corpus": 0, source: sources[source]}
    asked = options(tmp_path, "test", **own, learned_from=tmp_path / "finished")
    for split, turns in (("train", ["What is it?"]), ("test", ["What is 3?"])):
        write_jsonl(tmp_path / f"finished/{split}/chat.jsonl", [{"turns": turns}])
    prepare_prompts(asked, StageRun())
    for number in range(6):
        write_jsonl(tmp_path / f"finished/draft/{number}.jsonl", [{"turns": [f"what is  {number}?", "Why?"]}])
    with pytest.raises(InputError, match=rf"^prompts\.{source}: 'What is \d\?' of mail is in .*/draft/\d\."):
        prepare_prompts(asked, StageRun())


@pytest.mark.parametrize("split", SMALL)
def test_the_stage_writes_a_split(tmp_path, split):
    run = NotedRun()
    prepare_prompts(options(tmp_path, split, tasks=("code", "qa", "maths")), run)
    summary = run.files["summary.json"]
    assert summary["source"] == "built in"
    assert summary["tasks"]["maths"]["prompts"] == run.values[f"{split}.maths"] == SMALL[split]
    prepare_prompts(options(tmp_path, split), StageRun())
    folder = tmp_path / "prompts" / split
    assert sorted(path.name for path in folder.iterdir()) == ["code.jsonl", "qa.jsonl"]
    expected = builtin_prompts(("code", "qa"), SMALL, 0)[split]
    for path in folder.iterdir():
        assert read_jsonl(path) == [each.as_row() for each in expected[path.stem]]
        assert len(expected[path.stem]) == SMALL[split]


@pytest.mark.parametrize("source", ["built in", "file", "files"])
@pytest.mark.parametrize("split", SMALL)
def test_counts_of_other_splits_change_nothing_about_a_split(tmp_path, split, source):
    """What the rule of a split relies on; those of `draft` and `train` belong together."""
    write_jsonl(tmp_path / "file/mail.jsonl", rows(60))
    for place, name in enumerate(COUNTS):
        write_jsonl(tmp_path / f"files/{name}/mail.jsonl", rows(20, 100 * place))
    built_in = {"tasks": ("code", "stdlib")}
    own = built_in if source == "built in" else {"tasks": ("mail",), "path": str(tmp_path / source)}
    together = ("draft", "train") if split in ("draft", "train") else (split,)
    others = {name: count + 2 for name, count in SMALL.items() if name not in together}
    found = []
    for changes in ({}, others):
        asked = options(tmp_path, split, **own, **changes)
        prepare_prompts(asked, StageRun())
        found.append({path.name: path.read_text() for path in asked.output.iterdir()})
    assert found[0] == found[1]


def test_own_prompts_and_the_built_in_corpus(tmp_path):
    write_jsonl(tmp_path / "own/mail.jsonl", rows(20))
    own = {"tasks": ("mail",), "path": str(tmp_path / "own")}
    with pytest.raises(InputError, match=r"^prompts\.corpus: there are none; ask for some"):
        prepare_prompts(options(tmp_path, "corpus", **own, corpus=0), StageRun())
    prepare_prompts(options(tmp_path, "corpus", **own), StageRun())
    written = {path.stem for path in (tmp_path / "prompts/corpus").iterdir()}
    assert written == set(world.TASKS)
    prepare_prompts(options(tmp_path, "test", **own), StageRun())
    assert len(read_jsonl(tmp_path / "prompts/test/mail.jsonl")) == 4


@pytest.mark.parametrize("split", SMALL)
def test_every_split_is_compared_with_the_others(tmp_path, split):
    for place, name in enumerate(COUNTS):
        write_jsonl(tmp_path / f"own/{name}/mail.jsonl", rows(8, 100 * place))
    write_jsonl(tmp_path / "own/test/mail.jsonl", rows(8, 1))
    with pytest.raises(InputError, match="is in both draft and test"):
        prepare_prompts(options(tmp_path, split, tasks=("mail",), path=str(tmp_path / "own")), StageRun())


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"tasks": ()}, "prompts.tasks: empty"),
        ({"tasks": ("poetry",)}, "no built-in task 'poetry'"),
        ({"test": 0}, "prompts.test: 0 is not allowed"),
        ({"corpus": -1}, "prompts.corpus: -1 is not allowed"),
        ({"path": "somewhere", "hub": ("a=b/c",)}, "prompts.hub: prompts.path is given"),
        ({"path": "somewhere", "test_only": ("poems",)}, "prompts.test_only: 'poems' is not one of"),
        ({"test_only": ("qa",)}, "prompts.test_only: built-in tasks"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tmp_path, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        prepare_prompts(options(tmp_path, "test", **changes), StageRun())
    assert not (tmp_path / "prompts").exists()


def test_the_command_prints_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("ltd.tracking.mlflow", None)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/mail.jsonl").write_text('{"turns": ["a"]}\n{"turn": ["b"]}\n')
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "--split",
                "test",
                "--output",
                str(tmp_path / "out"),
                "--path",
                str(tmp_path / "own"),
                "--tasks",
                "mail",
                "--corpus",
                "0",
            ]
        )
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == (
        f"prepare_prompts: {tmp_path}/own/mail.jsonl, line 2: "
        "no `turns`; expected a non-empty list of strings"
    )
