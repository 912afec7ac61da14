"""Errors: what the system says becomes a sentence, and parameters are written as the user writes them."""

import errno
import os
from pathlib import Path

import pytest

from sepcli.cli.options import option_text
from sepcli.errors import (
    InputError,
    ModelError,
    OutputError,
    did_you_mean,
    first_line,
    from_os,
    near,
    parameter,
    spelled,
)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "not_writable"),
        (errno.EACCES, "not_writable"),
        (errno.EFBIG, "too_large"),
        (errno.EIO, "output"),
    ],
)
def test_what_can_not_be_written(number, code):
    error = from_os(OSError(number, os.strerror(number)), Path("x\udce9.wav"))
    assert type(error) is OutputError and error.code == code and error.remedy.endswith(".")
    assert os.strerror(number) in error.message or code == "too_large"
    error.message.encode()  # no byte of the name is left that a terminal can't show


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOENT, "missing"), (errno.EACCES, "unreadable"), (errno.EIO, "unreadable")]
)
@pytest.mark.parametrize("kind", [InputError, ModelError])
def test_what_can_not_be_read(number, code, kind):
    error = from_os(OSError(number, os.strerror(number)), Path("x.wav"), reading=kind)
    assert type(error) is kind and error.code == code and "'x.wav'" in error.message and error.remedy


def test_standard_output_has_a_name():
    assert from_os(OSError(errno.EIO, "I/O error"), 1).message.startswith("Standard output ")
    full = from_os(OSError(errno.ENOSPC, "full"), 2)
    assert full.message.startswith("Standard error ") and "folder" not in full.remedy


def test_parameters_are_written_as_the_user_writes_them():
    assert (parameter("batch_size"), parameter("shifts", 2)) == ("batch_size=", "shifts=2")
    with spelled(option_text):
        assert (parameter("batch_size"), parameter("shifts", 2)) == ("--batch-size", "--shifts 2")
        assert (parameter("out"), parameter("targets", "vocals")) == ("-o", "-t vocals")
    assert parameter("batch_size") == "batch_size="


@pytest.mark.parametrize(
    ("typed", "near_ones"),
    [
        ("lrr", ["lr"]),
        ("lrate", ["lr"]),  # a name that was made longer
        ("Weight-Decay", ["weight_decay"]),
        ("decay", ["weight_decay"]),
        ("momentum", []),
        ("", []),
    ],
)
def test_near_names(typed, near_ones):
    assert near(typed, ["lr", "weight_decay", "betas"]) == near_ones
    assert did_you_mean(typed, ["lr"]) == ("Did you mean lr?" if near_ones == ["lr"] else "")


def test_the_first_line_of_what_another_library_says():
    assert first_line(OSError("\n  broken pipe.\n\nmore.")) == "broken pipe"
    assert first_line(OSError("one\n\n two."), 2) == "one two"
    assert first_line(MemoryError()) == "MemoryError"
