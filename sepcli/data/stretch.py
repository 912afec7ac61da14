"""Another tempo at the same pitch: the sound is cut into pieces, each put where it continues the last.

Knows one sound; nothing of batches. The method is WSOLA (W. Verhelst and M. Roelands, "An overlap-add technique
based on waveform similarity", ICASSP 1993) with pieces that overlap only at their ends, as in SoundTouch, which
the recipe of HT Demucs used.

    sound     ....|--- piece 0 ---|~~~~|......|--- piece 1 ---|~~~~|....      ~ what would have come next
                                       <- reach ->                            piece 1 begins where the sound is
    result        |--- piece 0 ---|--- piece 1 ---|                           most like ~, which it fades into

A phase vocoder (torchaudio's) was tried: it takes ten times as long and loses 3 dB of real music, because its
bins drift out of phase.
"""

from __future__ import annotations

import numpy as np

PIECE, FADE, REACH = 0.060, 0.015, 0.0125  # seconds; +-REACH covers a period of the lowest bass, 40 Hz


def stretch(sound: np.ndarray, tempo: float, samplerate: int) -> np.ndarray:
    """[C, T] float32 -> [C, T / tempo]: `tempo` times as fast. All channels are cut at the same times.

    samplerate: Hz. Beyond the end of the sound there is silence.
    """
    if tempo == 1:
        return sound
    piece, fade, reach = (max(1, round(seconds * samplerate)) for seconds in (PIECE, FADE, REACH))
    length = round(sound.shape[1] / tempo)
    count = -(-length // piece)
    needed = round((count - 1) * piece * tempo) + 2 * reach + piece + fade
    padded = np.pad(sound, ((0, 0), (reach, max(0, needed - sound.shape[1]))))
    mono = padded.mean(axis=0)
    energy = np.concatenate([[0.0], np.cumsum(mono.astype(np.float64) ** 2)])
    size = 1 << (fade + 2 * reach).bit_length()  # of the transforms: no wrap-around within the reach
    rise = np.linspace(0, 1, fade + 2, dtype=np.float32)[1:-1]
    out = np.zeros((sound.shape[0], count * piece + fade), np.float32)
    begin = reach  # of the piece, in `padded`
    for number in range(count):
        at = number * piece
        if number:
            next_ = mono[begin + piece : begin + piece + fade]
            first = round(at * tempo)  # of the places that the piece may begin at
            places = mono[first : first + 2 * reach + fade]
            likeness = np.fft.irfft(np.fft.rfft(places, size) * np.fft.rfft(next_, size).conj(), size)
            likeness = likeness[: 2 * reach + 1]
            loud = energy[first + fade : first + fade + 2 * reach + 1] - energy[first : first + 2 * reach + 1]
            begin = first + int(np.argmax(likeness / np.sqrt(loud + 1e-9)))
            out[:, at : at + fade] *= rise[::-1]
            out[:, at : at + fade] += rise * padded[:, begin : begin + fade]
            out[:, at + fade : at + piece + fade] = padded[:, begin + fade : begin + piece + fade]
        else:
            out[:, : piece + fade] = padded[:, begin : begin + piece + fade]
    return out[:, :length]
