"""Two test processes share the machine: one thread each, because threads that wait for each other spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
