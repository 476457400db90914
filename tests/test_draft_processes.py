"""Two processes training one head take the steps of one process with the same batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltd import train_draft as stage
from ltd.draft_head.processes import Processes
from ltd.errors import InputError
from ltd.tracking import StageRun
from test_train_draft import inputs, options, weights  # noqa: F401 (a fixture)

# Every chain is taken to its end: nothing is drawn, so both ways see the same rows.
SETTINGS = {"epochs": 2, "batch_rows": 40, "step_weight": 1.0, "seed": 3}

# One interpreter that becomes both processes once everything is imported.
WORKER = """
import json, os, sys
from pathlib import Path
from ltd import devices
from test_draft_processes import SETTINGS, Losses, options, stage, stopping
inputs, folder, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
devices.multiplies_bfloat16 = lambda device: False
stage.Trainer._step = stopping(stage.Trainer._step, stop)
rank = 1 if os.fork() == 0 else 0
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
losses = Losses()
stage.train_draft(options(inputs, folder, **SETTINGS), losses)
(folder / f"losses-{rank}.json").write_text(json.dumps(losses.seen))
if rank == 0:
    assert os.wait()[1] == 0
"""


class Losses(StageRun):
    """Keeps the training losses that would be tracked."""

    def __init__(self):
        super().__init__(active=False)
        self.seen = {}

    def metrics(self, values, step=None):
        if "train/loss" in values:
            self.seen[str(step)] = values["train/loss"]

    def artifact(self, path):
        pass


def stopping(step, last):
    """An optimiser step whose process ends, as if killed, after `last` of them; 0: never."""
    taken = []

    def stopped(self, batch, position):
        loss = step(self, batch, position)
        taken.append(loss)
        if len(taken) == last:
            os._exit(0)
        return loss

    return stopped


def in_two_processes(inputs, folder, stop=0):  # noqa: F811
    """Train in two processes on this machine; return the losses that the first one saw, or none when both
    were stopped after `stop` steps.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    python = [str(Path(stage.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(python),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", WORKER, str(inputs), str(folder), str(stop)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return {} if stop else json.loads((folder / "losses-0.json").read_text())


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):  # noqa: F811
    """Folder and losses of a training by two processes."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, in_two_processes(inputs, folder)


def test_two_processes_train_like_one(inputs, whole, tmp_path, monkeypatch):  # noqa: F811
    # In float32: products in bfloat16 round other batches otherwise.
    monkeypatch.setattr("ltd.devices.multiplies_bfloat16", lambda device: False)
    alone = Losses()
    stage.train_draft(options(inputs, tmp_path / "one", **SETTINGS), alone)
    folder, together = whole
    assert together.keys() == alone.seen.keys() and len(together) > 1  # every tenth step
    assert list(together.values()) == pytest.approx(list(alone.seen.values()), rel=1e-4)
    first, second = weights(tmp_path / "one/draft"), weights(folder / "draft")
    for name, weight in first.items():
        torch.testing.assert_close(second[name].float(), weight.float(), rtol=1e-2, atol=2e-3)


def test_two_processes_go_on_where_they_were_killed(inputs, whole, tmp_path):  # noqa: F811
    folder, losses = whole
    in_two_processes(inputs, tmp_path / "killed", stop=15)  # in the second epoch
    assert (tmp_path / "killed/state/checkpoint.pt").is_file() and not (tmp_path / "killed/draft").exists()
    rest = in_two_processes(inputs, tmp_path / "killed")
    assert rest.items() < losses.items() and "10" not in rest
    first, second = weights(folder / "draft"), weights(tmp_path / "killed/draft")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_too_small_to_be_shared_are_refused(inputs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Processes, "join", lambda device: Processes(1, 2))
    with pytest.raises(
        InputError, match=r"draft\.batch_rows: 20 gives batches of at most 1 answers, too few"
    ):
        stage.train_draft(options(inputs, tmp_path, batch_rows=20), StageRun())


def test_shares_cover_a_batch_once():
    shares = [Processes(rank, 3).share(list(range(8))) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [len(share) for share in shares] == [3, 3, 2]
