"""Ctrl-C and SIGTERM as exceptions, so that both end a command cleanly.

Knows nothing of what is interrupted. The first signal raises in the main thread (KeyboardInterrupt, or
Terminated); the next Ctrl-C is not caught any more and ends the process at once, even inside a long
computation that never returns to Python.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception: no `except Exception` may swallow it."""


def catch_signals() -> None:
    """Install both handlers; nothing in a thread that can't, such as a test's."""
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
    default: Any = signal.SIG_DFL
    signal.signal(signal.SIGINT, default)
    signal.signal(signal.SIGTERM, default)
