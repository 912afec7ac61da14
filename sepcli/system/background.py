"""Run one end of a stream in a thread of its own: `prefetch` the input, `WriteBehind` the output.

Knows nothing of audio: items go in and come out in the same order. Both ends wait at a queue of bounded length,
so neither side can fill the memory. An exception of one side is raised on the other, with its traceback.
Stopping early stops the thread.

    source --thread--> [ . . . ] --> consumer           prefetch(source, depth)
    producer --> [ . . . ] --thread--> consume(item)      WriteBehind(consume, depth)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

# On Windows a wait without a limit can't be interrupted by Ctrl-C, so every wait is a loop of short ones.
WAKE_SECONDS = 0.5
# A thread that hangs in a system call (a network drive) must not keep Ctrl-C waiting for ever: after this time
# nobody waits for it any more. It is a daemon thread and ends with the process.
JOIN_SECONDS = 10.0


class _Stopped(Exception):
    """The other side takes no more items."""


class _Queue(Generic[T]):
    """A queue of at most `depth` items between two threads. Either side can end it."""

    def __init__(self, depth: int):
        assert depth >= 1, depth
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._finished = False  # the producer has put its last item
        self._stopped = False  # the consumer takes no more
        self._error: BaseException | None = None  # what the producer ended with

    def put(self, item: T) -> None:
        """Append an item; waits while the queue is full. _Stopped if the consumer takes no more."""
        with self._changed:
            while len(self._items) >= self._depth and not self._stopped:
                self._changed.wait(WAKE_SECONDS)
            if self._stopped:
                raise _Stopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """The next item. After the last one: StopIteration, or the error that the producer ended with."""
        with self._changed:
            while not self._items and not self._finished and not self._stopped:
                self._changed.wait(WAKE_SECONDS)
            if self._items and not self._stopped:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
        if self._error is not None:
            raise self._error
        raise StopIteration

    def finish(self, error: BaseException | None = None) -> None:
        """The producer's last word: no more items, and the error that ended them, if one did."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """The consumer's last word: what is in the queue is dropped, and nothing more is taken."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


def prefetch(source: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """The items of `source`, computed in a thread that is at most `depth` items ahead of the consumer.

    The thread starts with the first `next`. Closing the generator (or dropping the last reference to it) stops
    the thread and closes `source` there, so a decoder's `finally` runs in the thread that opened the file.
    """
    queue: _Queue[T] = _Queue(depth)

    def produce() -> None:
        iterator = iter(source)
        error: BaseException | None = None
        try:
            for item in iterator:
                queue.put(item)
        except _Stopped:
            pass
        except BaseException as raised:  # noqa: BLE001  (whatever it is, it belongs to the consumer)
            error = raised
        finally:
            try:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            except BaseException as raised:  # noqa: BLE001
                error = error or raised
            queue.finish(error)

    thread = threading.Thread(target=produce, name="sepcli-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.get()
            except StopIteration:
                return
            yield item
            del item  # so that the consumer has the last reference, and decides when the memory is free
    finally:
        queue.stop()
        thread.join(JOIN_SECONDS)


class WriteBehind(Generic[T]):
    """Calls `consume(item)` for each item that is `put`, in order, in a thread at most `depth` items behind.

    Once `consume` has failed, `put` and `close` raise its exception. As a context manager: `close` after
    success, `abort` after an exception.
    """

    def __init__(self, consume: Callable[[T], object], depth: int = 4):
        self._consume = consume
        self._queue: _Queue[T] = _Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sepcli-write-behind", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get()
            except StopIteration:
                return
            try:
                self._consume(item)
            except BaseException as raised:  # noqa: BLE001
                self._error = raised
                self._queue.stop()
                return
            del item

    def put(self, item: T) -> None:
        """Hand over one item; waits while `depth` items are in the queue."""
        try:
            self._queue.put(item)
        except _Stopped:
            if self._error is not None:
                raise self._error from None
            raise RuntimeError("put after close or abort") from None

    def close(self) -> None:
        """Wait until every item has been consumed; raises the exception of `consume`."""
        self._queue.finish()
        while self._thread.is_alive():
            self._thread.join(WAKE_SECONDS)
        self._queue.stop()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Drop the items in the queue and stop. Never raises the exception of `consume`."""
        self._queue.stop()
        self._thread.join(JOIN_SECONDS)

    def __enter__(self) -> WriteBehind[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
