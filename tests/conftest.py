"""One thread a process: the networks here are tiny, and pytest-xdist has one worker a core already."""

import atexit
import os
import shutil
import signal
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes that compile librosa's functions at the same time damage the cache that they would share, and each
# later one that reads it crashes.
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="sepcli-tests-")

import hypothesis
import pytest
import torch

atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)

# A test is never timed.
hypothesis.settings.register_profile("sepcli", deadline=None)
hypothesis.settings.load_profile("sepcli")

# Under nohup the processes that tests start would ignore it too (and sepcli respects that).
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def denormals():
    """Commands flush them for the whole process; hypothesis, in a later test, draws them."""
    yield
    torch.set_flush_denormal(False)
