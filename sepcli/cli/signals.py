"""Ctrl-C and SIGTERM as exceptions, so that both end a command cleanly.

Knows nothing of the work that is interrupted. The first signal raises an exception in the main thread
(KeyboardInterrupt or Terminated). The next one is not caught any more: it ends the process at once, even inside
a long computation that never returns to Python.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no `except Exception` swallows it."""


def catch_signals() -> None:
    """Install both handlers. Does nothing outside the main thread, where Python can't."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _give_up_next_time()
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _give_up_next_time()
    raise Terminated


def _give_up_next_time() -> None:
    """Let the next signal end the process at once."""
    default: Any = signal.SIG_DFL
    signal.signal(signal.SIGINT, default)
    signal.signal(signal.SIGTERM, default)
