"""One thread a process: the networks here are tiny, and pytest-xdist has one worker a core already."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def denormals():
    """Commands flush them for the whole process; hypothesis, in a later test, draws them."""
    yield
    torch.set_flush_denormal(False)
