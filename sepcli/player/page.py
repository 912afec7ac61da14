"""The page of one track: written beside its stems, and read again to know whether it still is theirs.

Knows stems as files, and what is to be said about them; no model, no manifest. Browsers let a page from file://
read no file but scripts and media, and make silence of such media in Web Audio. So sounds come as scripts
(base64 of an MP3) where all stems can be in memory at once, which lets them play together to the sample.

    up to SHORT    index.html                        everything in one file
    up to LONG     index.html, player/STEM.js        sounds beside the page
    longer         index.html, player/STEM.mp3       media elements, each with its own clock
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sepcli import __version__
from sepcli.errors import from_os
from sepcli.player import INDEX, sounds

VERSION = 1  # of the pages: those of another are written again
FOLDER = "player"
SHORT, LONG = 60.0, 720.0  # seconds
# At most: of a page without sounds; of a waveform and what stands around it.
_PAGE_BYTES, _STEM_BYTES = 80_000, 8_000
_NAME = "sepcli-player"  # of the element that says what the page shows
_MADE = re.compile(rf'<meta name="{_NAME}" content="([^"]*)">')
_HEAD = 1 << 20  # bytes of a page in which that is looked for
_OURS = re.compile(rf"{FOLDER}/[A-Za-z0-9_-]+\.(js|mp3)")
_FIELD = re.compile(r"\{\{(\w+)\}\}")
# Of a page; else the one with its name.
_SCRIPTS = {"track": ("deck.js", "track.js"), "abx": ("deck.js", "abx.js")}
_DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")  # no names of files on Windows


@dataclass(frozen=True)
class Stem:
    """A stem that is shown.

    called: its path below the page's folder, with forward slashes. key: differs if the samples do; "" where
    that is not known. muted: at first, because the others hold its sound already.
    """

    name: str
    file: Path
    called: str
    key: str = ""
    muted: bool = False


@dataclass(frozen=True)
class About:
    """What is said about a track."""

    title: str
    model: str
    license: str = ""  # of the weights
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """What a page shows. complete: whether the files that belong to it are there."""

    version: int
    title: str
    model: str
    seconds: float
    stems: tuple[tuple[str, str, str], ...]  # (name, called, key), as in Stem
    files: tuple[str, ...]  # beside the page
    complete: bool

    def is_of(self, stems: Sequence[Stem]) -> bool:
        """Whether the page, whole and of this version, shows just these stems."""
        return self.complete and self.version == VERSION and self.stems == _listed(stems)


def write_page(folder: Path, about: About, stems: Sequence[Stem]) -> list[Path]:
    """Write the page of these stems and all its files into `folder`, which is empty; the page comes last.

    InputError where a stem can't be read, OutputError where a file can't be written.
    """
    made = folder / FOLDER
    try:
        made.mkdir(parents=True)
        encoded = sounds.encode_all([stem.file for stem in stems], made)
        seconds = max(sound.seconds for sound in encoded)
        mode = "inline" if seconds <= SHORT else "files" if seconds <= LONG else "long"
        suffix = {"inline": "", "files": ".js", "long": ".mp3"}[mode]
        names = _file_names([stem.name for stem in stems])
        files = [f"{FOLDER}/{name}{suffix}" if suffix else "" for name in names]
        track = {
            **_described(about),
            "seconds": seconds,
            "rate": encoded[0].samplerate,
            "mode": mode,
            "folded": encoded[0].folded,
            "stems": [
                {
                    "name": plain_text(stem.name),
                    "file": file,
                    "muted": stem.muted,
                    **waveform(sound.peaks, sound.bin_seconds),
                }
                for stem, file, sound in zip(stems, files, encoded, strict=True)
            ],
        }
        if mode != "long":
            track["click"] = _click(made / "click.mp3", encoded[0])
        shown = {
            "version": VERSION,
            "title": track["title"],
            "model": track["model"],
            "seconds": seconds,
            "stems": _listed(stems),
            "files": [file for file in files if file],
        }
        page = folder / INDEX
        with open(page, "w", encoding="utf-8", newline="\n") as out:
            head, tail = filled("track", title=track["title"], made=json.dumps(shown), data=track)
            out.write(head)
            if mode == "inline":
                for number, sound in enumerate(encoded):
                    out.write("<script>")
                    write_call(out, number, sound.file)
                    out.write("</script>\n")
            out.write(tail)
        for number, (file, sound) in enumerate(zip(files, encoded, strict=True)):
            if mode == "long":
                sound.file.rename(folder / file)
                continue
            if mode == "files":
                with open(folder / file, "w", encoding="ascii", newline="\n") as out:
                    write_call(out, number, sound.file)
            sound.file.unlink()
        if mode == "inline":
            made.rmdir()
    except OSError as error:
        raise from_os(error, folder) from error
    return [*(folder / file for file in files if file), page]


def page_bytes(seconds: float, channels: int, stems: int) -> tuple[int, int]:
    """How much disk the page of a track takes, and how much more while it is made. channels: of the stems."""
    mp3 = stems * seconds * sounds.KBITS * 1000 / 8 * min(channels, 2)
    text = mp3 * 4 / 3 if seconds <= LONG else mp3
    return int(text) + stems * _STEM_BYTES + _PAGE_BYTES, int(mp3)


def shown(folder: Path) -> Shown | None:
    """What the page in a folder shows; None where there is none, or none of ours."""
    found = read_made(folder / INDEX)
    try:
        if found is None or "stems" not in found:
            return None
        files = tuple(file for file in found["files"] if _OURS.fullmatch(file))
        return Shown(
            found["version"],
            found["title"],
            found["model"],
            float(found["seconds"]),
            tuple((name, called, key) for name, called, key in found["stems"]),
            files,
            all((folder / file).is_file() for file in files),
        )
    except (KeyError, TypeError, ValueError):
        return None


def remove_page(folder: Path) -> None:
    """Remove the page of ours in a folder, with its files. OutputError where that can't be."""
    found = shown(folder)
    if found is None:
        return
    try:
        (folder / INDEX).unlink()
        for file in found.files:
            (folder / file).unlink(missing_ok=True)
    except OSError as error:
        raise from_os(error, folder / INDEX) from error
    with suppress(OSError):  # not empty
        (folder / FOLDER).rmdir()


def read_made(page: Path) -> dict[str, Any] | None:
    """What a page says about itself; None where it is none of ours, or can't be read."""
    try:
        with open(page, "rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
        match = _MADE.search(head)
        found = json.loads(html.unescape(match[1])) if match else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def filled(name: str, *, title: str, made: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """A page of the package, cut where further scripts may stand.

    name: of the files with its body and its script. made: JSON. data: for the script, in any characters.
    """
    values = {
        "kind": name,
        "body": _FIELD.sub(lambda match: _part(f"{match[1]}.html"), _part(f"{name}.html")),
        "title": html.escape(title),
        "made": html.escape(made),
        "style": _part("style.css"),
        # Inside <script> only "<" can end the script or begin a comment; JSON knows it as an escape.
        "data": json.dumps(data).replace("<", "\\u003c"),
        "script": "\n".join(_part(part) for part in _SCRIPTS.get(name, (f"{name}.js",))),
    }
    head, tail = _FIELD.sub(lambda match: values[match[1]], _part("frame.html")).split("<!-- scripts -->")
    return head, tail


def _part(name: str) -> str:
    return (resources.files("sepcli.player") / name).read_text(encoding="utf-8")


def _described(about: About) -> dict[str, Any]:
    return {
        "title": plain_text(about.title),
        "model": plain_text(about.model),
        "license": about.license,
        "settings": [[plain_text(name), plain_text(value)] for name, value in about.settings.items()],
        "program": f"sepcli {__version__}",
    }


def plain_text(text: str) -> str:
    """For a page: names may hold bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _listed(stems: Sequence[Stem]) -> tuple[tuple[str, str, str], ...]:
    return tuple((plain_text(stem.name), plain_text(stem.called), stem.key) for stem in stems)


def waveform(maxima: Sequence[float], bin_seconds: float) -> dict[str, Any]:
    """Maxima of bins in 255 steps of the largest one, rounded up, so that what sounds is seen."""
    peaks = np.array(maxima)
    highest = float(peaks.max()) if len(peaks) else 0.0
    steps = np.ceil(peaks * (255 / highest)) if highest else peaks
    return {
        "peak": highest,
        "peaks": base64.b64encode(np.minimum(steps, 255).astype(np.uint8).tobytes()).decode("ascii"),
        "bin": bin_seconds,
    }


def _click(file: Path, like: sounds.Sound) -> dict[str, Any]:
    """A click at a known place, by which the page learns where this browser lets an MP3 begin."""
    frame = sounds.click(file, like.samplerate, like.channels)
    text = "".join(sounds.base64_of(file))
    file.unlink()
    return {"data": text, "frame": frame}


def write_call(out: TextIO, number: int, sound: Path) -> None:
    """The script that hands a sound to the page."""
    out.write(f'sepcliSound({number}, "')
    out.writelines(sounds.base64_of(sound))
    out.write('");')


def _file_names(names: Sequence[str]) -> list[str]:
    """A name of plain letters for each stem, no two alike on any system."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        plain = re.sub(r"[^a-z0-9_-]+", "_", name.lower())[:60].strip("_")
        if not plain or plain in found or _DEVICE.fullmatch(plain):
            plain = f"{number}-{plain}".rstrip("-")
        found.append(plain)
    return found
