"""The player's page beside a track's stems: when it is written, and when it has to go.

A page is there only with the stems that it shows. It is written when they have their final names, so a page
that can't be written loses no stem; the next run sees that it is missing, and writes it without separating
anything. It is no part of what stems depend on. Knows the manifest, names and pages; no audio.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.batch.decisions import Fingerprint
from sepcli.batch.manifest import Manifest, settings_hash
from sepcli.batch.names import PREVIEW, Named, Stems, Track
from sepcli.batch.outputs import page_folder
from sepcli.batch.request import Request
from sepcli.batch.results import Listener
from sepcli.errors import OutputError, SepcliError, Warned, from_os, parameter
from sepcli.player import INDEX
from sepcli.sound.submix import Submix

if TYPE_CHECKING:
    from sepcli.batch.workspace import Workspace
    from sepcli.player.page import About, Shown, Stem
    from sepcli.weights.entries import Entry

WARNED = "player"  # the code of what is said where a page could not be written


class Pages:
    """The pages of a run. `keep` is called when a track's stems stand; `close` at the end."""

    def __init__(
        self, named: Named, prints: Fingerprint, manifest: Manifest, work: Workspace, listener: Listener
    ):
        self._batch, self._request, self._stems = named.batch, named.batch.request, named.stems
        self._prints, self._manifest, self._work, self._listener = prints, manifest, work, listener

    def keep(self, track: Track) -> tuple[str | None, list[Warned]]:
        """Make the track's page right: written if it is asked for, removed if it shows what is no more.

        The page's path, and sentences about what went wrong. All stems of the track stand.
        """
        from sepcli.player.page import remove_page, shown

        folder = page_folder(self._request.template, track.outputs)
        if self._request.stdout is not None or self._request.remote is not None or folder is None:
            return None, []
        try:
            page = shown(folder)
            if not self._request.player:
                if page is not None and not self._still_right(track, folder, page):
                    remove_page(folder)
                    self._listener.notice(
                        f"{track.source.name}: the player's page showed other stems and was removed; "
                        f"{parameter('player', True)} makes it again."
                    )
                return None, []
            written = self._written(track, folder)
            return written and os.fspath(written), []
        except SepcliError as error:
            return None, [not_written(error)]

    def _still_right(self, track: Track, folder: Path, page: Shown) -> bool:
        """Whether none of the track's files that a page shows has changed."""
        keys = {file: key for _, file, key in page.stems}
        return all(
            keys.get(_below(path, folder), key) == key
            for path in track.outputs.values()
            for key in [self._key(path)]
        )

    def _written(self, track: Track, folder: Path) -> Path | None:
        """The page, written if it isn't there already; None where every stem is silent and left out."""
        from sepcli.player.page import About, Stem, shown

        muted = doubled(self._stems)
        stems = [
            Stem(stem, path, _below(path, folder), self._key(path), stem in muted)
            for stem, path in track.outputs.items()
            if os.path.lexists(path)
        ]
        page = shown(folder)
        if not stems or (page is not None and page.is_of(stems)):
            return folder / INDEX if stems else None
        about = About(
            track.source.track + (PREVIEW if self._request.preview else ""),
            self._batch.model.name,
            license_of(self._batch.entry),
            settings_text(self._request, str(self._prints.made_with["precision"])),
        )
        return put_page(folder, about, stems, self._work, force=self._request.force)

    def _key(self, path: Path) -> str:
        """Another for other samples: what the file's samples depend on, and its size."""
        standing = self._manifest.standing(path)
        if standing is None:
            return ""
        try:
            size = path.stat().st_size
        except OSError as error:
            raise from_os(error, path) from error
        record = standing.record
        return settings_hash(
            {
                "made": standing.output.made,
                "input": record.input.sha256,
                "gain": record.gain,
                "bytes": size,
            }
        )

    def close(self) -> None:
        """Write the overview of all pages in the output folder, where there are several."""
        from sepcli.player.overview import write_overview

        if self._request.player and self._request.stdout is None:
            try:
                write_overview(self._request.out)
            except OutputError as error:
                self._listener.notice(f"The overview of the pages was not written. {error}")


def planned_page(request: Request, track: Track) -> Path | None:
    """The page that a run would write, or has written; None where none is asked for."""
    folder = page_folder(request.template, track.outputs)
    return folder / INDEX if request.player and folder is not None else None


def put_page(folder: Path, about: About, stems: Sequence[Stem], work: Workspace, *, force: bool) -> Path:
    """Write the page of these stems into their folder, in place of an older one. OutputError, InputError."""
    from sepcli.batch.workspace import flush, publish
    from sepcli.player.page import remove_page, shown, write_page

    if os.path.lexists(folder / INDEX) and shown(folder) is None and not force:
        raise OutputError(
            f"'{folder / INDEX}' exists, and sepcli did not make it.",
            remedy=f"Rename it, or replace it with {parameter('force', True)}.",
            code="exists",
        )
    with work.track() as place:
        files = write_page(place, about, stems)
        for file in files:
            flush(file)
        remove_page(folder)
        publish([(file, folder / file.relative_to(place)) for file in files])
    return folder / INDEX


def not_written(error: SepcliError) -> Warned:
    """Why there is no page."""
    return Warned(f"The player's page was not written. {error}", WARNED)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def doubled(stems: Stems) -> set[str]:
    """The submixes whose sound other files have too: all but the rest; without any stem all but the first."""
    rest = Submix.without("", stems.written).gains
    found = [submix.name for submix in stems.submixes if not stems.written or submix.gains != rest]
    return set(found if stems.written else found[1:])


def license_of(entry: Entry | None) -> str:
    """The licence of the weights, with what is to be known of it; "" for a file of the user's."""
    if entry is None:
        return ""
    note = entry.license_note.rstrip(".")
    return f"{entry.license} ({note})" if note else entry.license


def settings_text(request: Request, precision: str = "") -> dict[str, str]:
    """The settings of a run for people: those that matter to a listener."""
    settings, spec = request.settings, request.spec
    found = {
        "Overlap": f"{settings.overlap:g}",
        "Shifts": f"{settings.shifts}",
        "Precision": precision,
        "Options": ", ".join(f"{name}={value}" for name, value in request.options.items()),
        "From": f"{request.start:g} s" if request.start else "",
        "Length": f"{request.duration:g} s" if request.duration else "",
        "Sum": spec.sum if spec.sum != "none" else "",
    }
    if settings.segment is not None:
        found["Segment"] = f"{settings.segment:g} s"
    if settings.shifts:
        found["Seed"] = f"{settings.seed}"
    return {name: value for name, value in found.items() if value}
