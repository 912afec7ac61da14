"""`sepcli doctor`: which parts of this installation work, and what to do about the others.

Looks at libraries, device, formats and folders. Separates nothing and makes no request. The exit code is 1 only
if `sepcli separate` can't work at all.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from sepcli import __version__
from sepcli.cli import console
from sepcli.errors import ModelError, OutputError, SepcliError, first_line
from sepcli.sound.formats import FORMATS

LOW_SPACE = 2_000_000_000  # bytes free in the cache; the largest models take about 0.7 GB
NEEDED = ("torch", "numpy", "soundfile", "av", "soxr", "safetensors", "huggingface_hub")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    what: the part that was looked at. state: "ok", "note" (something is missing that not everybody needs) or
    "problem" (`separate` can't work). fact, remedy: sentences; remedy is "" where nothing is to be done.
    """

    what: str
    state: str
    fact: str
    remedy: str = ""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this installation, with a remedy for each problem.

    Versions, device and precision, formats, the cache of models and its free space.
    """
    raise typer.Exit(report(json))


def report(json: bool = False) -> int:
    """Print every finding as it is made, or all as JSON. The exit code: 1 if `separate` can't work, else 0."""
    findings = []
    for check in CHECKS:
        for finding in _safely(check):
            findings.append(finding)
            if not json:
                _print(finding)
    if json:
        console.print_json([asdict(finding) for finding in findings])
    broken = [finding for finding in findings if finding.state == "problem"]
    if not json:
        console.line(
            f"{len(broken)} {'problem' if len(broken) == 1 else 'problems'} to solve before "
            "`sepcli separate` can work."
            if broken
            else "`sepcli separate` can work here.",
            style="bold",
        )
    return 1 if broken else 0


def _print(finding: Finding) -> None:
    style = {"ok": "green", "note": "yellow", "problem": "bold red"}[finding.state]
    width = console.width(sys.stdout)
    first, *more = console.folded(f"{finding.state:<8} {finding.what:<16} {finding.fact}", width, 26)
    console.line(f"{finding.state:<8}", style=style, end="")
    console.line(first[8:])
    for each in more:
        console.line(each)
    if finding.remedy:
        console.sentence(" " * 26 + finding.remedy)


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check. A check that raises is itself a finding, so that the report is complete."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001
        remedy = error.remedy if isinstance(error, SepcliError) else ""
        message = error.message if isinstance(error, SepcliError) else first_line(error)
        yield Finding(check.__name__.removeprefix("_"), "problem", message, remedy)


def _system() -> Iterator[Finding]:
    yield Finding("sepcli", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")


def _libraries() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  (a broken binary raises OSError, or worse)
            yield Finding(
                name,
                "problem",
                f"can't be imported: {first_line(error)}",
                f"Install it again: pip install --force-reinstall {name}",
            )
            continue
        more = ""
        if name == "soundfile":
            more = f", libsndfile {module.__libsndfile_version__}"
        elif name == "av":
            more = f", FFmpeg {module.ffmpeg_version_info}"
        yield Finding(name, "ok", f"{getattr(module, '__version__', 'unknown version')}{more}")


def _torchaudio() -> Iterator[Finding]:
    try:
        module = importlib.import_module("torchaudio")
    except Exception as error:  # noqa: BLE001
        yield Finding(
            "torchaudio",
            "note",
            f"can't be imported: {first_line(error)}",
            "No command of sepcli needs it, only its tests do. For those, install the release that belongs to "
            "your torch, for the same CUDA version: https://pytorch.org/get-started",
        )
        return
    yield Finding("torchaudio", "ok", f"{module.__version__} (only the tests of sepcli need it)")


def _device() -> Iterator[Finding]:
    from sepcli.engine.device import choose_device, choose_precision

    device = choose_device("auto")
    remedy = ""
    if device.type == "cpu":
        remedy = (
            "If this machine has a GPU, install its driver and a torch built for it: "
            "https://pytorch.org/get-started"
        )
    yield Finding("device", "ok", f"{device}: {device.reason}", remedy)
    half = choose_precision("auto", device, True)
    yield Finding(
        "precision", "ok", f"{half.name} for models that allow reduced precision ({half.reason}), else float32"
    )


def _formats() -> Iterator[Finding]:
    from sepcli.sound.writers import SEPCLI_WRITES, writer_text

    for name, spec in FORMATS.items():
        try:
            yield Finding(f"write {name}", "ok", writer_text(spec))
        except OutputError as problem:
            state = "problem" if name == SEPCLI_WRITES else "note"
            yield Finding(f"write {name}", state, problem.message, problem.remedy)


def _models() -> Iterator[Finding]:
    from sepcli.weights.catalog import load_catalog
    from sepcli.weights.download import is_cached

    catalog = load_catalog()
    here = [entry.name for entry in catalog.values() if all(is_cached(file) for file in entry.files)]
    fact = f"{len(catalog)} in the catalogue; on this machine: {', '.join(here) or 'none yet'}"
    yield Finding("models", "ok", fact)


def _cache() -> Iterator[Finding]:
    from sepcli.weights.cache import hub_cache
    from sepcli.weights.transfer import offline

    try:
        folder = hub_cache()
    except ModelError as error:  # no home folder; the model inside the package works
        yield Finding("cache", "note", error.message, error.remedy)
        return
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    fact = f"{folder}, {console.bytes_text(free)} free"
    if not os.access(there, os.W_OK):
        yield Finding(
            "cache",
            "note",
            f"{folder} can't be written, so nothing can be downloaded",
            "Set HF_HOME to a folder you may write to.",
        )
    elif free < LOW_SPACE:
        yield Finding("cache", "note", fact, "Free some space, or set HF_HOME to a folder on a larger disk.")
    else:
        yield Finding("cache", "ok", fact)
    if offline():
        yield Finding(
            "network", "note", "HF_HUB_OFFLINE is set: nothing is downloaded", "Unset it to download models."
        )
    if endpoint := os.environ.get("HF_ENDPOINT"):
        yield Finding("hub", "note", f"HF_ENDPOINT is set: models come from {endpoint}")


CHECKS = (_system, _libraries, _torchaudio, _device, _formats, _models, _cache)
