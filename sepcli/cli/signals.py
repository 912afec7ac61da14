"""Ctrl-C, SIGTERM and SIGHUP as exceptions, so that each ends a command cleanly.

Knows nothing of the work that is interrupted. The first signal raises an exception in the main thread
(KeyboardInterrupt or Terminated). The next Ctrl-C or SIGTERM is not caught any more: it ends the process at
once, even inside a long computation that never returns to Python. A second SIGHUP is ignored, as shell and
kernel both send one when a terminal is closed.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from sepcli.errors import HUNG_UP, TERMINATED
from sepcli.system import HANGUP


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. A BaseException, so that no `except Exception` swallows it.

    exit_code: of the process, 143 or 129.
    """

    def __init__(self, exit_code: int = TERMINATED) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def catch_signals() -> None:
    """Install the handlers. Does nothing outside the main thread, where Python can't.

    SIGHUP stays ignored where it is: `nohup` asked for that.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        signal.signal(HANGUP, _hang_up)


STREAMS = [1, 2]  # the descriptors of standard output and standard error, and copies of them


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _give_up_next_time()
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _give_up_next_time()
    raise Terminated


def _hang_up(number: int, frame: FrameType | None) -> NoReturn:
    _give_up_next_time()
    for stream in STREAMS:
        try:
            os.write(stream, b"")
        except OSError:  # the terminal is gone; what is still said must not end the clean-up
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    raise Terminated(HUNG_UP)


def _give_up_next_time() -> None:
    """Let the next Ctrl-C or SIGTERM end the process at once."""
    default: Any = signal.SIG_DFL
    signal.signal(signal.SIGINT, default)
    signal.signal(signal.SIGTERM, default)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
