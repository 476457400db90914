"""Two test processes share the machine: one thread each, because threads that wait for each other spin."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files of minutes come first: one of them left over for the end would keep a single process busy.
LONG = ("test_reproduction", "test_own_model")


def pytest_collection_modifyitems(items):
    """Order the files as `--dist loadfile` hands them out; tests keep their order within a file."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def one_thread():
    """A command that a test runs in this process takes all cores; the next test gets one thread again."""
    yield
    import torch  # not before the environment is set

    torch.set_num_threads(1)
