"""Styles of music as tables: tempo, drums, bass, instruments, chord progressions. Data only.

They are broad on purpose: a network that is to separate real songs should have met their textures, not their
tunes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAJOR = (
    "I V vi IV",
    "I vi IV V",
    "I IV V IV",
    "vi IV I V",
    "I iii IV V",
    "IV I V vi",
    "I IV vi V",
    "I ii IV V",
    "I V ii IV",
    "I I IV V",
    "I bVII IV I",
    "I Vsus4 vi IVadd9",
)
MINOR = (
    "i bVI bIII bVII",
    "i bVII bVI bVII",
    "i iv bVI V",
    "i bIII bVII iv",
    "i i iv bVII",
    "i bVI iv V",
    "i v bVI bVII",
    "i bVII iv i",
    "i iv i V",
    "i bVI i bVII",
)
ROCK_MAJOR = ("I5 bVII5 IV5 I5", "I5 IV5 V5 IV5", "I V vi IV", "I5 I5 IV5 V5", "I bIII IV I", "vi IV I V")
ROCK_MINOR = (
    "i5 bVI5 bVII5 i5",
    "i5 bIII5 iv5 bVI5",
    "i5 i5 bVII5 bVI5",
    "i5 bII5 i5 bVII5",
    "i5 iv5 bIII5 bVII5",
)
BLUES = ("I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7", "I7 IV7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 I7")
BLUES_MINOR = ("i7 i7 i7 i7 iv7 iv7 i7 i7 bVI7 V7 i7 i7",)
JAZZ_MAJOR = (
    "ii7 V7 Imaj7 Imaj7",
    "Imaj7 vi7 ii7 V7",
    "iii7 VI7 ii7 V7",
    "Imaj9 IVmaj7 iii7 vi7",
    "Imaj7 bVII7 Imaj7 V7#9",
    "IVmaj7 iv7 iii7 bIII7",
)
JAZZ_MINOR = ("iim7b5 V7 i7 i7", "i7 iv7 iim7b5 V7", "i9 bVImaj7 iim7b5 V7", "i7 bVII7 bVImaj7 V7")
SOUL_MAJOR = (
    "Imaj7 IVmaj7 Imaj7 IVmaj7",
    "Imaj7 iii7 IVmaj7 V7sus4",
    "IVmaj9 iii7 ii7 Imaj7",
    "ii7 V7sus4 Imaj7 vi7",
)
SOUL_MINOR = ("i9 iv9 i9 iv9", "i7 bVImaj7 bVII6 i7", "iv9 v7 i9 i9", "i7 IV9 i7 IV9", "i7 i7 iv7 V7#9")
VAMP_MINOR = ("i i i i", "i i bVI bVI", "i bVII i bVII", "i7 i7 IV7 IV7", "i i bII i", "i i v bVI")
VAMP_MAJOR = ("I I IV IV", "I I I I", "Isus2 I Isus4 I", "IVadd9 IVadd9 I I", "I bVII I bVII")


@dataclass(frozen=True)
class Layer:
    """A part that songs of a style may have."""

    groups: tuple[str, ...]  # of instruments.GROUPS; one is drawn
    roles: tuple[str, ...]  # of accompany.ROLES, or "lead", "riff" (melodies); one is drawn
    chance: float  # of a song to have it, 0 to 1


@dataclass(frozen=True)
class Style:
    """A style of music.

    Lists of words are written as one string. A word that stands there twice is drawn twice as often.
    """

    tempo: tuple[float, float]  # quarter notes a minute
    weight: float  # how often the style is drawn
    major: tuple[str, ...]  # chord progressions, a chord for each bar
    minor: tuple[str, ...]
    minor_share: float
    grooves: str  # the drummers' styles that fit, in the words of the Groove MIDI Dataset's info.csv
    human: float  # the share of songs with a human drummer
    machines: str  # families of programmed drums (machine.FAMILIES)
    electronic: float  # the share of programmed drum parts that have an electronic kit
    bass: str  # bassline.STYLES
    bass_groups: str  # instruments.GROUPS
    layers: str  # a line for each: chance, groups, roles
    swing: tuple[float, ...] = (0.0,)  # how late an off-beat is: 0 straight, 1 triplets
    swung: float = 0.5  # beats: the grid that swings, eighths (0.5) or sixteenths (0.25)
    sevenths: float = 0.1  # the share of songs whose plain triads become sevenths or ninths
    loose: float = 1.0  # how human the timing is: 1 for players, 0 for machines
    waltz: float = 0.0  # the share of songs in 3/4
    percussion: float = 0.2  # the share of songs with hand drums, shakers, ...

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers."""
        parsed = []
        for line in filter(None, map(str.strip, self.layers.splitlines())):
            chance, _, rest = line.partition("% ")
            groups, _, roles = rest.partition(":")
            parsed.append(Layer(tuple(groups.split()), tuple(roles.split()), int(chance) / 100))
        return tuple(parsed)


STYLES: Mapping[str, Style] = {
    "rock": Style(
        tempo=(88, 150),
        weight=2.2,
        major=ROCK_MAJOR,
        minor=ROCK_MINOR,
        minor_share=0.5,
        grooves="rock punk pop",
        human=0.85,
        machines="rock",
        electronic=0.05,
        bass="roots locked roots riff",
        bass_groups="bass.electric",
        layers="""
             95% guitar.drive: chug chug strum
             60% guitar.drive: riff chug
             40% guitar.clean guitar.steel: strum broken
             30% organ piano.acoustic: sustain block
             50% guitar.drive: lead
        """,
    ),
    "metal": Style(
        tempo=(120, 190),
        weight=0.8,
        major=ROCK_MINOR,
        minor=ROCK_MINOR,
        minor_share=1.0,
        grooves="punk rock",
        human=0.7,
        machines="rock",
        electronic=0.0,
        bass="locked roots roots",
        bass_groups="bass.electric",
        layers="""
            100% guitar.drive: chug
             90% guitar.drive guitar.muted: chug riff
             50% guitar.drive: lead
             20% strings pad: sustain
        """,
        percussion=0.0,
    ),
    "pop": Style(
        tempo=(80, 130),
        weight=2.2,
        major=MAJOR,
        minor=MINOR,
        minor_share=0.4,
        grooves="pop rock soul",
        human=0.5,
        machines="pop house reggaeton",
        electronic=0.6,
        bass="roots locked octaves arpeggio sustained syncopated",
        bass_groups="bass.electric bass.synth bass.electric",
        layers="""
             70% guitar.steel guitar.nylon guitar.clean: strum strum broken
             50% piano.acoustic piano.electric: block broken block
             40% pad strings strings organ: sustain
             50% synth.pluck synth.chords: arpeggiator block stabs
             45% synth.lead guitar.drive reed flute strings.solo brass.solo guitar.clean mallets: lead
             30% guitar.clean guitar.muted: riff broken
        """,
        sevenths=0.2,
    ),
    "ballad": Style(
        tempo=(58, 84),
        weight=1.1,
        major=MAJOR,
        minor=MINOR,
        minor_share=0.4,
        grooves="pop rock soul",
        human=0.75,
        machines="pop",
        electronic=0.3,
        bass="roots sustained arpeggio locked",
        bass_groups="bass.electric bass.upright",
        layers="""
             80% piano.acoustic piano.electric: broken block
             50% guitar.nylon guitar.steel: broken strum
             70% strings pad: sustain
             50% strings.solo reed flute guitar.drive: lead
        """,
        sevenths=0.4,
        waltz=0.2,
        percussion=0.1,
    ),
    "punk": Style(
        tempo=(140, 200),
        weight=0.6,
        major=ROCK_MAJOR,
        minor=ROCK_MINOR,
        minor_share=0.4,
        grooves="punk rock",
        human=0.85,
        machines="rock",
        electronic=0.0,
        bass="roots roots locked",
        bass_groups="bass.electric",
        layers="""
            100% guitar.drive: chug strum
             70% guitar.drive: chug riff
             10% organ: sustain
        """,
        percussion=0.0,
    ),
    "funk": Style(
        tempo=(92, 124),
        weight=1.3,
        major=VAMP_MAJOR + SOUL_MAJOR,
        minor=VAMP_MINOR + SOUL_MINOR,
        minor_share=0.7,
        grooves="funk soul neworleans",
        human=0.85,
        machines="breakbeat",
        electronic=0.1,
        bass="syncopated syncopated riff octaves",
        bass_groups="bass.electric bass.slap bass.slap bass.synth",
        layers="""
             85% guitar.clean guitar.muted: scratch
             60% piano.clavinet piano.electric organ: block scratch stabs
             55% brass: stabs
             40% guitar.muted guitar.clean: riff
             30% reed synth.lead brass.solo: lead
        """,
        swing=(0.0, 0.2),
        swung=0.25,
        sevenths=0.7,
        percussion=0.4,
    ),
    "soul": Style(
        tempo=(66, 108),
        weight=1.2,
        major=SOUL_MAJOR,
        minor=SOUL_MINOR,
        minor_share=0.5,
        grooves="soul funk gospel pop",
        human=0.8,
        machines="boombap pop",
        electronic=0.4,
        bass="syncopated locked roots arpeggio",
        bass_groups="bass.electric bass.electric bass.synth",
        layers="""
             90% piano.electric organ piano.acoustic: block sustain
             60% guitar.clean: scratch broken offbeats
             40% strings pad: sustain
             30% brass: stabs sustain
             30% reed synth.lead mallets: lead
        """,
        swing=(0.0, 0.3),
        swung=0.25,
        sevenths=0.8,
    ),
    "hiphop": Style(
        tempo=(76, 104),
        weight=1.6,
        major=VAMP_MAJOR + SOUL_MAJOR,
        minor=VAMP_MINOR + SOUL_MINOR + MINOR,
        minor_share=0.75,
        grooves="hiphop funk soul",
        human=0.25,
        machines="boombap boombap breakbeat trap",
        electronic=0.6,
        bass="locked sustained syncopated riff",
        bass_groups="bass.synth bass.sub bass.electric bass.upright",
        layers="""
             80% piano.electric piano.acoustic guitar.nylon mallets: block broken riff
             50% strings strings.short pad: sustain stabs
             50% synth.lead flute brass plucked: riff stabs lead
        """,
        swing=(0.0, 0.25, 0.5),
        swung=0.25,
        sevenths=0.4,
        loose=0.5,
    ),
    "trap": Style(
        tempo=(126, 160),
        weight=1.2,
        major=VAMP_MINOR,
        minor=MINOR + VAMP_MINOR,
        minor_share=0.9,
        grooves="",
        human=0.0,
        machines="trap",
        electronic=1.0,
        bass="sustained locked",
        bass_groups="bass.sub bass.synth",
        layers="""
             95% synth.pluck mallets piano.acoustic plucked guitar.nylon: riff broken arpeggiator
             60% pad strings: sustain
             40% synth.lead flute: lead riff
        """,
        loose=0.05,
        percussion=0.1,
    ),
    "house": Style(
        tempo=(116, 130),
        weight=1.4,
        major=SOUL_MAJOR + MAJOR,
        minor=MINOR + SOUL_MINOR + VAMP_MINOR,
        minor_share=0.7,
        grooves="",
        human=0.0,
        machines="house",
        electronic=0.9,
        bass="offbeat octaves syncopated locked riff",
        bass_groups="bass.synth bass.synth bass.electric",
        layers="""
             85% piano.acoustic piano.electric organ synth.chords: offbeats stabs block
             60% pad strings: sustain
             60% synth.pluck: arpeggiator riff
             35% synth.lead brass: lead stabs
        """,
        swing=(0.0, 0.0, 0.2),
        swung=0.25,
        sevenths=0.5,
        loose=0.0,
        percussion=0.45,
    ),
    "techno": Style(
        tempo=(122, 142),
        weight=1.0,
        major=VAMP_MAJOR,
        minor=VAMP_MINOR + MINOR,
        minor_share=0.9,
        grooves="",
        human=0.0,
        machines="techno house",
        electronic=1.0,
        bass="offbeat offbeat riff sustained",
        bass_groups="bass.synth bass.sub",
        layers="""
             90% synth.pluck synth.lead: arpeggiator riff
             70% pad synth.chords: sustain stabs
             40% synth.chords: offbeats stabs
             30% synth.lead: lead
        """,
        loose=0.0,
        percussion=0.3,
    ),
    "drumnbass": Style(
        tempo=(164, 178),
        weight=0.8,
        major=VAMP_MAJOR + SOUL_MAJOR,
        minor=MINOR + VAMP_MINOR,
        minor_share=0.85,
        grooves="",
        human=0.0,
        machines="drumnbass breakbeat",
        electronic=0.6,
        bass="sustained riff syncopated locked",
        bass_groups="bass.synth bass.sub",
        layers="""
             80% pad strings: sustain
             70% synth.pluck piano.electric: arpeggiator stabs riff
             30% synth.lead flute: lead
        """,
        loose=0.0,
        percussion=0.25,
    ),
    "synthwave": Style(
        tempo=(84, 124),
        weight=1.0,
        major=MAJOR,
        minor=MINOR,
        minor_share=0.7,
        grooves="",
        human=0.0,
        machines="pop house",
        electronic=0.95,
        bass="octaves roots arpeggio",
        bass_groups="bass.synth",
        layers="""
             90% pad synth.chords: sustain
             80% synth.pluck: arpeggiator
             60% synth.lead guitar.drive: lead
             40% synth.chords piano.electric: block stabs
        """,
        loose=0.0,
        percussion=0.05,
    ),
    "disco": Style(
        tempo=(108, 126),
        weight=0.8,
        major=SOUL_MAJOR + MAJOR,
        minor=SOUL_MINOR + MINOR,
        minor_share=0.6,
        grooves="dance funk soul",
        human=0.35,
        machines="house pop",
        electronic=0.4,
        bass="octaves octaves syncopated walking",
        bass_groups="bass.electric bass.slap bass.synth",
        layers="""
             85% guitar.clean guitar.muted: scratch riff
             70% strings: stabs sustain riff
             60% piano.electric piano.acoustic piano.clavinet: block offbeats
             40% brass: stabs
             45% synth.lead guitar.drive reed flute strings.solo brass.solo guitar.clean mallets: lead
        """,
        sevenths=0.5,
        loose=0.5,
        percussion=0.4,
    ),
    "reggae": Style(
        tempo=(68, 92),
        weight=0.8,
        major=VAMP_MAJOR + MAJOR,
        minor=VAMP_MINOR + MINOR,
        minor_share=0.5,
        grooves="reggae",
        human=0.8,
        machines="pop",
        electronic=0.3,
        bass="riff syncopated locked arpeggio",
        bass_groups="bass.electric bass.electric bass.sub",
        layers="""
             95% guitar.clean guitar.muted: offbeats
             70% organ: offbeats sustain
             40% brass accordion: stabs riff
             30% reed brass.solo synth.lead: lead
        """,
        percussion=0.4,
    ),
    "latin": Style(
        tempo=(92, 128),
        weight=0.9,
        major=MAJOR + SOUL_MAJOR,
        minor=MINOR + JAZZ_MINOR,
        minor_share=0.6,
        grooves="latin afrocuban afrobeat highlife",
        human=0.6,
        machines="reggaeton pop",
        electronic=0.4,
        bass="two_feel syncopated arpeggio locked",
        bass_groups="bass.upright bass.electric",
        layers="""
             90% piano.acoustic guitar.nylon: block broken riff
             50% guitar.nylon guitar.steel: strum broken
             50% brass: stabs
             50% flute brass.solo mallets accordion: lead
        """,
        sevenths=0.4,
        percussion=0.9,
    ),
    "jazz": Style(
        tempo=(96, 180),
        weight=0.7,
        major=JAZZ_MAJOR,
        minor=JAZZ_MINOR,
        minor_share=0.4,
        grooves="jazz",
        human=0.9,
        machines="boombap",
        electronic=0.0,
        bass="walking walking two_feel",
        bass_groups="bass.upright bass.upright bass.electric",
        layers="""
             95% piano.acoustic piano.electric guitar.clean: block stabs
             40% guitar.clean mallets: block broken
             80% reed brass.solo flute: lead
             25% brass: stabs sustain
        """,
        swing=(0.6, 0.9, 1.0),
        sevenths=1.0,
        waltz=0.12,
        percussion=0.05,
    ),
    "blues": Style(
        tempo=(64, 132),
        weight=0.7,
        major=BLUES,
        minor=BLUES_MINOR,
        minor_share=0.25,
        grooves="blues rock soul jazz",
        human=0.85,
        machines="rock",
        electronic=0.0,
        bass="walking roots riff",
        bass_groups="bass.electric bass.upright",
        layers="""
             80% guitar.clean guitar.drive guitar.steel: strum chug offbeats
             60% piano.acoustic organ: block sustain
             80% guitar.drive guitar.clean reed accordion: lead
        """,
        swing=(0.0, 0.8, 1.0),
        percussion=0.05,
    ),
    "country": Style(
        tempo=(84, 140),
        weight=0.8,
        major=MAJOR,
        minor=MINOR,
        minor_share=0.2,
        grooves="country rock pop",
        human=0.85,
        machines="rock",
        electronic=0.0,
        bass="two_feel roots walking",
        bass_groups="bass.electric bass.upright",
        layers="""
             95% guitar.steel: strum
             60% guitar.clean plucked: broken riff
             35% piano.acoustic organ: block sustain
             50% strings.solo guitar.clean accordion: lead
        """,
        swing=(0.0, 0.0, 0.5),
        waltz=0.12,
    ),
    "folk": Style(
        tempo=(76, 132),
        weight=0.8,
        major=MAJOR,
        minor=MINOR,
        minor_share=0.35,
        grooves="country pop rock",
        human=0.5,
        machines="pop",
        electronic=0.0,
        bass="roots two_feel arpeggio",
        bass_groups="bass.upright bass.electric",
        layers="""
            100% guitar.steel guitar.nylon: strum broken
             60% guitar.nylon plucked piano.acoustic: broken riff
             40% strings accordion: sustain
             60% flute strings.solo accordion mallets: lead
        """,
        waltz=0.25,
        percussion=0.5,
    ),
}
