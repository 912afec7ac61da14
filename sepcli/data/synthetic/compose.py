"""Make up a song as notes, from a seed: key, tempo, form, chords, and parts that enter and leave.

    draw style, tempo, key -> form (sections) -> chords of each kind of section
    -> drums -> bass (follows the kick) -> layers (strums, keys, pads, ...) -> leads -> human timing

Knows notes and groups of instruments; neither audio nor SoundFonts. compose(seed, index) depends only on its
arguments: song 7 is the same whether ten songs are made or a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepcli.data.synthetic import accompany, bassline, machine
from sepcli.data.synthetic.groove import Grooves, loop
from sepcli.data.synthetic.harmony import Chord, parse_numeral
from sepcli.data.synthetic.instruments import GROUPS
from sepcli.data.synthetic.melody import expression, melody, rap
from sepcli.data.synthetic.score import Note, Part, Section, Song
from sepcli.data.synthetic.styles import STYLES, Style

SECONDS = (60.0, 150.0)  # the length of a song lies between these
_FORM = ("intro", "verse", "chorus", "verse", "chorus", "break", "bridge", "chorus", "outro")
_BARS = {
    "intro": (2, 4, 4, 8),
    "verse": (8, 8, 16),
    "chorus": (8, 8),
    "bridge": (4, 8),
    "break": (2, 4),
    "outro": (2, 4),
}
# How likely a layer plays in each kind of section. Where it does not, its stem has silence.
_PRESENT = {"intro": 0.45, "verse": 0.75, "chorus": 0.92, "bridge": 0.65, "break": 0.45, "outro": 0.55}
_DRUMS_PRESENT = {"intro": 0.55, "verse": 0.95, "chorus": 1.0, "bridge": 0.75, "break": 0.4, "outro": 0.6}
_BASS_PRESENT = {"intro": 0.5, "verse": 0.93, "chorus": 1.0, "bridge": 0.8, "break": 0.45, "outro": 0.6}
_SUNG = {"intro": 0.08, "verse": 0.93, "chorus": 1.0, "bridge": 0.65, "break": 0.2, "outro": 0.35}


@dataclass(frozen=True)
class _Frame:
    """What all parts of a song share."""

    style: Style
    tempo: float
    beats_per_bar: int
    key: int
    mode: str
    swing: float
    sections: tuple[Section, ...]
    chords: tuple[tuple[Chord, ...], ...]  # for each section


def compose(seed: int, index: int, grooves: Grooves | None = None, *, needs: Sequence[str] = ()) -> Song:
    """Compose song number `index` of `seed`.

    grooves: human drum performances; without them every drum part is programmed. needs: labels that the song
    must have ("guitar", "piano"); a layer is added for each label that would be missing.
    """
    rng = np.random.default_rng([seed, index, 1])
    name = str(rng.choice(list(STYLES), p=_weights()))
    style = STYLES[name]
    frame = _frame(rng, style)
    drummer, kit, drums = _drums(np.random.default_rng([seed, index, 2]), frame, grooves)
    kicks = sorted(note.start for note in drums if note.pitch in (35, 36))
    parts = [Part("drums", "drums", "drums", "kit", tuple(_timed(rng, frame, drums, drummer)))]
    parts += _percussion(np.random.default_rng([seed, index, 3]), frame)
    parts.append(_bass(np.random.default_rng([seed, index, 4]), frame, kicks))
    parts += _layers(np.random.default_rng([seed, index, 5]), frame, needs)
    parts.append(_vocals(np.random.default_rng([seed, index, 6]), name, frame))
    return Song(
        seed,
        index,
        name,
        frame.tempo,
        frame.beats_per_bar,
        frame.key,
        frame.mode,
        drummer,
        kit,
        frame.sections,
        tuple(parts),
    )


def _weights() -> np.ndarray:
    weights = np.array([style.weight for style in STYLES.values()])
    return weights / weights.sum()


def _frame(rng: np.random.Generator, style: Style) -> _Frame:
    tempo = round(float(rng.uniform(*style.tempo)), 1)
    beats_per_bar = 3 if rng.random() < style.waltz else 4
    key = int(rng.integers(12))
    mode = "minor" if rng.random() < style.minor_share else "major"
    sections = _form(rng, 60 / tempo * beats_per_bar)
    progressions = {kind: _progression(rng, style, mode) for kind in dict.fromkeys(_FORM)}
    if rng.random() < 0.4:
        progressions["chorus"] = progressions["verse"]
    progressions["intro"] = progressions["outro"] = progressions[str(rng.choice(["verse", "chorus"]))]
    rate = float(rng.choice([1.0, 1.0, 1.0, 2.0, 0.5], p=[0.5, 0.2, 0.1, 0.1, 0.1]))  # bars for each chord
    chords = tuple(
        _chords(progressions[section.kind], section, key, beats_per_bar, rate) for section in sections
    )
    return _Frame(style, tempo, beats_per_bar, key, mode, float(rng.choice(style.swing)), sections, chords)


def _form(rng: np.random.Generator, bar_seconds: float) -> tuple[Section, ...]:
    """The sections of a song, in whole bars, up to a length that is drawn between the bounds SECONDS."""
    wanted = int(rng.uniform(SECONDS[0], SECONDS[1]) / bar_seconds)
    least = int(np.ceil(SECONDS[0] / bar_seconds))
    wanted = max(wanted, least)
    kinds = [kind for kind in _FORM if kind in ("verse", "chorus") or rng.random() < 0.65]
    lengths = {kind: int(rng.choice(_BARS[kind])) for kind in _BARS}
    sections: list[Section] = []
    bar = place = 0
    while bar < wanted:
        kind = kinds[place % len(kinds)]
        place += 1
        if kind in ("intro", "outro") and bar > 0 and wanted - bar > lengths["outro"] + 4:
            continue  # an outro only at the end, an intro only at the beginning
        bars = min(lengths[kind], wanted - bar)
        sections.append(Section(kind, bar, bars))
        bar += bars
    return tuple(sections)


def _progression(rng: np.random.Generator, style: Style, mode: str) -> list[tuple[int, tuple[int, ...]]]:
    numerals = str(rng.choice(style.major if mode == "major" else style.minor)).split()
    enriched = rng.random() < style.sevenths
    chords = []
    for numeral in numerals:
        root, intervals = parse_numeral(numeral)
        if enriched and len(intervals) == 3 and intervals[-1] == 7:
            seventh = 11 if intervals[1] == 4 and root in (0, 5, 3, 8) else 10
            intervals = (*intervals, seventh)
            if rng.random() < 0.3:
                intervals = (*intervals, 14)
        chords.append((root, intervals))
    return chords


def _chords(progression, section: Section, key: int, beats_per_bar: int, rate: float) -> tuple[Chord, ...]:
    start, end = section.bar * beats_per_bar, (section.bar + section.bars) * beats_per_bar
    # A change within a bar comes on a whole beat: on the third of four, on the second of three.
    lengths = (
        (beats_per_bar - beats_per_bar // 2, beats_per_bar // 2)
        if rate == 0.5
        else (beats_per_bar * int(rate),)
    )
    chords: list[Chord] = []
    beat, number = start, 0
    while beat < end:
        root, intervals = progression[number % len(progression)]
        length = min(lengths[number % len(lengths)], end - beat)
        pitch_class = (key + root) % 12
        chords.append(Chord(float(beat), float(length), pitch_class, intervals, pitch_class))
        beat += length
        number += 1
    return tuple(chords)


def _drums(rng: np.random.Generator, frame: _Frame, grooves: Grooves | None) -> tuple[str, str, list[Note]]:
    """(who drums: "human" or "machine", which kits fit, the notes)."""
    style = frame.style
    human = grooves if grooves is not None and rng.random() < style.human else None
    beats = (
        human.suiting(frame.tempo, style.grooves.split(), fill=False, beats_per_bar=frame.beats_per_bar)
        if human is not None
        else []
    )
    notes: list[Note] = []
    playing = [rng.random() < _DRUMS_PRESENT[section.kind] for section in frame.sections]
    if not any(playing):
        playing[0] = True
    if human is not None and beats:
        # One performance for the verses and most other sections, perhaps another one for the choruses.
        home = beats[int(rng.integers(len(beats)))]
        loud = beats[int(rng.integers(len(beats)))] if rng.random() < 0.5 else home
        fills = human.suiting(frame.tempo, (home.style,), fill=True, beats_per_bar=frame.beats_per_bar)
        phrase = int(rng.choice([2, 4, 4, 8]))
        for section, plays in zip(frame.sections, playing, strict=True):
            if plays:
                notes += loop(
                    rng,
                    loud if section.kind == "chorus" else home,
                    fills,
                    start=section.bar * frame.beats_per_bar,
                    bars=section.bars,
                    phrase=phrase,
                )
        if notes:
            kit = "electronic" if rng.random() < 0.08 else "acoustic"
            return "human", kit, notes
    families = ("waltz",) if frame.beats_per_bar == 3 else style.machines.split()
    machines = machine.Machine(rng, str(rng.choice(families)))
    for section, plays in zip(frame.sections, playing, strict=True):
        if plays:
            notes += machines.bars(
                rng, section.kind, section.bar * frame.beats_per_bar, section.bars, frame.beats_per_bar
            )
    return "machine", "electronic" if rng.random() < style.electronic else "acoustic", notes


def _percussion(rng: np.random.Generator, frame: _Frame) -> list[Part]:
    if rng.random() >= frame.style.percussion:
        return []
    play = machine.percussion(rng, frame.beats_per_bar)
    notes = [
        note
        for section in frame.sections
        if rng.random() < _PRESENT[section.kind]
        for note in play(section.bar * frame.beats_per_bar, section.bars)
    ]
    return (
        [Part("percussion", "percussion", "percussion", "kit", tuple(_timed(rng, frame, notes)))]
        if notes
        else []
    )


def _bass(rng: np.random.Generator, frame: _Frame, kicks: Sequence[float]) -> Part:
    group_name = str(rng.choice(frame.style.bass_groups.split()))
    group = GROUPS[group_name]
    plays: dict[str, bassline.Play] = {}
    home = str(rng.choice(frame.style.bass.split()))
    notes: list[Note] = []
    for number, (section, chords) in enumerate(zip(frame.sections, frame.chords, strict=True)):
        if section.kind not in plays:
            name = home if rng.random() < 0.7 else str(rng.choice(frame.style.bass.split()))
            plays[section.kind] = bassline.STYLES[name](rng, group.low, group.high, frame.beats_per_bar)
        if rng.random() < _BASS_PRESENT[section.kind] or (number == len(frame.sections) - 1 and not notes):
            begin, end = chords[0].start, chords[-1].end
            notes += plays[section.kind](chords, [kick for kick in kicks if begin - 0.1 <= kick < end - 0.1])
    controls = expression(rng, notes, bends=float(rng.choice([0.0, 0.05, 0.25])), vibrato=0.05)
    return Part("bass", "bass", "bass", group_name, tuple(_timed(rng, frame, notes)), tuple(controls))


def _layers(rng: np.random.Generator, frame: _Frame, needs: Sequence[str]) -> list[Part]:
    layers = [layer for layer in frame.style.parts if rng.random() < layer.chance] or [frame.style.parts[0]]
    chosen = [(str(rng.choice(layer.groups)), str(rng.choice(layer.roles))) for layer in layers]
    if len(chosen) < 3 and rng.random() < 0.6:  # records seldom have so few parts
        layer = frame.style.parts[int(rng.integers(len(frame.style.parts)))]
        chosen.append((str(rng.choice(layer.groups)), str(rng.choice(layer.roles))))
        filling = ["pad", "strings", "organ", "piano.electric", "guitar.clean"]
        chosen.append((str(rng.choice(filling)), "sustain"))
    present = {GROUPS[group].label for group, _ in chosen}
    for label in needs:
        if label not in present:
            groups = [group for group in GROUPS if GROUPS[group].label == label]
            chosen.append((str(rng.choice(groups)), str(rng.choice(["block", "broken", "strum"]))))
    if rng.random() < 0.15:  # a second take of a part, as productions double guitars and synths
        chosen.append(chosen[int(rng.integers(len(chosen)))])
    parts: list[Part] = []
    for number, (group, role) in enumerate(chosen):
        part = _layer(rng, frame, f"{role}-{number + 1}", group, role, required=number == 0)
        if part is not None:
            parts.append(part)
    return parts


def _layer(
    rng: np.random.Generator,
    frame: _Frame,
    name: str,
    group_name: str,
    role: str,
    required: bool,
) -> Part | None:
    group = GROUPS[group_name]
    plays: dict[str, accompany.Play] = {}
    notes: list[Note] = []
    enters = 0 if required or rng.random() < 0.5 else int(rng.integers(0, max(1, len(frame.sections) // 2)))
    # A lead that plays throughout would be like a second singer: it mostly plays in between.
    busy = float(rng.uniform(0.4, 1.0)) if role == "lead" else 1.0
    here = {kind: rng.random() < chance * busy for kind, chance in _PRESENT.items()}
    if not any(here[section.kind] for section in frame.sections[enters:]):
        here[frame.sections[-1].kind] = True
    for number, (section, chords) in enumerate(zip(frame.sections, frame.chords, strict=True)):
        if section.kind not in plays:
            plays[section.kind] = _player(rng, frame, group, role)
        if number >= enters and here[section.kind]:
            notes += plays[section.kind](chords)
    if not notes:
        return None
    solo = role in ("lead", "riff")
    controls = expression(rng, notes, bends=0.2, vibrato=0.6) if solo and rng.random() < 0.6 else []
    return Part(name, group.label, role, group_name, tuple(_timed(rng, frame, notes)), tuple(controls))


def _player(rng: np.random.Generator, frame: _Frame, group, role: str) -> accompany.Play:
    if role not in ("lead", "riff"):
        return accompany.ROLES[role](rng, group.low, group.high, frame.beats_per_bar)
    scales = (
        ["major", "major pentatonic", "mixolydian"]
        if frame.mode == "major"
        else ["minor", "minor pentatonic", "dorian", "blues"]
    )
    density = float(rng.uniform(0.25, 0.6) if role == "lead" else rng.uniform(0.35, 0.9))
    return melody(
        rng,
        group.low,
        group.high,
        frame.beats_per_bar,
        tonic=frame.key,
        scale=str(rng.choice(scales)),
        density=density,
        span=int(rng.integers(9, 20)),
        bars=int(rng.choice([1, 2, 2, 4])),
        rest_share=0.3 if role == "lead" else 0.1,
    )


def _vocals(rng: np.random.Generator, style: str, frame: _Frame) -> Part:
    """A sung or rapped part: low in the verses, high and long in the choruses, with rests between phrases."""
    group_name = str(rng.choice(["voice.low", "voice.high"]))
    low, high = GROUPS[group_name].low, GROUPS[group_name].high
    rapped = rng.random() < {"hiphop": 0.6, "trap": 0.5, "pop": 0.05, "funk": 0.1}.get(style, 0.02)
    sung_chorus = rng.random() < 0.6
    lift = int(rng.integers(0, 7))
    scale = str(
        rng.choice(
            ["major", "major pentatonic"] if frame.mode == "major" else ["minor", "minor pentatonic", "dorian"]
        )
    )
    plays: dict[str, accompany.Play] = {}
    notes: list[Note] = []
    for section, chords in zip(frame.sections, frame.chords, strict=True):
        chorus = section.kind == "chorus"
        if section.kind not in plays:
            if rapped and not (chorus and sung_chorus):
                plays[section.kind] = rap(rng, low, high, frame.beats_per_bar, tonic=frame.key)
            else:
                bottom = low + (lift if chorus else 0)
                plays[section.kind] = melody(
                    rng,
                    bottom,
                    high if chorus else high - 5,
                    frame.beats_per_bar,
                    tonic=frame.key,
                    scale=scale,
                    density=float(rng.uniform(0.3, 0.55) if chorus else rng.uniform(0.35, 0.75)),
                    span=int(rng.integers(7, 14)),
                    bars=int(rng.choice([1, 2, 2, 4])),
                    rest_share=0.2,
                )
        if rng.random() < _SUNG[section.kind]:
            notes += plays[section.kind](chords)
    if not notes:
        notes = plays[frame.sections[-1].kind](frame.chords[-1])
    return Part("vocals", "vocals", "rap" if rapped else "sing", group_name, tuple(_timed(rng, frame, notes)))


def _timed(
    rng: np.random.Generator,
    frame: _Frame,
    notes: Sequence[Note],
    player: str = "loose",
) -> list[Note]:
    """The notes with swing and small deviations of time and velocity, never before beat 0.

    player: notes of a "human" stay as they were played, a "machine" stays on its grid, others follow the style.
    """
    if player == "human":
        return sorted(notes)
    loose = 0.0 if player == "machine" else frame.style.loose
    timing = 0.009 * loose * frame.tempo / 60  # beats: 9 ms
    moved = []
    for note in notes:
        start = _swung(note.start, frame.swing, frame.style.swung)
        start += float(rng.normal(0, timing)) if timing else 0.0
        velocity = note.velocity + rng.normal(0, 3 + 5 * loose)
        moved.append(Note(max(0.0, start), note.length, note.pitch, int(np.clip(round(velocity), 1, 127))))
    return sorted(moved)


def _swung(beat: float, swing: float, grid: float) -> float:
    """The second of each pair of `grid` steps comes late: by a third of a step for swing 1 (triplets)."""
    position = beat / grid % 2
    if swing and abs(position - 1) < 0.02:
        return beat + swing * grid / 3
    return beat
