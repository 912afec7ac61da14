"""Below all other rooms: threads, processes, whole files, files at addresses, and TOML tables read strictly."""

from __future__ import annotations

import signal

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
