"""Threads at both ends of a stream: order, bounds, errors and stopping."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import pytest

from sepcli.system.background import WriteBehind, prefetch


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("sepcli-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_prefetch_gives_everything_in_order(count, depth):
    assert list(prefetch(range(count), depth)) == list(range(count))


def test_prefetch_runs_ahead_but_no_further_than_depth():
    made = []

    def source():
        for i in range(100):
            made.append(i)
            yield i

    stream = prefetch(source(), 3)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    # One taken, three waiting, and one in the hand of the thread.
    assert made == [0, 1, 2, 3, 4]
    stream.close()


def test_an_error_of_the_source_arrives_after_the_items_before_it_with_its_traceback():
    def source():
        yield 1
        raise_deep()

    def raise_deep():
        raise ValueError("deep")

    got = []
    with pytest.raises(ValueError, match="deep") as caught:
        for item in prefetch(source(), 4):
            got.append(item)
    assert got == [1]
    assert "raise_deep" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_closing_early_stops_the_thread_and_closes_the_source_in_it():
    closed_in = []

    def source():
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    stream = prefetch(source(), 2)
    next(stream)
    assert len(threads()) == 1
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 2
    assert threads() == [] and closed_in == ["sepcli-prefetch"]


def test_a_lost_stream_stops_too():
    stream = prefetch(iter(int, 1), 2)
    next(stream)
    del stream
    assert threads() == []


def test_a_consumer_that_raises_stops_the_thread():
    with pytest.raises(KeyError):
        for _ in prefetch(iter(int, 1), 2):
            raise KeyError


def test_a_stream_that_is_never_begun_starts_nothing():
    prefetch(iter(int, 1), 2)
    assert threads() == []


def test_what_the_consumer_lets_go_is_free():
    """No side may keep a block alive after the consumer has dropped it."""
    import weakref

    class Block:
        pass

    stream = prefetch((Block() for _ in range(10)), 2)
    refs = []
    for _ in range(5):
        block = next(stream)
        refs.append(weakref.ref(block))
        del block
    assert [ref() for ref in refs[:-1]] == [None] * 4
    stream.close()


@pytest.mark.parametrize("depth", [1, 3])
def test_write_behind_consumes_everything_in_order(depth):
    got = []
    with WriteBehind(got.append, depth) as writer:
        for i in range(200):
            writer.put(i)
    assert got == list(range(200))


def test_write_behind_waits_when_it_is_full():
    gate = threading.Event()
    writer = WriteBehind(lambda item: gate.wait(5), 2)
    put = []

    def producer():
        for i in range(10):
            writer.put(i)
            put.append(i)

    thread = threading.Thread(target=producer)
    thread.start()
    time.sleep(0.1)
    assert len(put) == 3  # one being consumed, two waiting
    gate.set()
    thread.join(5)
    writer.close()
    assert len(put) == 10


def failing(item):
    raise OSError(28, "No space left on device")


def test_an_error_of_the_consumer_is_raised_by_put_and_by_close():
    writer = WriteBehind(failing, 1)
    with pytest.raises(OSError, match="No space") as caught:
        for i in range(100):
            writer.put(i)
    assert "failing" in "".join(traceback.format_tb(caught.value.__traceback__))
    with pytest.raises(OSError, match="No space"):
        writer.close()
    writer.abort()  # silent


def test_an_error_on_the_last_item_is_raised_by_close():
    writer = WriteBehind(failing, 4)
    writer.put(0)
    with pytest.raises(OSError, match="No space"):
        writer.close()


def test_abort_drops_what_is_pending():
    got = []

    def slow(item):
        time.sleep(0.02)
        got.append(item)

    writer = WriteBehind(slow, 50)
    for i in range(50):
        writer.put(i)
    writer.abort()
    assert len(got) < 50
    with pytest.raises(RuntimeError):
        writer.put(1)


def test_leaving_by_an_exception_aborts():
    got = []
    with pytest.raises(KeyError), WriteBehind(lambda item: (time.sleep(0.05), got.append(item)), 10) as writer:
        for i in range(10):
            writer.put(i)
        raise KeyError
    assert len(got) < 10


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("side", ["ahead", "behind"])
def test_ctrl_c_in_the_main_thread_ends_the_process(side):
    """Waiting for the other side must not outlast Ctrl-C, even if that side is stuck."""
    wait = {
        "ahead": "def source():\n    yield 0\n    time.sleep(60)\nfor _ in prefetch(source(), 1): go()",
        "behind": "w = WriteBehind(lambda item: time.sleep(60), 1)\ngo()\nwhile True: w.put(0)",
    }[side]
    code = "import signal, time, sepcli.system.background as b\n"
    code += "from sepcli.system.background import prefetch, WriteBehind\n"
    # A job in the background of a shell script, as a CI may be, inherits an ignored SIGINT.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "b.JOIN_SECONDS = 0.2\ndef go(): print('go', flush=True)\n" + textwrap.dedent(wait)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert b"KeyboardInterrupt" in errors and process.returncode != 0
