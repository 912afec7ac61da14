"""Work in several processes: every result once, nothing taken too early, and an end whatever happens."""

import multiprocessing
import os
import signal
import sys

import pytest

from sepcli.errors import DeviceError, InputError
from sepcli.system.processes import in_processes

_begun = 0


def begin():
    global _begun
    _begun += 1


def work(item):
    if item == "fail":
        raise InputError("This one can't be read.")
    if item == "die":
        os._exit(9)
    return item, os.getpid(), _begun


def held_back(_):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert not multiprocessing.active_children()


def test_every_item_once_in_processes_that_were_begun():
    done = list(in_processes(work, range(20), 2, begin=begin))
    assert sorted(item for item, _, _ in done) == list(range(20))
    assert os.getpid() not in {process for _, process, _ in done}
    assert {begun for _, _, begun in done} == {1}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_no_signal_meets_a_process_that_is_starting():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    (inherited,) = in_processes(held_back, [0], 1)
    assert {signal.SIGINT, signal.SIGHUP} <= inherited
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_processes(work, items(), 2)
    next(results)
    assert len(taken) == 4
    results.close()


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [("fail", InputError, "can't be read"), ("die", DeviceError, "ended unexpectedly")],
)
def test_what_goes_wrong_ends_all(item, error, words):
    with pytest.raises(error, match=words):
        list(in_processes(work, [1, item, *range(50)], 2))


def test_no_items():
    assert list(in_processes(work, [], 3)) == []
