"""Filter a folder of stems by what a model finds in them: the whole of `sepcli dataset filter` but its display.

    tracks of the folder -> a verdict on each (quality.py) -> report, list of songs, picture (quality_report.py)

Knows how the parts are put together. A song whose files can't be read fails alone; a run that was stopped goes
on from the report, song by song.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sepcli.data.layouts import Problem, find_tracks
from sepcli.data.quality import Rule, Song, SongProgress, Verdict, decided, fingerprint, measure_song
from sepcli.data.quality_report import Report
from sepcli.engine.device import choose_device, choose_precision
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import InputError, Notice, missing
from sepcli.loading import Loaded


def filter_dataset(
    root: Path,
    loaded: Loaded,
    out: Path,
    rule: Rule | None = None,
    *,
    layout: str = "auto",
    settings: Settings | None = None,
    device: str = "auto",
    precision: str = "auto",
    options: Mapping[str, str] | None = None,
    force: bool = False,
    begun: Callable[[int, int], None] = lambda songs, known: None,
    progress: SongProgress | None = None,
    done: Callable[[Verdict, bool], None] = lambda verdict, before: None,
    notice: Notice = lambda text: None,
) -> list[Verdict]:
    """Decide on every song below `root`, write the report into `out`, and give the verdicts, sorted by name.

    loaded: the model, with all its stems. layout: as for layouts.find_tracks. settings, device, precision: as
    for separation. options: the model's, as it was loaded. force: begin anew where `out` has a report
    of another model, folder or way of measuring.
    begun: called with the number of songs, and with how many of them the report knows. done: called after each
    song with its verdict, and whether the report knew it. notice: called with sentences for the user.

    A song that can't be measured has an `error` in its verdict. InputError: there are no songs. UsageError: a
    report made in another way is there. OutputError: `out` can't be written. DeviceError: memory ran out.
    """
    rule, settings = rule or Rule(), settings or Settings()
    problems: list[Problem] = []
    songs = find_tracks(root, layout, problems=problems)
    broken = _by_song(problems)
    names = sorted({*broken, *(song.name for song in songs)})
    where = choose_device(device)
    dtype = choose_precision(precision, where, loaded.model.half)
    how = {key: value for key, value in asdict(settings).items() if key not in ("batch_size", "compile")}
    made_with = {
        "data": str(Path(root).resolve()),
        "weights": list(loaded.hashes),
        "options": dict(options or {}),
        "precision": dtype.name,
        **{f"engine_{key}": value for key, value in how.items()},
    }
    report = Report(Path(out), made_with, rule, force=force)
    by_name = {song.name: song for song in songs}
    same = {song.name: report.known[song.name] for song in songs if _is_known(song, report.known)}
    begun(len(names), len(same))
    engine: Engine | None = None
    for name in names:
        if name in broken:
            verdict = Verdict(name, error=broken[name])
        elif name in same:
            verdict = decided(same[name], rule)
        else:
            engine = engine or Engine(loaded.model, settings, where.torch, dtype.dtype)
            verdict = measure_song(by_name[name], engine, rule, progress)
        report.add(verdict)
        done(verdict, verdict.error is None and name in same)
    lacking = missing("matplotlib")
    if lacking:
        notice(f"The picture is left out: {lacking}")
    report.finish(picture=lacking is None)
    return report.verdicts


def _by_song(problems: Sequence[Problem]) -> dict[str, InputError]:
    """{song: what of it is broken}. A song with a broken file must not be kept."""
    messages: dict[str, list[str]] = {}
    for problem in problems:
        messages.setdefault(problem.track, []).append(problem)
    return {
        name: InputError(" ".join(found), remedy="Replace or remove it.", code="broken")
        for name, found in messages.items()
    }


def _is_known(song: Song, known: Mapping[str, Verdict]) -> bool:
    """Whether the report has this song, completely measured, from the files that are there now."""
    before = known.get(song.name)
    if before is None or before.error is not None:
        return False
    try:
        return fingerprint(song) == dict(before.files)
    except OSError:
        return False
