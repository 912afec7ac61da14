"""Studio effects in numpy: EQ, reverb, drive, compression, echo, width, ducking, limiting.

Knows no notes and no files. Audio is float32 [C, T]; effects return audio of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Audio = np.ndarray  # float32 [C, T]
BLOCK_SECONDS = 0.004  # the time step of level detectors


def db(value: float) -> float:
    """Decibels -> amplitude factor."""
    return 10 ** (value / 20)


def active_rms(audio: Audio, samplerate: int) -> float:
    """The RMS over all tenths of a second that are within 40 dB of the loudest; 0 for silence."""
    block = samplerate // 10
    count = audio.shape[-1] // block
    if count == 0:
        return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0
    squares = np.square(audio[:, : count * block]).reshape(audio.shape[0], count, block)
    power = squares.mean(axis=(0, 2), dtype=np.float64)
    loud = power[power > power.max() * 1e-4]
    return float(np.sqrt(loud.mean())) if loud.size else 0.0


def at_level(audio: Audio, level: float, samplerate: int) -> Audio:
    """The audio, scaled to an active RMS of `level` dBFS. Silence stays silent."""
    rms = active_rms(audio, samplerate)
    return audio * np.float32(db(level) / rms) if rms > 1e-7 else audio


def fast_length(samples: int) -> int:
    """The next length with no prime factors but 2, 3 and 5: its FFT is fast."""
    best = 1 << (samples - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            length = three
            while length < samples:
                length *= 2
            best = min(best, length)
            three *= 3
        five *= 5
    return best


def colour(
    audio: Audio, samplerate: int, gain: Callable[[np.ndarray], np.ndarray] | None, impulse: Audio | None = None
) -> Audio:
    """A zero-phase EQ and a convolution, in one FFT of the whole audio.

    gain: frequencies in Hz [F] -> dB [F]. impulse: [C, L]; what it makes is added to the dry sound.
    """
    samples = audio.shape[-1]
    tail = 0 if impulse is None else impulse.shape[-1]
    length = fast_length(samples + max(tail, samplerate // 10))
    response = np.ones(length // 2 + 1, dtype=np.float32)
    if gain is not None:
        response = (10 ** (gain(np.fft.rfftfreq(length, 1 / samplerate)) / 20)).astype(np.float32)
    out = np.empty_like(audio)
    for channel in range(audio.shape[0]):
        spectrum = np.fft.rfft(audio[channel], length)
        if impulse is None:
            spectrum *= response
        else:
            spectrum *= response * (1 + np.fft.rfft(impulse[channel], length))
        out[channel] = np.fft.irfft(spectrum, length)[:samples]
    return out


def eq(
    *,
    tilt: float = 0.0,
    low_cut: float = 0.0,
    high_cut: float = 0.0,
    bells: Sequence[tuple[float, float, float]] = (),
) -> Callable[[np.ndarray], np.ndarray]:
    """The dB curve of an equaliser.

    tilt: dB per octave around 1 kHz. low_cut, high_cut: Hz, with 12 dB per octave; 0 for none.
    bells: (Hz, dB, width in octaves).
    """

    def gain(hertz: np.ndarray) -> np.ndarray:
        frequency = np.maximum(hertz, 10.0).astype(np.float32)
        octaves = np.log2(frequency / 1000)
        curve = tilt * np.clip(octaves, -5, 4)
        for centre, height, width in bells:
            curve = curve + height * np.exp(-0.5 * ((octaves - np.log2(centre / 1000)) / width) ** 2)
        if low_cut:
            curve = curve - 10 * np.log10(1 + (low_cut / frequency) ** 4)
        if high_cut:
            curve = curve - 10 * np.log10(1 + (frequency / high_cut) ** 4)
        return curve

    return gain


OCTAVES = 62.5 * 2.0 ** np.arange(9)  # Hz, the centres of bands from 44 Hz to 22.6 kHz


def octave_levels(audio: Audio, samplerate: int) -> np.ndarray:
    """The power in each band of OCTAVES relative to the whole, dB [9]; -120 for none."""
    frame = 4096
    mono = audio.mean(axis=0)
    count = mono.shape[-1] // frame
    if count == 0:
        return np.full(len(OCTAVES), -120.0)
    # About 200 frames, spread over the song.
    frames = mono[: count * frame].reshape(count, frame)[:: max(1, count // 200)]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(frame).astype(np.float32), axis=-1))).sum(axis=0)
    hertz = np.fft.rfftfreq(frame, 1 / samplerate)
    edge = 2**0.5
    bands = np.array([power[(hertz >= centre / edge) & (hertz < centre * edge)].sum() for centre in OCTAVES])
    return 10 * np.log10(np.maximum(bands / max(power.sum(), 1e-20), 1e-12))


def slope_bells(levels: np.ndarray, slope: float, share: float) -> list[tuple[float, float, float]]:
    """Bells for `eq` that bring the bands above 1 kHz towards a straight line.

    levels: from octave_levels. slope: of the line in dB per octave, from the strongest band between 250 Hz and
    1 kHz on. share: how far towards the line, 0 to 1; at most 14 dB up and 10 dB down.
    """
    reference = float(levels[2:5].max())
    return [
        (float(centre), float(np.clip(share * (reference + slope * (number + 1) - level), -10, 14)), 0.5)
        for number, (centre, level) in enumerate(zip(OCTAVES[5:], levels[5:], strict=True))
        if level > -70
    ]


def room(
    rng: np.random.Generator,
    samplerate: int,
    channels: int,
    *,
    seconds: float,
    wet: float,
    predelay: float = 0.01,
    dark: float = 3000.0,
) -> Audio:
    """The impulse response [C, L] of a room: decaying noise.

    seconds: until it reaches -60 dB. wet: its energy relative to the dry sound, dB. predelay: seconds. dark:
    Hz, above which it is cut.
    """
    samples = int(samplerate * (predelay + seconds))
    times = np.arange(samples) / samplerate - predelay
    noise = rng.standard_normal((channels, samples)).astype(np.float32)
    noise *= np.where(times >= 0, 10 ** (-3 * np.maximum(times, 0) / seconds), 0).astype(np.float32)
    noise = colour(noise, samplerate, eq(low_cut=180.0, high_cut=dark))
    return noise * np.float32(db(wet) / max(1e-9, float(np.sqrt(np.sum(noise[0] ** 2)))))


def drive(audio: Audio, samplerate: int, amount: float, *, bias: float = 0.0, mix: float = 1.0) -> Audio:
    """Saturation by tanh. amount: gain before it, dB over the active RMS. bias: adds even harmonics."""
    rms = active_rms(audio, samplerate)
    if rms < 1e-7:
        return audio
    pushed = np.tanh(audio * np.float32(db(amount) / rms * 0.3) + np.float32(bias)) - np.float32(np.tanh(bias))
    pushed *= np.float32(rms / max(1e-9, active_rms(pushed, samplerate)))
    return pushed * np.float32(mix) + audio * np.float32(1 - mix)


def block_levels(audio: Audio, block: int) -> np.ndarray:
    """The peaks [N] over channels in blocks of `block` samples; the last block may be shorter."""
    padded = np.pad(np.abs(audio).max(axis=0), (0, -audio.shape[-1] % block))
    return padded.reshape(-1, block).max(axis=1)


def _apply_gain(audio: Audio, gains: np.ndarray, block: int) -> Audio:
    """The audio with gains [N] that hold at the middles of blocks and change linearly in between."""
    middles = (np.arange(len(gains)) + 0.5) * block
    curve = np.interp(np.arange(audio.shape[-1]), middles, gains).astype(np.float32)
    return audio * curve


def compress(
    audio: Audio,
    samplerate: int,
    *,
    threshold: float,
    ratio: float,
    attack: float,
    release: float,
) -> Audio:
    """A feed-forward compressor. threshold: dB above the active RMS. attack, release: seconds."""
    rms = active_rms(audio, samplerate)
    if rms < 1e-7:
        return audio
    block = int(samplerate * BLOCK_SECONDS)
    level = 20 * np.log10(np.maximum(block_levels(audio, block), 1e-7) / rms)
    wanted = np.minimum(0.0, (threshold - level) * (1 - 1 / ratio))
    rise, fall = np.exp(-BLOCK_SECONDS / attack), np.exp(-BLOCK_SECONDS / release)
    now, smoothed = 0.0, []
    for target in wanted.tolist():
        keep = rise if target < now else fall
        now = keep * now + (1 - keep) * target
        smoothed.append(now)
    return _apply_gain(audio, 10 ** (np.array(smoothed) / 20), block)


def limit_gain(audio: Audio, samplerate: int, ceiling: float) -> tuple[np.ndarray, int]:
    """(gains [N], block) that keep the peaks of `audio` under `ceiling`; for all its stems, too."""
    block = int(samplerate * 0.0015)
    needed = np.minimum(1.0, ceiling / np.maximum(block_levels(audio, block), 1e-9))
    reach = 12  # blocks to each side, 18 ms: fast enough for drums, too slow to distort a bass
    # The minimum is over one block more than the mean, as gains are interpolated between blocks: so no peak
    # gets through.
    lowest = sliding_window_view(np.pad(needed, 2 * reach + 1, mode="edge"), 2 * reach + 3).min(axis=1)
    smooth = sliding_window_view(lowest, 2 * reach + 1).mean(axis=1)
    return smooth, block


def limit(audio: Audio, samplerate: int, ceiling: float) -> Audio:
    """The audio, limited so that no peak exceeds `ceiling`."""
    return _apply_gain(audio, *limit_gain(audio, samplerate, ceiling))


def limit_together(stems: Sequence[Audio], samplerate: int, ceiling: float) -> list[Audio]:
    """The stems, limited by one gain from the peaks of their sum: afterwards they still add up to the mix."""
    gains, block = limit_gain(np.asarray(np.sum(stems, axis=0, dtype=np.float32)), samplerate, ceiling)
    return [_apply_gain(stem, gains, block) for stem in stems]


def echo(audio: Audio, samplerate: int, *, seconds: float, feedback: float, wet: float) -> Audio:
    """Echoes that alternate between the channels. wet: the amplitude of the first one."""
    out = audio.copy()
    shift = int(seconds * samplerate)
    repeat = audio
    for number in range(1, 6):
        if number * shift >= audio.shape[-1] or wet * feedback ** (number - 1) < 0.01:
            break
        repeat = repeat[::-1]  # ping-pong
        out[:, number * shift :] += repeat[:, : -number * shift] * np.float32(wet * feedback ** (number - 1))
    return out


def widen(audio: Audio, width: float) -> Audio:
    """Change the stereo width: 0 mono, 1 unchanged, more for wider. Mono stays as it is."""
    if audio.shape[0] != 2:
        return audio
    middle, side = (audio[0] + audio[1]) / 2, (audio[0] - audio[1]) / 2 * np.float32(width)
    return np.stack([middle + side, middle - side])


def pan(audio: Audio, position: float) -> Audio:
    """Move stereo audio to a side at constant power. position: -1 left to 1 right."""
    if audio.shape[0] != 2:
        return audio
    angle = (position + 1) * np.pi / 4
    return audio * np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32) * np.float32(np.sqrt(2))


def tremolo(audio: Audio, samplerate: int, *, hertz: float, depth: float, stereo: bool) -> Audio:
    """A level that goes up and down. depth: 0 to 1. stereo: the channels move against each other."""
    times = np.arange(audio.shape[-1], dtype=np.float32) / samplerate
    phases = np.arange(audio.shape[0])[:, None] * (np.pi if stereo else 0)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * hertz * times[None] + phases)
    return (audio * (1 - depth * wave)).astype(np.float32)


def sweep(audio: Audio, samplerate: int, *, seconds: float, phase: float, dark: float) -> Audio:
    """A low-pass that slowly opens and closes: a crossfade with the darkened sound. dark: its cutoff, Hz."""
    times = np.arange(audio.shape[-1], dtype=np.float32) / samplerate
    amount = (0.5 + 0.5 * np.sin(2 * np.pi * (times / seconds + phase))).astype(np.float32)
    return audio * (1 - amount) + colour(audio, samplerate, eq(high_cut=dark)) * amount


def duck(audio: Audio, samplerate: int, times: Sequence[float], *, depth: float, recovery: float) -> Audio:
    """The audio, lowered at each of `times` (s), as by a side chain from the kick. depth: dB. recovery: s."""
    block = int(samplerate * BLOCK_SECONDS)
    gains = np.ones(-(-audio.shape[-1] // block))
    length = int(recovery / BLOCK_SECONDS)
    shape = 10 ** (-depth * (1 - np.linspace(0, 1, max(2, length))) / 20)
    for time in times:
        first = int(time / BLOCK_SECONDS)
        if 0 <= first < len(gains):
            part = gains[first : first + len(shape)]
            np.minimum(part, shape[: len(part)], out=part)
    return _apply_gain(audio, gains, block)
