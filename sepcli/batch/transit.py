"""A track's input on the machine that separates it, where it is at an address or its stems go to one.

Knows room on disks, and what is fetched when; how, is system/remote.py's.
"""

from __future__ import annotations

from pathlib import Path

from sepcli.batch.names import Named, Track
from sepcli.batch.outputs import check_space, short_name
from sepcli.batch.survey import survey


def at_hand(track: Track, named: Named, folder: Path, work: Path) -> Track:
    """The track with a file that is here: what is at an address is copied into `folder`.

    work: the folder of unfinished files, of which `folder` is one. Where anything is elsewhere, the room on the
    disk is looked at track by track. InputError, OutputError.
    """
    remote, out = track.source.remote, named.batch.request.remote
    if remote is None and out is None:
        return track
    if remote is not None:
        check_space(work, remote.size, work=True)
        # Called as there: without tags the name becomes the title of its stems.
        copy = folder / "input" / short_name(track.source.relative.name)
        copy.parent.mkdir()
        remote.fetch(copy)
        track = track.read_from(copy)
    found = survey(named, [track])
    for _, problem in found.failures:
        raise problem
    check_space(work if out is not None else named.batch.request.out, found.bytes, work=out is not None)
    return track
