"""How much audio there is to separate, and how much room its stems (and pages) need: estimated before the work.

Looks into files only for so long; those that follow are taken to be like those before, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sepcli.batch.names import Named, Track
from sepcli.errors import InputError, SepcliError, UsageError

SURVEY_SECONDS = 5.0  # of opening files to learn their lengths


@dataclass(frozen=True)
class Survey:
    """What was found about the tracks together."""

    seconds: float  # of audio
    bytes: int  # of all stems and the player's pages, and of the largest temporary file
    # Files that are no audio, and files whose stems would be larger than the format allows.
    failures: tuple[tuple[Track, SepcliError], ...]


def survey(named: Named, tracks: Iterable[Track]) -> Survey:
    """Open each track's file, for up to SURVEY_SECONDS, and add up what its header says."""
    seconds, results, spool = 0.0, 0, 0
    looked_into = 0  # bytes of the inputs that were counted
    until = time.monotonic() + SURVEY_SECONDS
    failures: list[tuple[Track, SepcliError]] = []
    for track in tracks:
        if track.file is None:  # at an address: it is looked at when it has been fetched
            continue
        try:
            size = track.file.stat().st_size
            if time.monotonic() > until and looked_into:
                share = size / looked_into
                seconds += seconds * share
                results += int(results * share)
                looked_into += size
            elif (found := _look(named, track.file)) is not None:
                seconds += found[0]
                results += found[1]
                spool = max(spool, found[2])
                looked_into += size
        except (InputError, UsageError) as problem:
            failures.append((track, problem))
        except (OSError, SepcliError):
            continue  # it fails with its reason when its turn comes
    return Survey(seconds, results + spool, tuple(failures))


def _look(named: Named, file: Path) -> tuple[float, int, int] | None:
    """Audio seconds, bytes of what is written, bytes of the temporary file; None if only decoding would tell.

    UsageError where the format can't hold stems of this length.
    """
    from sepcli.sound.probe import probe
    from sepcli.sound.remux import check_picture
    from sepcli.sound.resample import frames_at
    from sepcli.sound.video import container_of

    request, entry = named.batch.request, named.batch.entry
    info = probe(file, request.audio_track)
    if named.batch.spec.video:
        check_picture(file, container_of(file.suffix.lstrip(".")).suffix)
    seconds = info.duration if info.frames is None else info.frames / info.samplerate
    if seconds is None:
        return None
    seconds = max(0.0, seconds - request.start)
    if request.seconds is not None:
        seconds = min(seconds, request.seconds)
    model_rate = info.samplerate if entry is None else entry.samplerate
    files = named.batch.spec.resolve(info, model_rate)
    frames = int(seconds * info.samplerate)
    guessed = entry is None and named.batch.spec.samplerate == "model"
    if info.frames is not None and not info.lossy and not guessed:  # else the track says it in its turn
        files.check_size(frames_at(frames, info.samplerate, files.samplerate), info.channels)
    stems = named.stems
    mix = files.exact or any(submix.mix for submix in stems.submixes)
    written = len(stems.files if stems.pack is None else stems.pack.tracks)
    room = files.room(frames, info.samplerate, info.channels, written, len(stems.targets) + mix)
    results, spool = room.results if request.stream is None else 0, room.spool
    if files.video:  # a copy of the picture in each
        results += len(stems.files) * file.stat().st_size
    if request.player:
        from sepcli.player.page import page_bytes

        page, making = page_bytes(seconds, info.channels, len(stems.files))
        results, spool = results + page, max(spool, making)
    return seconds, results, spool
