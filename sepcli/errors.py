"""Everything that can go wrong and is not our own mistake: a fact, a remedy and an exit code.

Knows nothing of what raises these. A message states what is the case and which values are allowed; the
remedy is the next step. Commands turn the class into the process's exit code (docs/cli.md), `--json` into
`{code, message, remedy}`.
"""

from __future__ import annotations

from collections.abc import Iterable


class SepcliError(Exception):
    """A failure that the user can act on.

    message: the fact, with the allowed values where there are any; a full sentence.
    remedy: the next step; a full sentence, or "" where there is none.
    code: a stable word for programs ("not_audio", "unknown_model"); the class's own by default.
    """

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, remedy: str = "", code: str | None = None):
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InputError(SepcliError):
    """One input can't be separated: missing, unreadable, empty, not audio, NaN samples."""

    exit_code = 1
    code = "input"


class UsageError(SepcliError):
    """The request contradicts itself or names what does not exist: nothing has been done yet."""

    exit_code = 2
    code = "usage"


class ModelError(SepcliError):
    """A model can't be had: unknown name, download, hash, bad checkpoint."""

    exit_code = 3
    code = "model"


class DeviceError(SepcliError):
    """The device is absent, or it (or the machine) is out of memory."""

    exit_code = 4
    code = "device"


class OutputError(SepcliError):
    """An output can't be written: read-only folder, full disk, missing encoder."""

    exit_code = 5
    code = "output"


INTERRUPTED = 130  # Ctrl-C (SIGINT)
TERMINATED = 143  # SIGTERM

# The worst first. A run that met several failures ends with the first of these that it met.
EXIT_CODE_ORDER = (INTERRUPTED, TERMINATED, 5, 4, 3, 2, 1, 0)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The exit code of a run whose parts ended with `codes`; 0 for none."""
    seen = set(codes)
    return next((code for code in EXIT_CODE_ORDER if code in seen), 0)
