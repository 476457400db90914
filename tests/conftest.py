"""What all tests share. Two test processes share the machine: one thread each, because threads that wait for
each other spin.
"""

import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # some tests import mlflow before `ltd.tracking` does
# Runs and studies of the tests are no one else's.
for name in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"):
    os.environ.pop(name, None)

import torch  # noqa: E402 (not before the environment is set)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The file that takes longest comes first: left over for the end it would keep a single process busy. The next
# longest, `test_own_model`, comes late in the alphabet, when the kernels that it needs are compiled.
FIRST = "test_reproduction"


def pytest_collection_modifyitems(items):
    """Order the files as `--dist loadfile` hands them out; tests keep their order within a file."""
    items.sort(key=lambda item: item.path.stem != FIRST)


@pytest.fixture(autouse=True)
def one_thread():
    """A command that a test runs in this process takes all cores; the next test gets one thread again."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def config():
    """The embedded default's configuration."""
    return yaml.safe_load((ROOT / "config.yaml").read_text())
