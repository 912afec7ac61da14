"""What several commands share: options, how they are completed, and how their text is read."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from sepcli.errors import SepcliError, UsageError

COMPUTE = "How it is computed"  # the panel of the options below


class Precision(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: names of the catalogue, with their stems. Reads TOML only; never fails."""
    from sepcli.weights.catalog import load_catalog

    try:
        entries = load_catalog().values()
    except Exception:  # noqa: BLE001  (a traceback would land in the user's command line)
        return []
    return [(entry.name, entry.stems_text) for entry in entries if entry.name.startswith(incomplete)]


def complete_stem(incomplete: str) -> list[str]:
    """For the shell: every stem that some model has, and the words of musicians."""
    from sepcli.batch.words import WORDS
    from sepcli.weights.catalog import load_catalog

    try:
        stems = {stem for entry in load_catalog().values() for stem in entry.sources}
    except SepcliError:
        return []
    return sorted(stem for stem in {*stems, *WORDS} if stem.startswith(incomplete.lower()))


Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:I]|mps|xpu[:I]",
        rich_help_panel=COMPUTE,
        help="auto: the GPU if there is one, else the CPU. Naming a device that is not there is an error.",
    ),
]
ModelPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        metavar="|".join(Precision),
        rich_help_panel=COMPUTE,
        help="auto: reduced precision only if the model allows it and the device is faster with it.",
    ),
]
Segment = Annotated[
    float | None,
    typer.Option(
        "--segment",
        metavar="SECONDS",
        rich_help_panel=COMPUTE,
        help="The length of the pieces that the model gets; shorter ones need less memory. Default: as the "
        "model says.",
    ),
]
Shifts = Annotated[
    int,
    typer.Option(
        "--shifts",
        metavar="N",
        min=0,
        rich_help_panel=COMPUTE,
        help="Average N passes at random offsets: usually a little better, N times slower.",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="auto|N",
        rich_help_panel=COMPUTE,
        help="How many segments are computed together.",
    ),
]


class Compile(StrEnum):
    auto = "auto"
    on = "on"
    off = "off"


# --- options that stand in another panel in each command ---


def catalogs(panel: str | None = None) -> Any:
    """--catalog: files with more models."""
    return typer.Option(
        "--catalog",
        metavar="FILE",
        rich_help_panel=panel,
        help="A file with more models, in the format of weights.toml; repeatable. See also $SEPCLI_CATALOG.",
    )


def model_options(panel: str, help: str = "An option that only this kind of model has, such as steps=4") -> Any:
    """-O: options of the model itself."""
    return typer.Option("-O", metavar="KEY=VALUE", rich_help_panel=panel, help=f"{help}; repeatable.")


def overlap_or_published(otherwise: str) -> Any:
    """--overlap of a command that can take the published one; otherwise: the overlap where none is known."""
    return typer.Option(
        "--overlap",
        metavar="published|SHARE",
        rich_help_panel=COMPUTE,
        help="The share of a segment that the next segment covers. published: as in the model's paper, if the "
        f"catalogue knows it, else {otherwise}.",
    )


# --- how messages name options ---

_SHORT = {
    "model": "-m",
    "models": "-m",
    "branch": "--revision",
    "out": "-o",
    "targets": "-t",
    "options": "-O",
    "queries": "--query",
    "submixes": "--submix",
    "catalogs": "--catalog",
    "seeds": "--seed",
    "soundfonts": "--soundfont",
    "stem": "--target",
    "strengths": "--noise",
    "sweeps": "--sweep",
}


def option_text(name: str, value: object = None) -> str:
    """A parameter of the library as an option (errors.spelled): `--batch-size`, `--shifts 2`, `-t vocals`."""
    option = _SHORT.get(name) or "--" + name.replace("_", "-")
    return option if value is None or value is True else f"{option} {value}"


# --- values that need more than a type ---


def parse_time(text: str, option: str) -> float:
    """ "90", "1:30", "1:30.5" and "0:01:30" -> seconds."""
    if not re.fullmatch(r"(\d+:){0,2}\d*\.?\d+|\d+\.", text):
        raise UsageError(
            f"{option} {text}: this is not a time.", remedy="Give seconds (90 or 90.5), mm:ss or hh:mm:ss."
        )
    seconds = 0.0
    *larger, last = text.split(":")
    for part in larger:
        seconds = (seconds + int(part)) * 60
    if larger and (float(last) >= 60 or any(int(part) >= 60 for part in larger[1:])):
        raise UsageError(
            f"{option} {text}: minutes and seconds after a colon end at 59.",
            remedy="Give seconds (90 or 90.5), mm:ss or hh:mm:ss.",
        )
    return seconds + float(last)


def parse_batch_size(text: str) -> int | None:
    """ "auto" -> None."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"--batch-size {text}: auto or a number from 1 is needed.",
            remedy="Leave it out, or give a smaller number if memory runs out.",
        )
    return int(text)


def parse_options(pairs: list[str] | tuple[()]) -> dict[str, str]:
    """["steps=4"] -> {"steps": "4"}; what the model makes of it is its own."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"-O {pair}: KEY=VALUE is needed.", remedy="For example -O steps=4.")
        options[key] = value
    return options
