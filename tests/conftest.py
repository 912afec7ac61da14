"""One thread a process: the networks here are tiny, and pytest-xdist has one worker a core already."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
