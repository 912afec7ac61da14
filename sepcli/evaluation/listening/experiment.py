"""Makes a listening test: excerpts of tracks, what each model makes of them, and pages with questions.

Knows runs and tracks from evaluate.py, and voices from metrics/voice.py. The questions are in webmushra.py.

    tracks, drawn -> a voiced excerpt of each -> key.json
    excerpt with its surroundings -> every model -> the stem, cut, equally loud -> webmushra/.../stimulusK.wav
    those of two models or more -> abx/index.html, abx/sounds/...

This is the method of LDM-dmx (2025, section IV-C): some random tracks; of each a random excerpt of 30 s, more
than half of it voiced; the mixture for comparison; stimuli without names. All that is random follows from the
seed. Files that are there already are not made again, so a test that was stopped goes on.

Axes: C channels, T samples.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepcli.batch.manifest import settings_hash
from sepcli.batch.outputs import check_writable
from sepcli.data.layouts import StemTrack
from sepcli.engine.device import tune_process
from sepcli.errors import InputError, UsageError, parameter, require
from sepcli.evaluation.evaluate import find_material, row_key
from sepcli.evaluation.evaluator import EvaluationListener, Evaluator
from sepcli.evaluation.listening.abx import stimulus_pairs
from sepcli.evaluation.listening.key import Item, Key, read_key, write_text
from sepcli.evaluation.listening.webmushra import AUDIO, MIXTURE, configuration
from sepcli.evaluation.runs import VOICES, EvaluationRequest, Run, expand
from sepcli.evaluation.scoring import Material
from sepcli.metrics.loudness import loudness
from sepcli.metrics.voice import VoiceSums
from sepcli.player.abx import Excerpt, write_abx
from sepcli.sound.encode import AudioWriter
from sepcli.system.files import atomic_output

REFERENCE = "reference"  # a name among the models: the real stem, hidden among the stimuli
ITEMS, SECONDS = 6, 30.0  # the paper's excerpts, and how long each is
LEAST_VOICED = 0.5  # share of an excerpt that must be exceeded
STEP = 10.0  # seconds between the places where an excerpt may begin; SECONDS is a multiple of it
CONTEXT = 10.0  # seconds before and after the excerpt that models get, too
LOUDNESS = -23.0  # LUFS, of every sound: EBU R 128
MOST_GAIN = 20.0  # dB that an estimate may be amplified more than the reference: nearly silent ones stay quiet
WEB = "webmushra"  # the folder whose content is copied into webMUSHRA's
ABX = "abx"  # the folder of the page of blind comparisons
VERSION = 1  # raised when the files change: no test of an earlier version goes on

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A listening test that is complete."""

    key: Key
    folder: Path
    config: Path  # the configuration of webMUSHRA
    page: Path | None  # of blind comparisons; None for one model


def make(
    request: EvaluationRequest,
    folder: Path,
    *,
    count: int = ITEMS,
    seconds: float = SECONDS,
    listener: EvaluationListener | None = None,
) -> Made:
    """Make a listening test in a folder, or what is missing of it. The model `reference` is the real stem.

    request: with one target at most (default: vocals) and one seed. count: excerpts, each of another track.
    seconds: the length of each. UsageError where the folder holds another test; InputError where no track has
    such an excerpt; DeviceError where librosa is missing.
    """
    listener = listener or EvaluationListener()
    stem, seed = _single(request)
    require("librosa")
    tune_process()
    hidden = REFERENCE in request.models
    request = replace(
        request, models=tuple(each for each in request.models if each != REFERENCE), targets=(stem,)
    )
    expanded = expand(request)
    found, broken = find_material(request, listener)
    tracks = {track.name: track for track in found if stem in track.stems and track.name not in broken}
    for name in broken:
        listener.notice(f"{name} is passed over: {broken[name].message}")
    evaluator = Evaluator(request, frozenset([stem]))
    runs: dict[str, Run | None] = {}
    models = {}
    for each in (evaluator.prepare(run, listener) for run in evaluator.fitted(expanded, listener)):
        runs[str(each.run)], models[str(each.run)] = each.run, dict(each.identity)
    if hidden:
        runs[REFERENCE], models[REFERENCE] = None, {}
    settings = {
        "version": VERSION,
        "stem": stem,
        "seed": seed,
        "seconds": seconds,
        "count": count,
        "models": models,
        "tracks": [row_key({}, track, [stem]) for track in tracks.values()],
    }
    test = f"sepcli-{settings_hash(settings)[:8]}"
    check_writable(folder)
    key = read_key(folder)
    if key is None:
        items = draw(tracks, stem, list(runs), count=count, seconds=seconds, seed=seed, listener=listener)
        key = Key(test, stem, seed, seconds, models, items)
        key.write(folder)
    elif key.test != test:
        raise UsageError(
            f"'{folder}' holds another listening test, of other models, data or settings.",
            remedy="Choose another folder, or delete this one.",
            code="other_test",
        )
    sounds = folder / WEB / AUDIO / test
    for name, item in key.items.items():
        if not (path := sounds / name / f"{MIXTURE}.wav").exists():
            material = Material(tracks[item.track], seconds, start=item.start)
            _write(path, np.concatenate([*material.mix()], axis=1), material.samplerate)
    for label, run in runs.items():
        for name, item in key.items.items():
            stimulus = next(each for each, model in item.stimuli.items() if model == label)
            if not (path := sounds / name / f"{stimulus}.wav").exists():
                _stimulus(path, evaluator, run, tracks[item.track], item, stem, seconds, listener)
    config = folder / WEB / "configs" / f"{test}.yaml"
    names = {name: list(item.stimuli) for name, item in key.items.items()}
    write_text(config, configuration(test, stem, names))
    page = None
    if pairs := stimulus_pairs(key):
        heard = sorted({(name, each) for pair in pairs for name, *two in pair for each in two})
        excerpts = {
            name: Excerpt(
                sounds / name / f"{MIXTURE}.wav",
                {each: sounds / name / f"{each}.wav" for item, each in heard if item == name},
            )
            for name in key.items
        }
        page = write_abx(folder / ABX, test, stem, excerpts, pairs)
    return Made(key, folder, config, page)


def _single(request: EvaluationRequest) -> tuple[str, int]:
    """The stem and the seed of the request. UsageError where it has several."""
    if len(request.targets) > 1:
        raise UsageError(
            "A listening test is of one stem, but several are named.",
            remedy=f"Give one of {parameter('targets')}, and make a test for each.",
        )
    if len(request.seeds) != 1:
        raise UsageError(
            "A listening test has one seed, but several are given.",
            remedy=f"Give one with {parameter('seeds')}.",
        )
    (stem,) = request.targets or VOICES
    return stem, request.seeds[0]


# --- excerpts and sounds -----------------------------------------------------------------------------------


def draw(
    tracks: Mapping[str, StemTrack],
    stem: str,
    labels: Sequence[str],
    *,
    count: int,
    seconds: float,
    seed: int,
    listener: EvaluationListener,
) -> dict[str, Item]:
    """Draw excerpts of `count` tracks, or of as many as have one, each with its own order of stimuli.

    labels: the models. InputError where no track has an excerpt.
    """
    order = sorted(tracks)
    random.Random(seed).shuffle(order)
    items: dict[str, Item] = {}
    for name in order:
        if len(items) == count:
            break
        lot = random.Random(f"{seed}/{name}")  # what is drawn of a track doesn't depend on the others
        try:
            excerpt = find_excerpt(tracks[name], stem, seconds, lot)
        except InputError as error:
            listener.notice(f"{name} is passed over: {error.message}")
            continue
        if excerpt is None:
            listener.notice(
                f"{name} is passed over: no {seconds:g} s of it are voiced in the {stem} over more than half."
            )
            continue
        shuffled = list(labels)
        lot.shuffle(shuffled)
        stimuli = {f"stimulus{k}": label for k, label in enumerate(shuffled, 1)}
        items[f"item{len(items) + 1}"] = Item(name, *excerpt, stimuli)
    if not items:
        raise InputError(
            f"No track has {seconds:g} s that are voiced in the {stem} over more than half.",
            remedy=f"Choose other data, or another {parameter('stem')}.",
            code="no_excerpt",
        )
    if len(items) < count:
        listener.notice(f"Tracks with an excerpt: {len(items)}; {count} were wanted.")
    return items


def find_excerpt(track: StemTrack, stem: str, seconds: float, lot: random.Random) -> tuple[float, float] | None:
    """(start in seconds, voiced share) of a random place with enough voice; None where there is none.

    Places are STEP apart. Each stretch between two of them is analysed at most once, when it is first needed:
    pYIN takes far longer than all the rest.
    """
    rate = track.samplerate
    places = [
        k
        for k in range(int(track.seconds / STEP) + 1)
        if round(k * STEP * rate) + round(seconds * rate) <= track.frames
    ]
    lot.shuffle(places)
    known: dict[int, float] = {}
    for place in places:
        cells = range(place, place + round(seconds / STEP))
        for cell in cells:
            if cell not in known:
                known[cell] = voiced_seconds(Material(track, STEP, start=cell * STEP), stem)
        share = sum(known[cell] for cell in cells) / seconds
        if share > LEAST_VOICED:
            return place * STEP, round(min(share, 1.0), 3)
    return None


def voiced_seconds(material: Material, stem: str) -> float:
    """For how many seconds the stem is voiced, as the metrics for voices see it."""
    with closing(material.references([stem])) as references:
        heard = references.take(material.frames)
    sums = VoiceSums(1, material.samplerate, pesq=False)
    sums.add(heard, np.zeros_like(heard))
    return float(sums.result()["voiced"][0])


def _stimulus(
    path: Path,
    evaluator: Evaluator,
    run: Run | None,
    track: StemTrack,
    item: Item,
    stem: str,
    seconds: float,
    listener: EvaluationListener,
) -> None:
    """Write what the run makes of an excerpt; for None, the real stem."""
    excerpt = Material(track, seconds, start=item.start)
    with closing(excerpt.references([stem])) as references:
        real = references.take(excerpt.frames)[0]
    if run is None:
        _write(path, real, track.samplerate)
        return
    lead = min(CONTEXT, item.start)
    around = Material(track, lead + seconds + CONTEXT, start=item.start - lead)
    estimator = evaluator.estimator(run)
    row = estimator.sources(around).index(stem)
    made = estimator.estimate(around, lambda done, total: listener.progress(run, track, done, total))
    wave = np.concatenate([block[row] for block in made], axis=-1)
    begin = round(lead * track.samplerate)
    most = LOUDNESS - loudness(real, track.samplerate) + MOST_GAIN
    _write(path, wave[:, begin : begin + excerpt.frames], track.samplerate, most)


def equally_loud(wave: Wave, samplerate: int, most: float = np.inf) -> Wave:
    """[C, T] -> the same at LOUDNESS, by one gain of at most `most` dB; nothing clips, silence stays."""
    gain = min(LOUDNESS - loudness(wave, samplerate), most)
    peak = float(np.abs(wave).max(initial=0))
    if not np.isfinite(gain) or peak == 0:
        return wave
    return wave * np.float32(min(10 ** (gain / 20), 1 / peak))


def _write(path: Path, wave: Wave, samplerate: int, most: float = np.inf) -> None:
    """Write a sound, equally loud, with 16 bits and at least two channels. OutputError.

    webMUSHRA plays a single channel on the left only.
    """
    if len(wave) == 1:
        wave = np.repeat(wave, 2, axis=0)
    with (
        atomic_output(path) as beside,
        AudioWriter(beside, samplerate=samplerate, channels=len(wave), depth="16") as writer,
    ):
        writer.write(equally_loud(wave, samplerate, most))
