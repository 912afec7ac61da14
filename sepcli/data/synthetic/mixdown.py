"""Makes stems that sound like a production from rendered parts: processing by label, levels, mastering.

Knows audio [C, T] and labels; no notes, no files. All that is random comes from the generator that is passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sepcli.data.synthetic import effects
from sepcli.data.synthetic.effects import Audio

# Active RMS of the stems before mastering, dBFS: (centre, spread), close to the levels of released songs.
LEVELS: Mapping[str, tuple[float, float]] = {
    "drums": (-15.0, 2.5),
    "bass": (-18.0, 2.5),
    "vocals": (-18.5, 3.0),
}
OTHER_LEVEL = (-18.0, 3.0)
# How loud parts are relative to each other in their stem, dB.
_IN_STEM: Mapping[str, tuple[float, float]] = {
    "percussion": (-11.0, 3.0),
    "pad": (-5.0, 3.0),
    "strings": (-3.0, 3.0),
    "lead": (0.0, 3.0),
    "organ": (-2.0, 3.0),
}
PEAK = 0.97  # of full scale: no stem and no mix is higher


def _chance(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def process_part(
    rng: np.random.Generator,
    audio: Audio,
    samplerate: int,
    *,
    label: str,
    group: str,
    role: str,
    beat_seconds: float,
    machine: bool,
) -> Audio:
    """Process a part [C, T] as a studio would.

    beat_seconds: of a quarter note, for echoes in time. machine: the part is programmed, not played live.
    """
    uniform = rng.uniform
    if group == "guitar.drive" or (label in ("guitar", "piano", "organ") and _chance(rng, 0.12)):
        audio = effects.colour(audio, samplerate, effects.eq(low_cut=float(uniform(60, 160))))
        amount = float(uniform(8, 34) if group == "guitar.drive" else uniform(3, 14))
        audio = effects.drive(audio, samplerate, amount, bias=float(uniform(0, 0.2)))
        audio = effects.colour(
            audio,
            samplerate,
            effects.eq(  # a loudspeaker in its cabinet
                low_cut=float(uniform(70, 110)),
                high_cut=float(uniform(3500, 6500)),
                bells=[
                    (float(uniform(2000, 3800)), float(uniform(0, 7)), 0.5),
                    (float(uniform(350, 700)), float(uniform(-6, 1)), 0.6),
                ],
            ),
        )
    elif label == "bass" and _chance(rng, 0.5):
        audio = effects.drive(
            audio, samplerate, float(uniform(0, 18)), bias=float(uniform(0, 0.3)), mix=float(uniform(0.3, 1))
        )
    elif label in ("synth", "lead", "pad") and _chance(rng, 0.35):
        audio = effects.drive(audio, samplerate, float(uniform(0, 16)), mix=float(uniform(0.4, 1)))
    elif label == "drums" and _chance(rng, 0.4):
        audio = effects.drive(audio, samplerate, float(uniform(-4, 8)), mix=float(uniform(0.2, 0.8)))

    if label in ("synth", "pad", "lead") and machine and _chance(rng, 0.35):
        audio = effects.sweep(
            audio,
            samplerate,
            seconds=float(uniform(4, 40)),
            phase=float(uniform(0, 1)),
            dark=float(uniform(300, 2000)),
        )
    if label in ("piano", "organ", "guitar", "pad") and _chance(rng, 0.12):
        audio = effects.tremolo(
            audio,
            samplerate,
            hertz=float(uniform(2, 8)),
            depth=float(uniform(0.2, 0.8)),
            stereo=_chance(rng, 0.5),
        )
    bells = [
        (float(120 * 75 ** uniform(0, 1)), float(rng.normal(0, 3.5)), float(uniform(0.3, 1.2)))  # to 9 kHz
        for _ in range(3)
    ]
    if label == "bass":
        dark = uniform(120, 700) if group == "bass.sub" else rng.choice([0, 0, uniform(1500, 9000)])
        curve = effects.eq(
            tilt=float(uniform(-1.5, 2.0)), bells=bells, low_cut=float(uniform(15, 38)), high_cut=float(dark)
        )
    elif label in ("drums", "percussion"):
        bells.append((float(uniform(50, 90)), float(rng.normal(2, 3)), 0.5))  # the weight of the kick
        curve = effects.eq(
            tilt=float(rng.normal(0.3, 1.0)),
            bells=bells,
            high_cut=float(uniform(5000, 12000)) if _chance(rng, 0.12) else 0.0,
        )
    else:
        # Sampled instruments are duller than produced ones: brings them towards the slope of a mix.
        bells += effects.slope_bells(
            effects.octave_levels(audio, samplerate), float(uniform(-7, -2.5)), float(uniform(0.3, 1.0))
        )
        curve = effects.eq(
            tilt=float(rng.normal(0, 0.8)),
            bells=bells,
            low_cut=float(uniform(30, 180)),
            high_cut=float(uniform(2500, 9000)) if _chance(rng, 0.2) else 0.0,
        )
    wet_share = {"bass": 0.1, "drums": 0.5, "percussion": 0.5}.get(label, 0.6)
    impulse = None
    if _chance(rng, wet_share):
        small = label in ("bass", "drums", "percussion") and _chance(rng, 0.75)
        impulse = effects.room(
            rng,
            samplerate,
            audio.shape[0],
            predelay=float(uniform(0, 0.03)),
            seconds=float(uniform(0.2, 0.9) if small else uniform(0.6, 3.2)),
            wet=float(uniform(-24, -9) if small else uniform(-22, -6)),
            dark=float(uniform(2000, 9000)),
        )
    audio = effects.colour(audio, samplerate, curve, impulse)
    echoes = 0.35 if role in ("lead", "riff") else 0.15
    if label not in ("bass", "drums", "percussion") and _chance(rng, echoes):
        beats = float(rng.choice([0.5, 0.75, 1.0, 0.25]))
        audio = effects.echo(
            audio,
            samplerate,
            seconds=beat_seconds * beats,
            feedback=float(uniform(0.1, 0.6)),
            wet=float(uniform(0.1, 0.45)),
        )
    if _chance(rng, 0.85 if label in ("bass", "drums") else 0.35):
        audio = effects.compress(
            audio,
            samplerate,
            threshold=float(uniform(-4, 6)),
            ratio=float(uniform(1.5, 6)),
            attack=float(uniform(0.004, 0.04)),
            release=float(uniform(0.05, 0.3)),
        )
    width = {
        "bass": float(rng.choice([0.0, 0.0, 0.3, 1.0])),
        "drums": float(uniform(0.3, 1.4)),
        "percussion": float(uniform(0.3, 1.4)),
    }.get(label, float(uniform(0.2, 1.8)))
    return effects.widen(audio, width)


def process_vocals(
    rng: np.random.Generator,
    takes: Sequence[tuple[Audio, float, float]],
    samplerate: int,
    channels: int,
    *,
    beat_seconds: float,
) -> Audio:
    """Mix the takes of a singer, each (mono [1, T], position -1 to 1, dB), to a stem [C, T]."""
    uniform = rng.uniform
    total = np.zeros((channels, takes[0][0].shape[-1]), dtype=np.float32)
    bells = [
        (float(200 * 40 ** uniform(0, 1)), float(rng.normal(0, 3)), float(uniform(0.3, 1.0))) for _ in range(3)
    ]
    curve = effects.eq(
        tilt=float(rng.normal(0, 0.7)),
        bells=bells,
        low_cut=float(uniform(60, 160)),
        high_cut=float(uniform(4000, 9000)) if _chance(rng, 0.1) else 0.0,
    )
    telephone = _chance(rng, 0.05)
    amount = float(uniform(10, 24)) if telephone else float(uniform(-4, 12)) if _chance(rng, 0.3) else None
    squash = dict(
        threshold=float(uniform(-8, 2)),
        ratio=float(uniform(2, 6)),
        attack=float(uniform(0.003, 0.02)),
        release=float(uniform(0.05, 0.25)),
    )
    for take, position, level in takes:
        take = effects.colour(take, samplerate, effects.eq(low_cut=400, high_cut=3200) if telephone else curve)
        if amount is not None:
            take = effects.drive(take, samplerate, amount, bias=0.1)
        take = effects.compress(effects.at_level(take, -20, samplerate), samplerate, **squash)
        total += effects.pan(np.repeat(take, channels, axis=0), position) * np.float32(effects.db(level))
    if _chance(rng, 0.4):
        beats = float(rng.choice([0.25, 0.5, 0.75, 1.0]))
        total = effects.echo(
            total,
            samplerate,
            seconds=beat_seconds * beats,
            feedback=float(uniform(0.1, 0.5)),
            wet=float(uniform(0.08, 0.35)),
        )
    if _chance(rng, 0.85):
        impulse = effects.room(
            rng,
            samplerate,
            channels,
            predelay=float(uniform(0.005, 0.06)),
            seconds=float(uniform(0.4, 3.0)),
            wet=float(uniform(-24, -7)),
            dark=float(uniform(2500, 9000)),
        )
        total = effects.colour(total, samplerate, None, impulse)
    return total


def part_level(rng: np.random.Generator, label: str) -> float:
    """Draw the level of a part relative to the other parts of its stem, dB."""
    centre, spread = _IN_STEM.get(label, (-1.0, 3.0))
    return float(rng.normal(centre, spread))


def duck_parts(
    rng: np.random.Generator,
    parts: Sequence[Audio],
    labels: Sequence[str],
    kicks: Sequence[float],
    samplerate: int,
) -> list[Audio]:
    """Side chain: lower all parts but the drums at each kick (seconds)."""
    depth, recovery = float(rng.uniform(3, 14)), float(rng.uniform(0.12, 0.35))
    return [
        audio
        if label in ("drums", "percussion") or not _chance(rng, 0.8)
        else effects.duck(audio, samplerate, kicks, depth=depth, recovery=recovery)
        for audio, label in zip(parts, labels, strict=True)
    ]


def finish(rng: np.random.Generator, stems: Mapping[str, Audio], samplerate: int) -> dict[str, Audio]:
    """Set the levels of the stems, then master them together. Nothing clips, neither a stem nor their sum."""
    done: dict[str, Audio] = {}
    for name, audio in stems.items():
        if name != "bass" and _chance(rng, 0.3):  # bus compression
            audio = effects.compress(
                audio,
                samplerate,
                threshold=float(rng.uniform(-2, 5)),
                ratio=float(rng.uniform(1.3, 3)),
                attack=0.02,
                release=0.15,
            )
        centre, spread = LEVELS.get(name, OTHER_LEVEL)
        audio = effects.at_level(
            audio, float(np.clip(rng.normal(centre, spread), centre - 6, centre + 5)), samplerate
        )
        done[name] = effects.limit(audio, samplerate, 0.9)
    if _chance(rng, 0.5):  # mastered loud
        louder = np.float32(effects.db(float(rng.uniform(0, 5))))
        names = list(done)
        mastered = effects.limit_together([done[name] * louder for name in names], samplerate, 0.95)
        done = dict(zip(names, mastered, strict=True))
    # A stem may have higher peaks than the sum, so both limit the common gain.
    mix = np.sum(list(done.values()), axis=0, dtype=np.float32)
    peak = max(float(np.abs(audio).max(initial=0)) for audio in (mix, *done.values()))
    if peak > PEAK:
        done = {name: audio * np.float32(PEAK / peak) for name, audio in done.items()}
    return done
