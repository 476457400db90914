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
from test_draft_processes import SETTINGS, Losses, options, stage
inputs, folder = map(Path, sys.argv[1:])
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


def in_two_processes(inputs, folder):  # noqa: F811
    """Train in two processes on this machine; return the losses that the first one saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    python = [str(Path(stage.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(python),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", WORKER, str(inputs), str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "losses-0.json").read_text())


def test_two_processes_train_like_one(inputs, tmp_path, monkeypatch):  # noqa: F811
    alone = Losses()
    stage.train_draft(options(inputs, tmp_path / "one", **SETTINGS), alone)
    together = in_two_processes(inputs, tmp_path / "two")
    assert together.keys() == alone.seen.keys() and len(together) > 1  # every tenth step
    assert list(together.values()) == pytest.approx(list(alone.seen.values()), rel=1e-4)
    first, second = weights(tmp_path / "one/draft"), weights(tmp_path / "two/draft")
    for name, weight in first.items():
        torch.testing.assert_close(second[name].float(), weight.float(), rtol=1e-2, atol=2e-3)


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
