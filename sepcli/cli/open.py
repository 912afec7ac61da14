"""`sepcli open`: shows the player's pages of a folder in the browser. player/ makes them."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sepcli.cli import console
from sepcli.errors import InputError
from sepcli.player import INDEX
from sepcli.sound.suffixes import AUDIO_SUFFIXES


def open_page(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            show_default=False,
            help="A track's folder, or a folder of many, as `sepcli separate --player` has made them; or of a "
            "listening test.",
        ),
    ],
) -> None:
    """Listen to stems in the browser.

    Opens the page that `sepcli separate --player` wrote beside the stems; for a folder of several tracks, a
    page with all of them and a search. For a listening test, the page of blind comparisons.
    """
    page = find_page(Path(os.path.expanduser(folder)))
    if _open(page):
        console.say(f"Opened {page}")
    else:
        console.say("No browser can be opened here. This is the page:")
        console.line(str(page))


def find_page(folder: Path) -> Path:
    """The page to show for a folder; an overview is brought up to date. InputError where there is none."""
    from sepcli.player.abx import KIND, is_abx
    from sepcli.player.overview import pages_below, write_overview
    from sepcli.player.page import shown

    if not folder.exists():
        raise InputError(f"'{folder}' does not exist.", remedy="Check the path.", code="missing")
    if not folder.is_dir():
        folder = folder.parent
    if is_abx(folder / KIND):  # of a listening test
        folder = folder / KIND
    if shown(folder) is not None or is_abx(folder):
        return folder.resolve() / INDEX
    pages = [path for path, _ in pages_below(folder)]
    if len(pages) == 1:
        return pages[0].resolve() / INDEX
    if not pages:
        raise _nothing(folder)
    overview = write_overview(folder)
    if overview is None:
        raise InputError(
            f"'{folder / INDEX}' is in the way of a page with all {len(pages)} tracks: sepcli did not make it.",
            remedy=f"Open one track, such as '{pages[0]}', or rename that file.",
            code="exists",
        )
    return overview.resolve()


def _nothing(folder: Path) -> InputError:
    if _has_sound(folder):
        return InputError(
            f"'{folder}' has no page that plays its files.",
            remedy="Give the command that made the stems once more, with --player: nothing is separated again.",
            code="no_page",
        )
    return InputError(
        f"'{folder}' has no stems.",
        remedy="Make some: sepcli separate SONG --player.",
        code="no_stems",
    )


def _has_sound(folder: Path) -> bool:
    return any(
        os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES for _, _, names in os.walk(folder) for name in names
    )


def _open(page: Path) -> bool:
    try:
        return webbrowser.open(page.as_uri())
    except webbrowser.Error:
        return False
