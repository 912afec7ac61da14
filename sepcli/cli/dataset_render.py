"""`sepcli dataset render`: its options, and what it shows while it runs.

data/synthetic/render.py does the work. Progress goes to standard error, the folder's summary to standard
output.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepcli.cli import console

if TYPE_CHECKING:
    from sepcli.data.synthetic.render import Rendered

MUSIC, SOUND, RUN = "What is played", "How it sounds", "How it runs"


def render(
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False, help="The folder to fill.")],
    hours: Annotated[
        float,
        typer.Option(
            "--hours", metavar="HOURS", min=0.0, rich_help_panel=MUSIC, help="How much music to make."
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            rich_help_panel=MUSIC,
            help="The same seed gives the same songs, however many. Songs of several seeds may share a folder.",
        ),
    ] = 0,
    drums: Annotated[
        Path | None,
        typer.Option(
            "--drums",
            metavar="DIR",
            rich_help_panel=MUSIC,
            show_default=False,
            help="A folder with human drum performances, the Groove MIDI Dataset. Without it all drums are "
            "programmed.",
        ),
    ] = None,
    stems: Annotated[
        str,
        typer.Option(
            "--stems",
            metavar="four|slakh|none",
            rich_help_panel=MUSIC,
            help="four: drums, bass, other. slakh: bass, drums, guitar, piano. none: the vocals only.",
        ),
    ] = "four",
    vocals: Annotated[
        bool,
        typer.Option(
            "--vocals",
            rich_help_panel=MUSIC,
            help="Add vocals of synthetic singers (needs flite, espeak-ng and pip install 'sepcli[sing]').",
        ),
    ] = False,
    soundfont: Annotated[
        list[Path] | None,
        typer.Option(
            "--soundfont",
            metavar="FILE",
            rich_help_panel=SOUND,
            show_default=False,
            help="A General MIDI SoundFont (.sf2, .sf3); repeatable: one is drawn for each song.",
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            metavar="DIR",
            rich_help_panel=SOUND,
            show_default=False,
            help="Drum one-shots (bd_*, sn_*, *hat*, ...), for some of the electronic kits.",
        ),
    ] = None,
    samplerate: Annotated[
        int,
        typer.Option(
            "--samplerate",
            metavar="HZ",
            min=8000,
            max=96000,
            rich_help_panel=SOUND,
            help="The sample rate of the files; FluidSynth goes up to 96000.",
        ),
    ] = 44100,
    mono: Annotated[bool, typer.Option("--mono", rich_help_panel=SOUND, help="Write one channel.")] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N",
            min=1,
            rich_help_panel=RUN,
            help="How many songs are made at a time, each on a core.",
        ),
    ] = 1,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=RUN, help="Print only errors.")
    ] = False,
) -> None:
    """Make up songs and render them as stems, to train on.

    Chords, bass lines, accompaniments and melodies come from a random generator, drums from human performances
    or drum machines. FluidSynth plays them with the instruments of a SoundFont. Finished songs are kept: the
    same command goes on where it stopped, and with more --hours it adds songs.
    """
    console.report_as("quiet" if quiet else "text")

    from sepcli.data.synthetic.render import RenderSettings, render_dataset

    if drums is None:
        console.notice(
            "No --drums: every drum part is programmed. The Groove MIDI Dataset makes them human: "
            "https://magenta.tensorflow.org/datasets/groove"
        )
    settings = RenderSettings(
        tuple(soundfont or ()),
        drums,
        samples,
        stems=stems,
        samplerate=samplerate,
        channels=1 if mono else 2,
        vocals=vocals,
    )
    with _Display(hours * 3600) as display:
        seconds = render_dataset(out, hours=hours, seed=seed, settings=settings, jobs=jobs, done=display.done)
    songs = f"{display.songs} {'song' if display.songs == 1 else 'songs'}"
    console.line(f"{songs}, {console.clock(seconds)} of music in {out} ({display.new} new)")


class _Display:
    """Shows progress: a bar in seconds of music on a terminal, else a line now and then."""

    def __init__(self, wanted: float):
        self.wanted = wanted  # seconds
        self.songs = self.new = 0
        self._bars: Any = None
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> _Display:
        self._bars = console.started_bars("TaskProgressColumn", "TimeElapsedColumn", "TimeRemainingColumn")
        if self._bars is not None:
            self._bar = self._bars.add_task("Rendering", total=self.wanted)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def done(self, song: Rendered, seconds: float) -> None:
        """A song is done; so many seconds of music are there now."""
        self.songs += 1
        self.new += song.new
        if self._bars is not None:
            self._bars.update(self._bar, description=song.name, completed=min(seconds, self.wanted))
        elif time.monotonic() - self._last >= console.PLAIN_INTERVAL:
            self._last = time.monotonic()
            console.say(f"{song.name}: {console.clock(seconds)} of {console.clock(self.wanted)}")
