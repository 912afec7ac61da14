"""Everything that can go wrong and is not our own mistake: a fact, a remedy and an exit code.

Knows nothing of what raises these. A message states what is the case and which values are allowed; the
remedy is the next step. Commands turn the class into the process's exit code (docs/cli.md), `--json` into
`{code, message, remedy}`.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


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


class SepcliWarning(UserWarning):
    """Something is wrong that was left out or worked around. The command line prints it as a notice."""


class Warned(str):
    """A sentence about what went otherwise than asked, and a stable word for programs (docs/cli.md)."""

    code: str

    def __new__(cls, text: str, code: str) -> Warned:
        """text: a full sentence. code: such as "damaged"."""
        made = super().__new__(cls, text)
        made.code = code
        return made

    def __getnewargs__(self) -> tuple[str, str]:
        """What a copy in another process is made from."""
        return str(self), self.code


Notice = Callable[[str], None]  # takes a sentence that the user should see, and that stops nothing


# --- what the operating system says ---

DISK_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
NOT_WRITABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)


def from_os(
    error: OSError, path: str | os.PathLike[str] | int, *, reading: type[SepcliError] | None = None
) -> SepcliError:
    """What the operating system refused, as an error with its reason and the next step.

    path: the file or folder; 2: standard error, another number: standard output. reading: the class of the
    error where the path was to be read; None: it was to be written, and the error is an OutputError.
    """
    if isinstance(path, int):
        name, elsewhere = "Standard error" if path == 2 else "Standard output", "redirect it elsewhere"
    else:
        # Names may hold bytes that are not UTF-8, which no terminal and no JSON can show.
        name = f"'{os.fsencode(path).decode('utf-8', 'replace')}'"
        elsewhere = f"choose another folder with {parameter('out')}"
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(path, int) and error.errno == errno.EPIPE:
        return OutputError(
            f"{name} was closed by its reader before everything was written; what was finished is kept.",
            remedy="Read it to its end, or redirect it to a file.",
            code="closed",
        )
    if isinstance(path, int) and error.errno == errno.EBADF:
        reason = "it is closed"
    if reading is not None:
        if isinstance(error, FileNotFoundError):
            return reading(f"{name} does not exist.", remedy="Check the path.", code="missing")
        return reading(
            f"{name} can't be read: {reason}.", remedy="Check the path and its permissions.", code="unreadable"
        )
    if error.errno in DISK_FULL:
        return OutputError(
            f"{name} can't be written: the disk is full ({reason}).",
            remedy=f"Free some space or {elsewhere}, then run again.",
            code="disk_full",
        )
    if error.errno == errno.EFBIG:
        return OutputError(
            f"{name} can't be written: the file system takes no file of that size.",
            remedy=f"Choose {parameter('format', 'flac')} or another file system.",
            code="too_large",
        )
    if error.errno in NOT_WRITABLE:
        return OutputError(
            f"{name} can't be written: {reason}.",
            remedy=f"Choose a folder that you may write to with {parameter('out')}.",
            code="not_writable",
        )
    remedy = (
        f"{elsewhere[0].upper()}{elsewhere[1:]}."
        if isinstance(path, int)
        else "Check the disk, then run again."
    )
    return OutputError(f"{name} can't be written: {reason}.", remedy=remedy)


# --- how a parameter is written ---


def _as_keyword(name: str, value: object = None) -> str:
    return f"{name}=" if value is None else f"{name}={value}"


Spelling = Callable[[str, object], str]
_spelling: Spelling = _as_keyword


def parameter(name: str, value: object = None) -> str:
    """A parameter as the user writes it: `shifts=2` in Python, `--shifts 2` on the command line.

    name: as in the Python interface. Every message and notice of the library names parameters this way.
    """
    return _spelling(name, value)


def spell(rule: Spelling) -> Spelling:
    """From now on write parameters as `rule(name, value)` does; value None: the name alone. The rule before."""
    global _spelling
    before, _spelling = _spelling, rule
    return before


def spelling() -> Spelling:
    """The rule in use, to be handed to another process."""
    return _spelling


@contextmanager
def spelled(rule: Spelling) -> Iterator[None]:
    """`spell` for as long as the context lasts."""
    before = spell(rule)
    try:
        yield
    finally:
        spell(before)


# --- phrases of messages ---


def near(name: str, names: Iterable[str]) -> list[str]:
    """The `names` that look like a misspelt or shortened `name`, the nearest first, at most four.

    Case and the difference between - and _ do not count.
    """
    import difflib

    folded = {other.lower().replace("-", "_"): other for other in names}
    wanted = name.lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, folded, n=4, cutoff=0.6)
    parts = [
        key
        for key in folded
        if key not in close
        and ((len(wanted) > 2 and wanted in key) or (len(key) > 1 and wanted.startswith(key)))
    ]
    return [folded[key] for key in [*close, *parts][:4]]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ "Did you mean vocals or vocal?"; "" where no name is near."""
    found = near(name, names)
    return f"Did you mean {' or '.join(found)}?" if found else ""


def first_line(error: BaseException, lines: int = 1) -> str:
    """What another library's exception says, in one line without a full stop; its class's name if nothing.

    lines: so many of its first lines that are not empty, joined by spaces.
    """
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(said[:lines]).rstrip(".") or type(error).__name__


# --- packages that only some commands need ---

# Not part of the base installation: the extra that brings each, and what it is needed for.
EXTRAS = {
    "fsspec": ("remote", "reads and writes files at addresses such as s3://bucket/song.wav"),
    "h5py": ("nnabla", "reads the weights of NNabla (.h5)"),
    "librosa": ("voice", "finds out where somebody sings, and at which pitch"),
    "matplotlib": ("train", "draws the pictures"),
    "mido": ("render", "reads and writes MIDI files"),
    "pesq": ("pesq", "measures PESQ"),
    "pyworld": ("sing", "makes speech sing"),
    "ray": ("ray", "runs tracks on the nodes of a cluster"),
    "s3fs": ("remote", "reads and writes S3"),
    "tomli_w": ("train", "writes settings as TOML"),
    "watchfiles": ("watch", "tells when something changes in a folder"),
}


def missing(package: str) -> DeviceError | None:
    """The error of a package of EXTRAS that can't be imported, with the command that installs it; else None.

    package: as it is imported.
    """
    extra, purpose = EXTRAS[package]
    if package == "matplotlib":
        _give_matplotlib_a_folder()
    try:
        importlib.import_module(package)
        return None
    except Exception as error:  # noqa: BLE001  (a package built for another numpy or system raises anything)
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        fact = "is not installed" if absent else f"can't be imported ({first_line(error)})"
    return DeviceError(
        f"{package.replace('_', '-')} {fact}; it {purpose}.",
        remedy=f"Install it: pip install 'sepcli[{extra}]'",
        code=f"no_{package}",
    )


def _give_matplotlib_a_folder() -> None:
    """Without a home folder it would warn, and keep its list of fonts in a folder that it makes each time."""
    if "MPLCONFIGDIR" not in os.environ and os.path.expanduser("~").startswith("~"):
        import shutil
        import tempfile

        folder = tempfile.mkdtemp(prefix="sepcli-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["MPLCONFIGDIR"] = folder  # processes that this one starts use the same


def require(package: str) -> None:
    """Raise the error of `missing` where the package can't be imported. To be called before any work."""
    error = missing(package)
    if error is not None:
        raise error


# --- exit codes ---

INTERRUPTED = 130  # Ctrl-C (SIGINT)
TERMINATED = 143  # SIGTERM
HUNG_UP = 129  # SIGHUP: the terminal was closed

# The worst first. A run that met several failures ends with the first of these that it met.
EXIT_CODE_ORDER = (INTERRUPTED, TERMINATED, HUNG_UP, 5, 4, 3, 2, 1, 0)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The exit code of a run whose parts ended with `codes`; 0 for none."""
    seen = set(codes)
    return next((code for code in EXIT_CODE_ORDER if code in seen), 0)
