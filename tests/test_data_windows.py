"""Windows: what one would cut from the whole file after converting all of it."""

import numpy as np
import pytest
import soundfile
import soxr

from sepcli.data.windows import QUALITY, read_window
from sepcli.errors import InputError
from tests.sounds import music
from tests.stems import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("windows")


STARTS = [0.0, 0.5, 1.2345, 2.9, -0.3, 3.5, -9.0, 9.0]


@pytest.mark.parametrize(
    "rate, wanted",
    [(44100, 44100), (48000, 44100), (22050, 44100), (44100, 16000), (8000, 48000), (11025, 8000)],
)
def test_a_window_is_cut_from_the_whole_converted_file(folder, rate, wanted):
    whole = music(3 * rate, 2, rate)
    path = write(folder / f"{rate}-{wanted}.wav", whole, rate)
    around = np.pad(whole, ((0, 0), (10 * rate, 10 * rate)))  # the silence before and after a file
    padded = soxr.resample(around.T, rate, wanted, quality=QUALITY).T
    samples = wanted // 2
    for start in STARTS:
        window = read_window(path, start, samples, wanted, 2)
        assert window.dtype == np.float32 and window.shape == (2, samples) and window.flags.c_contiguous
        begin = round(start * wanted) + 10 * wanted
        np.testing.assert_allclose(window, padded[:, begin : begin + samples], atol=3e-6, err_msg=str(start))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_the_order_of_reading_does_not_matter(folder, suffix):
    rate = 48000
    path = write(folder / f"order{suffix}", music(4 * rate, 2, rate), rate)
    starts = [2.0, 0.5, 0.75, 1.01, 1.3, 0.1, 3.0, 2.5]
    first = {start: read_window(path, start, rate // 4, rate, 2) for start in starts}
    for start in reversed(starts):
        np.testing.assert_array_equal(read_window(path, start, rate // 4, rate, 2), first[start])


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus", ".mp3"])
def test_every_format_stands_at_the_right_time(folder, suffix):
    rate = 48000
    whole = music(4 * rate, 2, rate, noise=0)
    path = write(folder / f"time{suffix}", whole, rate)
    window = read_window(path, 1.5, rate, rate, 2)
    error = window - whole[:, 3 * rate // 2 :][:, :rate]
    assert (error**2).mean() < 0.01 * (whole**2).mean()


def test_channels(folder):
    rate = 8000
    stereo = music(rate, 2, rate)
    mono, six = music(rate, 1, rate, seed=1), music(rate, 6, rate, seed=2)
    paths = [write(folder / f"{len(x)}ch.wav", x, rate) for x in (mono, stereo, six)]

    def window(path, channels):
        return read_window(path, 0.25, 1000, rate, channels)

    part = slice(2000, 3000)
    np.testing.assert_array_equal(window(paths[0], 2), np.repeat(mono[:, part], 2, axis=0))
    np.testing.assert_allclose(window(paths[1], 1), stereo[:, part].mean(0, keepdims=True), atol=1e-7)
    np.testing.assert_array_equal(window(paths[2], 2), six[:2, part])
    np.testing.assert_allclose(window(paths[2], 1), six[:2, part].mean(0, keepdims=True), atol=1e-7)
    converted = read_window(paths[0], 0.25, 4000, 32000, 2)
    assert converted.shape == (2, 4000) and (converted[0] == converted[1]).all()


def test_what_is_broken_is_named(folder):
    rate = 8000
    (folder / "text.wav").write_text("not audio")
    nan = write(folder / "nan.wav", np.full((1, rate), np.nan), rate)
    whole = write(folder / "whole.flac", music(4 * rate, 2, rate), rate)
    cut = folder / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, start in [(folder / "text.wav", 0), (nan, 0), (cut, 3), (folder / "absent.wav", 0), (folder, 0)]:
        with pytest.raises(InputError, match=str(path)):
            read_window(path, start, 1000, rate, 2)
    assert read_window(cut, 0.1, 1000, rate, 2).any()  # what is there is read


def test_nothing_before_the_window_is_decoded(folder, monkeypatch):
    rate = 8000
    path = write(folder / "long.wav", music(20 * rate, 1, rate), rate)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *a, **k: read.append(len(k["out"])) or original(self, *a, **k)
    )
    read_window(path, 15, rate, rate, 1)
    assert read == [rate]
