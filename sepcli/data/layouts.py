"""Which folders are tracks and which files are their stems: four layouts of music on disk.

Knows names and headers, decodes nothing. A stem has the name of its file (in pools, of its folder), in lower
case.

    stems    ROOT/TRACK/STEM.ext                       any stems; ROOT may be a single TRACK
    musdb    ROOT/{train,test}/TRACK/STEM.ext          MUSDB18-HQ: drums, bass, other, vocals (+ mixture)
    slakh    ROOT/{train,validation,test}/TrackNNNNN/STEM.ext      bass, drums, guitar, piano: Slakh2100 as
                                                       MSDM grouped it, 22.05 kHz mono
    pools    ROOT/STEM/**/ANY.ext                      unaligned: every file is a track of that one stem

In every layout `mixture` (or `mix`) is the whole and not a stem. Folders of splits (train, test, valid,
validation) may come first; then the names are "train/TRACK". ROOT may also be one split. Hidden files and
folders are skipped.

How "auto" decides, for each split: "pools" if all subfolders with audio bear the names of stems (STEM_NAMES)
and their files do not; else "slakh" if they are called TrackNNNNN, "musdb" if every track has exactly MUSDB18's
four stems, else "stems". Where that guesses wrong, name the layout: for example for a pool of a stem that is
not in the list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sepcli.errors import InputError, UsageError, from_os, parameter
from sepcli.sound import sndfile

LAYOUTS = ("stems", "musdb", "slakh", "pools")
SPLITS = ("train", "test", "valid", "validation")
MIXTURES = ("mixture", "mix")
MUSDB_STEMS = ("drums", "bass", "other", "vocals")
SLAKH_STEMS = ("bass", "drums", "guitar", "piano")
# Folders of these names are taken for pools by "auto".
STEM_NAMES = frozenset(
    (*MUSDB_STEMS, *SLAKH_STEMS, "accompaniment", "brass", "choir", "fx", "keys", "lead", "melody", "organ",
     "pad", "percussion", "speech", "strings", "synth", "voice", "winds", "woodwinds")
)  # fmt: skip
# Files in which libsndfile finds a window without decoding all that stands before it.
_SEEKABLE = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .caf .au .snd .voc".split()
)
_LOOKED_FOR = {
    "stems": "folders TRACK/STEM.wav (or flac, ogg, opus, mp3 ...)",
    "musdb": "train/TRACK/ and test/TRACK/ with " + ", ".join(MUSDB_STEMS),
    "slakh": "train/TrackNNNNN/ (and validation, test) with " + ", ".join(SLAKH_STEMS),
    "pools": "folders STEM/ with audio files",
}


@dataclass(frozen=True)
class StemTrack:
    """A piece of music on disk with its stems, which all start at the same time."""

    name: str  # of its folder, after its split: "train/NAME"; in pools "STEM/FILE"
    stems: Mapping[str, Path]  # by source name, sorted
    mixture: Path | None  # None: the mix is the sum of the stems
    samplerate: int  # Hz, of the mixture where there is one, else of the first stem
    channels: int  # likewise
    frames: int  # at `samplerate`, of the mixture where there is one, else of the shortest stem

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.samplerate


class Problem(str):
    """A message about a file, with the name of the track that the file belongs to."""

    track: str

    @classmethod
    def of(cls, track: str, message: str) -> Problem:
        """The message about a file of that track."""
        problem = cls(message)
        problem.track = track
        return problem


def find_tracks(
    root: Path | str, layout: str = "auto", *, problems: list[Problem] | None = None
) -> list[StemTrack]:
    """The tracks below `root`, sorted by name.

    problems: a list that gets a message (a Problem) for each file that can't be opened. The stem is then
    missing from its track, and a track without any stem is left out. Without that list such a file is an
    InputError ("broken"), because a stem that is missing unnoticed would be measured as silence. InputError
    "no_tracks", naming what was looked for, where there are no tracks.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"There is no layout {layout!r}.", remedy=f"Choose among auto, {', '.join(LAYOUTS)}.")
    if not root.is_dir():
        fact = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {fact}.", remedy="Name a folder of tracks.", code="missing")
    found: list[Problem] = []
    tracks = [track for parts in _parts(root) for track in _tracks_of(*parts, layout, found)]
    if found and problems is None:
        raise InputError(found[0], remedy="Replace or remove that file.", code="broken")
    if problems is not None:
        problems += found
    if not tracks:
        wanted = LAYOUTS if layout == "auto" else (layout,)
        raise InputError(
            f"No tracks in {root}: looked for " + "; or ".join(_LOOKED_FOR[name] for name in wanted)
            + (f". {len(found)} files can't be read, the first: {found[0]}" if found else "."),
            remedy=f"Name the folder above the tracks; or give {parameter('layout')}, if the names are others.",
            code="no_tracks",
        )  # fmt: skip
    return sorted(tracks, key=lambda track: track.name)


def detect(root: Path) -> str:
    """The layout of the folder of one split, by the rule at the top of this file."""
    folders = [folder for folder in _folders(root) if next(_audio_files(folder), None) or any(_folders(folder))]
    names = [{path.stem.lower() for path in _audio_files(folder)} - set(MIXTURES) for folder in folders]
    if folders and all(
        folder.name.lower() in STEM_NAMES and not (files and files <= STEM_NAMES)
        for folder, files in zip(folders, names, strict=True)
    ):
        return "pools"
    if folders and all(re.fullmatch(r"Track\d+", folder.name) for folder in folders):
        return "slakh"
    return "musdb" if names and all(stems == set(MUSDB_STEMS) for stems in names) else "stems"


def _parts(root: Path) -> Iterator[tuple[Path, str]]:
    """The splits, or the root itself where it has none: (folder, what the names of its tracks begin with)."""
    splits = [
        folder for folder in _folders(root)
        if folder.name.lower() in SPLITS and next(_audio_files(folder), None) is None
    ]  # fmt: skip
    if not splits:
        yield root, ""
    for folder in splits:
        yield folder, f"{folder.name}/"


def _tracks_of(root: Path, prefix: str, layout: str, problems: list[Problem]) -> Iterator[StemTrack]:
    if layout == "auto":
        layout = detect(root)
    if layout == "pools":
        for folder in _folders(root):
            for path in _files_below(folder):
                name = path.relative_to(root).as_posix()
                yield from _track(prefix + name, {folder.name.lower(): path}, None, problems)
        return
    allowed = {"musdb": MUSDB_STEMS, "slakh": SLAKH_STEMS}.get(layout)
    folders = list(_folders(root))
    if layout == "stems" and not any(next(_audio_files(folder), None) for folder in folders):
        folders = [root]  # a single track
    for folder in folders:
        stems: dict[str, Path] = {}
        mixture = None
        for path in _audio_files(folder):
            stem = path.stem.lower()
            if stem in MIXTURES:
                mixture = mixture or path
            elif stem in stems:
                message = f"{path} is a second file for {stem}, beside {stems[stem].name}."
                problems.append(Problem.of(prefix + folder.name, message))
            elif allowed is None or stem in allowed:
                stems[stem] = path
        if stems:
            yield from _track(prefix + folder.name, stems, mixture, problems)


def _track(
    name: str, stems: Mapping[str, Path], mixture: Path | None, problems: list[Problem]
) -> Iterator[StemTrack]:
    """One track, or none if no stem of it can be opened."""
    headers: dict[Path, tuple[int, int, int]] = {}  # {path: (Hz, channels, frames)}
    for path in [*stems.values(), *([mixture] if mixture else [])]:
        try:
            headers[path] = _header(path)
        except InputError as problem:
            problems.append(Problem.of(name, problem.message))
    kept = {stem: stems[stem] for stem in sorted(stems) if stems[stem] in headers}
    if not kept:
        return
    if mixture not in headers:
        mixture = None
    samplerate, channels, frames = headers[mixture or next(iter(kept.values()))]
    if mixture is None:
        frames = min(headers[path][2] * samplerate // headers[path][0] for path in kept.values())
    yield StemTrack(name, kept, mixture, samplerate, channels, frames)


def _header(path: Path) -> tuple[int, int, int]:
    """(Hz, channels, frames) by the header; for an MP3 without one, an estimate. InputError."""
    try:
        with sndfile.opened(path) as file:
            samplerate, channels, frames = file.samplerate, file.channels, file.frames
    except OSError as error:
        raise from_os(error, path, reading=InputError) from None
    except (sndfile.Error, TypeError):
        raise InputError(
            f"'{path}' can't be read: not audio for libsndfile.", remedy="Replace it.", code="broken"
        ) from None
    if not 0 < frames < sndfile.UNKNOWN_FRAMES:
        raise InputError(f"'{path}' has no audio frames.", remedy="Replace it.", code="no_frames")
    return samplerate, channels, frames


def _folders(root: Path) -> Iterator[Path]:
    """The folders in a folder, sorted."""
    yield from (path for path in _listed(root) if path.is_dir())


def _audio_files(folder: Path) -> Iterator[Path]:
    """The audio files in a folder, sorted."""
    yield from (path for path in _listed(folder) if path.suffix.lower() in _SEEKABLE and path.is_file())


def _files_below(folder: Path) -> Iterator[Path]:
    """The audio files in a folder and in all folders below it."""
    yield from _audio_files(folder)
    for below in _folders(folder):
        yield from _files_below(below)


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden entries. InputError where it can't be listed."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise from_os(error, folder, reading=InputError) from None
    return [folder / name for name in names]
