"""Damaged files in processes with limits: a short run of each target; and the harness sees what it should."""

import subprocess
import sys

import pytest

from tests.fuzz.harness import ROOT, fuzz, input_of
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "misbehaving"])
def test_damaged_files_are_read_or_rejected(target):
    report = fuzz(target, 300, seed=2)
    assert report.findings == [] and report.inputs == 300
    assert report.read + report.rejected == 300 and report.rejected > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (0, None),
        (1, None),
        (2, "ValueError: not a SepcliError"),
        (3, "MemoryError"),
        (4, "ended the process (-11)"),
        (5, "took too long"),
        (6, "ran out of memory in silence"),
    ],
)
def test_whatever_a_reader_does_is_seen(kind, said):
    numbers = range(1000)
    number = next(n for n in numbers if (data := input_of("misbehaving", 1, n)) and data[0] % 8 == kind)
    report = fuzz("misbehaving", 1, seed=1, first=number, seconds=1.0)
    assert report.inputs == 1
    if said is None:
        assert report.findings == [] and (report.read, report.rejected) == ((1, 0) if kind == 0 else (0, 1))
    else:
        ((found, what),) = report.findings
        assert found == number and said in what and not report.read + report.rejected


@pytest.mark.slow
def test_an_input_is_the_same_each_time_and_another_for_each_number():
    inputs = [input_of("checkpoint", 1, number) for number in range(20)]
    assert inputs == [input_of("checkpoint", 1, number) for number in range(20)]
    assert len(set(inputs)) > 15 and inputs != [input_of("checkpoint", 2, number) for number in range(20)]
    program = "from tests.fuzz.targets import *; import hashlib\n"
    program += "print(hashlib.sha256(b''.join(checkpoints())).hexdigest())"
    hashes = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT).stdout
        for _ in range(2)
    }
    assert len(hashes) == 1
