"""Writing: integers to the last digit, exact lengths, RF64, and every failure of a disk told."""

import io
import os
import struct
import subprocess
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sepcli.errors import OutputError, UsageError
from sepcli.sound import sink, wav
from sepcli.sound.decode import AudioReader
from sepcli.sound.encode import AudioWriter, quantize
from sepcli.sound.formats import DEPTHS, FORMATS, LOSSLESS, LOSSY, SOUNDS, is_integer, output_rate
from sepcli.sound.probe import probe
from sepcli.sound.wav import WavFile
from sepcli.sound.writers import check_format, sndfile_writes, writer_text
from tests.needs import need
from tests.sounds import lag, music

FRAMES = 50021
KINDS = [(format, depth) for format in LOSSLESS for depth in FORMATS[format].depths]
INTEGERS = [(format, depth) for format, depth in KINDS if is_integer(depth)]
FLOATS = [format for format, depth in KINDS if depth == "32f"]
linux = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX")


def write(path, x, *, block=65536, **options):
    options = {"samplerate": 44100, "channels": x.shape[0], "format": path.suffix[1:], **options}
    with AudioWriter(path, **options) as writer:
        for at in range(0, x.shape[1], block):
            writer.write(x[:, at : at + block])
    assert writer.frames_written == x.shape[1]
    return writer


def read(path):
    return np.concatenate(list(AudioReader(path)), axis=1)


def ints(path, depth):
    """The integers in the file, by libsndfile alone: [C, T]."""
    return (soundfile.read(path, dtype="int32", always_2d=True)[0] >> (32 - int(depth))).T


# Rounding


@pytest.mark.parametrize(("depth", "step"), [("16", 1), ("24", 97), ("32", 1 << 12)])
def test_every_integer_survives(depth, step):
    """Of 32 bits those that a float32 holds."""
    bits = int(depth)
    values = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), step, dtype=np.int64)
    assert np.array_equal(quantize((values / (1 << (bits - 1))).astype(np.float32), depth), values)


def test_to_nearest_with_ties_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999, 0.50001, 1.0], np.float32) / 32768
    assert quantize(x, "16").tolist() == [0, 2, 2, 0, -2, 0, 1, 1]


@pytest.mark.parametrize("depth", ["16", "24", "32"])
def test_full_scale_is_clamped(depth):
    full = 1 << (int(depth) - 1)
    x = np.array([1.0, 1.0000001, 5.0, -1.0, -1.1, -5.0], np.float32)
    expected = [full - 1] * 3 + [-full] * 3
    assert quantize(x, depth).tolist() == expected


@given(
    hnp.arrays(np.float32, 50, elements=st.floats(-1.5, 1.5, width=32, allow_subnormal=False)),
    st.sampled_from([16, 24, 32]),
)
def test_it_is_the_arithmetic_of_doubles(x, bits):
    full = 1 << (bits - 1)
    assert np.array_equal(quantize(x, str(bits)), np.clip(np.rint(x.astype(float) * full), -full, full - 1))


# Lossless formats


@pytest.mark.parametrize(("format", "depth"), INTEGERS)
@pytest.mark.parametrize(("channels", "frames"), [(1, 1), (1, 3), (2, 1), (2, FRAMES), (3, 1001), (8, 4097)])
def test_integers_are_read_back_as_they_were_rounded(tmp_path, format, depth, channels, frames):
    path = tmp_path / f"a.{format}"
    x = music(frames, channels) * 2.5  # some of it clips
    write(path, x, depth=depth, block=1000)
    info = probe(path)
    assert (info.frames, info.channels, info.depth, info.samplerate) == (frames, channels, depth, 44100)
    assert np.array_equal(ints(path, depth), quantize(x, depth))


@pytest.mark.parametrize(("format", "depth"), INTEGERS)
def test_ready_integers_are_written_digit_for_digit(tmp_path, format, depth):
    path = tmp_path / f"a.{format}"
    full = 1 << (int(depth) - 1)
    x = np.random.default_rng(0).integers(-full, full, (2, FRAMES), dtype=np.int32)
    x[:, :4] = [[-full, full - 1, 0, -1], [1, -2, full - 1, -full]]
    with AudioWriter(path, samplerate=48000, channels=2, format=format, depth=depth) as writer:
        writer.write_ints(x[:, :999])
        writer.write_ints(x[:, 999:])
    assert np.array_equal(ints(path, depth), x)


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("frames", [1, 2, FRAMES])
def test_float_is_never_clamped(tmp_path, format, frames):
    path = tmp_path / f"a.{format}"
    x = music(frames) * 1000
    x[0, 0] = 1e-40  # a denormal
    write(path, x, depth="32f", block=777)
    assert probe(path).depth == "32f"
    assert np.array_equal(soundfile.read(path, dtype="float32", always_2d=True)[0].T, x)


def test_float_holds_no_ready_integers(tmp_path):
    with AudioWriter(tmp_path / "a.wav", samplerate=44100, channels=1, depth="32f") as writer:
        with pytest.raises(AssertionError):
            writer.write_ints(np.zeros((1, 10), np.int32))


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_views_and_odd_layouts(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    x = music(2000, 4)[::2, ::2]  # neither contiguous nor aligned
    write(path, x, depth="24")
    assert np.array_equal(ints(path, "24"), quantize(x, "24"))


@pytest.mark.parametrize("suffix", SOUNDS)
def test_zero_frames_are_no_failure(tmp_path, suffix):
    write(tmp_path / f"a.{suffix}", np.zeros((2, 0), np.float32), samplerate=48000)


@pytest.mark.parametrize(("format", "depth"), KINDS)
def test_lossless_files_are_the_same_bytes_every_time_and_read_by_ffmpeg(tmp_path, format, depth):
    x = music(1002, 3, 48000)  # an even number of bytes: libsndfile counts an AIFF's pad byte as data
    paths = [tmp_path / f"{i}.{format}" for i in range(2)]
    for path, block in zip(paths, (1002, 10), strict=True):
        write(path, x, samplerate=48000, depth=depth, block=block)
    one, other = (path.read_bytes() for path in paths)
    # libsndfile would put the time of day, in seconds, into a chunk of this name.
    assert one == other and b"PEAK" not in one
    need("ffmpeg")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", paths[0], "-f", "f64le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    expected = x if depth == "32f" else quantize(x, depth) / (1 << (int(depth) - 1))
    assert np.array_equal(np.frombuffer(done.stdout, "<f8").reshape(-1, 3).T, expected)


def test_what_aiff_can_not_hold_is_said_before_a_file_is_written(tmp_path):
    """Its sizes have 32 bits. libsndfile would write on and put wrong ones into the header."""
    path = tmp_path / "a.aiff"
    with pytest.raises(UsageError, match="aiff files end at 4.0 GiB") as caught:
        AudioWriter(path, samplerate=44100, channels=2, format="aiff", depth="24", frames=(1 << 32) // 6)
    assert caught.value.code == "too_large" and "wav, flac or caf" in caught.value.remedy
    assert not path.exists()
    for format in ("wav", "flac", "caf"):
        path = tmp_path / f"a.{format}"
        AudioWriter(path, samplerate=44100, channels=2, format=format, frames=1 << 31).abort()


def test_an_aiff_of_unknown_length_ends_with_an_error_and_no_file(tmp_path, monkeypatch):
    """With a limit that a small file reaches: every file up to it is right, and beyond it there is none."""
    monkeypatch.setitem(FORMATS, "aiff", replace(FORMATS["aiff"], max_bytes=200_000))
    path = tmp_path / "a.aiff"
    x = music(30_000)
    write(path, x, depth="16", block=5000)
    assert np.array_equal(ints(path, "16"), quantize(x, "16"))
    with pytest.raises(UsageError, match="aiff files end") as caught:
        write(path, music(40_000), depth="16", block=5000)
    assert caught.value.code == "too_large" and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@posix
def test_a_caf_of_more_than_4_gib(tmp_path, monkeypatch):
    """A real one, with holes instead of silence: libsndfile finds the last of its samples."""
    monkeypatch.setattr(sink, "open", lambda *arguments, **options: Sparse(*arguments), raising=False)
    path = tmp_path / "a.caf"
    silence = np.zeros((8, 1 << 20), np.int32)
    x = quantize(music(1000, 8), "24").astype(np.float32) / (1 << 23)
    with AudioWriter(path, samplerate=44100, channels=8, format="caf", depth="32") as writer:
        while writer.frames_written < (4 << 30) // 32:
            writer.write_ints(silence)
        writer.write(x)
    try:
        assert path.stat().st_size > 4 << 30 and path.stat().st_blocks * 512 < 1 << 24, "not sparse"
        info = probe(path)
        assert (info.frames, info.depth) == (writer.frames_written, "32")
        reader = AudioReader(path, info, start=(writer.frames_written - 1000) / 44100)
        assert np.array_equal(np.concatenate(list(reader), axis=1), x) and reader.warnings == []
    finally:
        path.unlink()


class Sparse(io.FileIO):
    """A file in which blocks of zeros become holes."""

    def write(self, data):
        if len(data) > 1 << 12 and not np.frombuffer(data, np.uint8).any():
            self.seek(len(data), os.SEEK_CUR)
            return len(data)
        return super().write(data)


# WAV


def test_an_ordinary_wav_has_the_ordinary_header(tmp_path):
    path = tmp_path / "a.wav"
    write(path, music(10), depth="16", frames=10)
    data = path.read_bytes()
    assert len(data) == 44 + 40
    assert data[:44] == struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 76, b"WAVE", b"fmt ", 16, 1, 2, 44100,
                                    176400, 4, 16, b"data", 40)  # fmt: skip


@pytest.mark.parametrize("depth", ["16", "24", "32", "32f"])
@pytest.mark.parametrize("frames", [None, 1001])
def test_wav_is_the_same_bytes_every_time_and_reads_by_ffmpeg(tmp_path, depth, frames):
    x = music(1001, 1)
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path, block in zip(paths, (1001, 10), strict=True):
        write(path, x, depth=depth, frames=frames, block=block)
    one, other = (path.read_bytes() for path in paths)
    assert one == other and len(one) % 2 == 0
    assert struct.unpack("<I", one[4:8])[0] == len(one) - 8
    need("ffmpeg")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", paths[0], "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    assert np.array_equal(np.frombuffer(done.stdout, "<f4"), read(paths[0])[0])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("depth", ["16", "24", "32f"])
@pytest.mark.parametrize("frames", [998, 999, 1000, 1001])
def test_the_boundary_to_rf64(tmp_path, monkeypatch, known, depth, frames):
    """With a limit that a small file reaches: just below it a RIFF, beyond it an RF64."""
    path = tmp_path / "a.wav"
    x = music(frames)
    width = {"16": 4, "24": 6, "32f": 8}[depth]
    overhead = 4 + 36 + 24 + 8 + (14 if depth == "32f" else 0)  # WAVE, JUNK, fmt, data; float: cbSize and fact
    monkeypatch.setattr(wav, "SIZE_LIMIT", overhead + 999 * width)
    write(path, x, depth=depth, frames=frames if known else None)
    monkeypatch.undo()
    data = bytearray(path.read_bytes())
    if frames <= 999:
        assert data[:4] == b"RIFF" and struct.unpack("<I", data[4:8])[0] == len(data) - 8
    else:
        assert data[:4] == b"RF64" and data[12:16] == b"ds64"
        riff, size, count = struct.unpack("<QQQ", data[20:44])
        assert (riff, size, count) == (len(data) - 8, frames * width, frames)
        data[4:8] = b"\xff" * 4  # what the real limit would have put there
        at = data.index(b"data") + 4
        data[at : at + 4] = b"\xff" * 4
        path.write_bytes(data)
    if depth == "32f":
        assert np.array_equal(read(path), x)
    else:
        assert np.array_equal(ints(path, depth), quantize(x, depth))


@posix
@pytest.mark.parametrize("known", [True, False])
def test_a_wav_of_more_than_4_gib(tmp_path, known):
    """A real one, with a hole instead of most samples: libsndfile and ffmpeg find the last of them."""
    path = tmp_path / "a.wav"
    hole = (5 << 30) // 8  # frames of silence, 5 GiB
    x = music(1000)
    file = WavFile(path, 44100, 2, "32f", frames=hole + 2000 if known else None)
    file.write(x.T)
    file._file.seek(hole * 8, os.SEEK_CUR)
    file._data_bytes += hole * 8
    file.write(x.T)
    file.close()
    try:
        assert path.stat().st_size > 5 << 30 and path.stat().st_blocks * 512 < 1 << 20, "not sparse"
        info = probe(path)
        assert (info.frames, info.depth, info.container) == (hole + 2000, "32f", "wav")
        reader = AudioReader(path, info, start=(hole + 1000) / 44100)
        assert np.array_equal(np.concatenate(list(reader), axis=1), x) and reader.warnings == []
        need("ffmpeg")
        command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path]
        seconds = subprocess.run(command, capture_output=True, check=True).stdout
        assert float(seconds) == pytest.approx((hole + 2000) / 44100, abs=1e-3)
    finally:
        path.unlink()


def test_what_libsndfile_reads_near_4_gib_is_expected_by_frames(tmp_path):
    """Room for 64-bit sizes is left by what is expected, before a sample is written."""
    near = (0xFFFFFFFF - 100) // 8
    for frames, roomy in ((1000, False), (near - 10000, False), (near, True), (near * 2, True), (None, True)):
        path = tmp_path / "a.wav"
        WavFile(path, 44100, 2, "32f", frames=frames).abort()
        assert (path.read_bytes()[12:16] in (b"JUNK", b"ds64")) is roomy


@posix
@pytest.mark.parametrize("depth", ["16", "32f"])
def test_wav_into_a_pipe(depth):
    """Standard output can't be corrected afterwards: its header states what is expected."""
    x = music(1000)
    got = []
    for frames in (1000, None):
        source, sink = os.pipe()
        with open(source, "rb") as file:
            thread = threading.Thread(target=lambda f=file: got.append(f.read()))
            thread.start()
            with AudioWriter(sink, samplerate=44100, channels=2, depth=depth, frames=frames) as writer:
                writer.write(x)
            os.close(sink)  # the writer leaves that to its caller
            thread.join()
    known, unknown = got
    assert struct.unpack("<I", known[4:8])[0] == len(known) - 8
    assert struct.unpack("<I", unknown[4:8])[0] == 0xFFFFFFFF


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_unfinished_files_do_not_look_finished(tmp_path, suffix):
    """What a killed process leaves behind under a temporary name still opens, at worst, as what is there."""
    path = tmp_path / f"a.{suffix}"
    writer = AudioWriter(path, samplerate=44100, channels=2, format=suffix, depth="16")
    writer.write(music(FRAMES))
    (tmp_path / f"b.{suffix}").write_bytes(path.read_bytes())
    writer.close()
    reader = AudioReader(tmp_path / f"b.{suffix}")
    assert sum(block.shape[1] for block in reader) <= FRAMES


# Lossy formats


# Codecs work in packets. Opus, Vorbis and MP3 say how much of the last is padding, and decoders cut it off;
# in M4A ffmpeg's decoder leaves the last packet of 1024 frames whole.
PADDING = {"ogg": 0, "opus": 0, "mp3": 0, "m4a": 1023}


@pytest.mark.parametrize("format", PADDING)
@pytest.mark.parametrize("frames", [1, 100, 1023, 1025, 2049, FRAMES])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_length_place_and_sound(tmp_path, format, frames, channels):
    path = tmp_path / f"a.{format}"
    rate = output_rate(format, 44100)[0]
    x = music(frames, channels, rate)
    write(path, x, samplerate=rate)
    y = read(path)
    info = probe(path)
    assert info.lossy and (info.samplerate, info.channels) == (rate, channels)
    assert 0 <= y.shape[1] - frames <= PADDING[format]
    if frames > 10000:
        y = y[:, :frames]
        assert lag(x, y) == 0
        assert 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()) > 14  # dB; the noise is what codecs drop


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("frames", [1, 1024, FRAMES])
def test_an_m4a_states_its_length_to_the_frame(tmp_path, channels, frames):
    """FFmpeg's own decoder gives the samples in their place, and the whole of the last packet."""
    path = tmp_path / "a.m4a"
    x = music(frames, channels)
    write(path, x, block=999)
    with av.open(path) as container:
        stream = container.streams.audio[0]
        assert (stream.start_time, stream.duration * stream.time_base) == (0, Fraction(frames, 44100))
        resampler = av.AudioResampler("flt")
        packed = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
    y = np.concatenate([part.to_ndarray() for part in packed], axis=1).reshape(-1, channels).T
    assert y.shape[1] == -(-frames // 1024) * 1024
    if frames > 10000:
        assert lag(x, y) == 0


def kbits(path, seconds):
    return path.stat().st_size * 8 / seconds / 1000


@pytest.mark.parametrize(
    ("format", "bitrate", "expected"),
    [
        ("mp3", None, 320), ("mp3", 128, 128), ("mp3", 192, 192),
        ("opus", None, 192), ("opus", 64, 64), ("opus", 256, 256),
        ("m4a", None, 256), ("m4a", 128, 128),
        ("ogg", 192, 192), ("ogg", 320, 320),
    ],
)  # fmt: skip
def test_bit_rates(tmp_path, format, bitrate, expected):
    path = tmp_path / f"a.{format}"
    rate = output_rate(format, 44100)[0]
    # Noise, so that an encoder has a use for what it may spend; kept from full scale.
    x = (np.random.default_rng(0).standard_normal((2, rate * 5)) * 0.1).astype(np.float32)
    write(path, x, samplerate=rate, bitrate=bitrate)
    assert kbits(path, 5) == pytest.approx(expected, rel=0.3 if format == "ogg" else 0.08)


@pytest.mark.parametrize("format", LOSSY)
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("samplerate", [8000, 16000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_lowest_and_the_highest_bit_rate_work_everywhere(tmp_path, format, end, samplerate, channels):
    """Where a rate or channel count has no such bit rate, the encoder takes its nearest."""
    path = tmp_path / f"a.{format}"
    bitrates = FORMATS[format].bitrates
    bitrate = (bitrates.lowest, bitrates.highest)[end]
    check_format(format, bitrate=bitrate)
    # FFmpeg's decoder leaves out the last 128 frames of a Vorbis file that is one page.
    write(path, music(samplerate, channels, samplerate), samplerate=samplerate, bitrate=bitrate)
    assert read(path).shape[1] >= samplerate


def test_ogg_is_quality_8(tmp_path):
    x = music(44100 * 3)
    write(tmp_path / "a.ogg", x)
    soundfile.write(tmp_path / "b.ogg", x.T, 44100, "VORBIS", format="OGG", compression_level=0.2)
    size, reference = ((tmp_path / name).stat().st_size for name in ("a.ogg", "b.ogg"))
    assert abs(size - reference) < 200


RATES = [8000, 11025, 12000, 16000, 22050, 32000, 37800, 44056, 44100, 48000, 88200, 96000, 192000, 352800]


@pytest.mark.parametrize("format", SOUNDS)
@pytest.mark.parametrize("samplerate", RATES)
def test_every_rate_finds_one_that_the_format_has(tmp_path, format, samplerate):
    rate, notice = output_rate(format, samplerate)
    assert (notice is None) is (rate == samplerate)
    if format in LOSSLESS:
        assert rate == samplerate
    if notice:
        assert str(samplerate) in notice and str(rate) in notice and format in notice
    path = tmp_path / f"a.{format}"
    write(path, music(3000, 1, rate, noise=0), samplerate=rate, depth="16")
    assert probe(path).samplerate == (48000 if format == "opus" else rate)  # Opus decodes at that rate always


@pytest.mark.parametrize(
    ("format", "asked", "given"),
    [
        ("opus", 44100, 48000), ("opus", 22050, 24000), ("opus", 8000, 8000), ("opus", 7000, 8000),
        ("opus", 96000, 48000), ("mp3", 44056, 44100), ("mp3", 96000, 48000), ("mp3", 37800, 44100),
        ("m4a", 44056, 44100), ("m4a", 192000, 96000), ("ogg", 44056, 44056), ("ogg", 352800, 192000),
        ("flac", 65537, 65540), ("flac", 700000, 655350), ("flac", 44056, 44056), ("wav", 44057, 44057),
        ("aiff", 44057, 44057), ("aiff", 768000, 768000), ("caf", 44057, 44057), ("caf", 768000, 768000),
    ],
)  # fmt: skip
def test_the_nearest_higher_rate_else_the_highest(format, asked, given):
    assert output_rate(format, asked)[0] == given


# What can be written


def test_everything_can_be_written_here(monkeypatch, tmp_path):
    """Without any program on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(FORMATS) == ["wav", "flac", "aiff", "caf", "ogg", "opus", "mp3", "m4a", "stem.mp4"]
    assert LOSSLESS == ("wav", "flac", "aiff", "caf") and DEPTHS == ("keep", "16", "24", "32f")
    for format in SOUNDS:
        check_format(format)
        write(tmp_path / f"a.{format}", music(1000), samplerate=48000)
    check_format("stem.mp4")
    assert writer_text(FORMATS["stem.mp4"]) == f"FFmpeg {av.ffmpeg_version_info} (aac, alac)"
    assert writer_text(FORMATS["m4a"]) == f"FFmpeg {av.ffmpeg_version_info} (aac)"
    assert all(writer_text(FORMATS[format]).startswith("libsndfile 1.") for format in ("flac", "aiff", "mp3"))


@pytest.mark.parametrize("format", ["opus", "mp3"])
def test_ffmpeg_takes_over_what_a_lesser_libsndfile_lacks(tmp_path, monkeypatch, format):
    monkeypatch.setattr(soundfile, "available_formats", dict)
    assert not sndfile_writes(FORMATS[format])
    check_format(format)
    path = tmp_path / f"a.{format}"
    rate = output_rate(format, 44100)[0]
    x = music(FRAMES, samplerate=rate)
    write(path, x, samplerate=rate)
    y = read(path)
    assert probe(path).container == format and lag(x, y) == 0 and y.shape == x.shape
    for other in ("flac", "ogg"):
        with pytest.raises(OutputError) as caught:
            check_format(other)
        assert caught.value.code == "no_encoder" and f"without {other}" in caught.value.message


def test_an_ffmpeg_without_the_encoder(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"libmp3lame"})
    with pytest.raises(OutputError, match="without aac") as caught:
        check_format("m4a")
    assert caught.value.code == "no_encoder" and caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"format": "wma"}, "format=wma is unknown; the choices are wav, flac, aiff, caf, ogg"),
        ({"format": "wav", "bitrate": 128}, "lossless"),
        ({"format": "flac", "bitrate": 128}, "lossless"),
        ({"format": "aiff", "bitrate": 128}, "lossless"),
        ({"format": "mp3", "bitrate": 1000}, "8 to 320"),
        ({"format": "opus", "bitrate": 5}, "6 to 510"),
        ({"format": "mp3", "channels": 6}, "up to 2 channels"),
        ({"format": "flac", "channels": 9}, "up to 8 channels"),
        ({"format": "caf", "channels": 1025}, "up to 1024 channels"),
    ],
)
def test_requests_that_make_no_sense(arguments, match):
    with pytest.raises(UsageError, match=match) as caught:
        check_format(**arguments)
    assert caught.value.remedy


@pytest.mark.parametrize("format", [*LOSSLESS, "ogg", "opus", "m4a"])
def test_six_channels(tmp_path, format):
    check_format(format, channels=6)
    x = music(4800, 6, 48000)
    path = tmp_path / f"a.{format}"
    write(path, x, samplerate=48000)
    y = read(path)
    assert y.shape[0] == 6 and y.shape[1] >= 4800
    if format in LOSSLESS:
        assert np.abs(y - x).max() <= 2**-23


# Failures


def fill(writer):
    try:
        for _ in range(200):
            writer.write(music(65536, samplerate=48000))
        writer.close()
    finally:
        writer.abort()


@linux
@pytest.mark.parametrize("format", SOUNDS)
def test_a_full_disk(tmp_path, format):
    path = tmp_path / f"a.{format}"
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full") as caught:
        fill(AudioWriter(path, samplerate=48000, channels=2, format=format))
    assert caught.value.code == "disk_full" and caught.value.exit_code == 5
    assert not os.path.lexists(path)


@linux
@pytest.mark.parametrize("format", SOUNDS)
def test_a_disk_that_is_full_only_at_the_end(tmp_path, format):
    """A short file may all be buffered until `close`."""
    path = tmp_path / f"a.{format}"
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError) as caught:
        writer = AudioWriter(path, samplerate=48000, channels=2, format=format)
        writer.write(music(10))
        writer.close()
    assert caught.value.code == "disk_full"


@posix
@pytest.mark.parametrize("format", SOUNDS)
def test_a_disk_that_fills_up_midway(tmp_path, format):
    """By the limit that the kernel puts on a file's size: a short write first, then an error."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            writer = AudioWriter(tmp_path / f"a.{format}", samplerate=48000, channels=2, format=format)
            fill(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "too_large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", SOUNDS)
def test_where_nothing_can_be_written(tmp_path, format):
    for path in (tmp_path / "missing" / f"a.{format}", tmp_path):
        with pytest.raises(OutputError) as caught:
            AudioWriter(path, samplerate=48000, channels=2, format=format)
        assert caught.value.code == "not_writable" and caught.value.remedy


def test_what_ffmpeg_refuses_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "m4a", replace(FORMATS["m4a"], rates=(), max_rate=400_000))
    with pytest.raises(OutputError, match="FFmpeg: ") as caught:
        AudioWriter(tmp_path / "a.m4a", samplerate=352_800, channels=2, format="m4a")
    assert caught.value.exit_code == 5 and list(tmp_path.iterdir()) == []


def test_a_rate_that_the_format_lacks_is_a_mistake(tmp_path):
    for format in ("opus", "m4a"):
        with pytest.raises(AssertionError):
            AudioWriter(tmp_path / f"a.{format}", samplerate=44056, channels=2, format=format)


@pytest.mark.parametrize("format", ["flac", "aiff", "ogg", "mp3", "m4a"])
def test_ctrl_c_inside_a_library_is_not_swallowed(tmp_path, monkeypatch, format):
    """The callbacks of soundfile and PyAV print what is raised in them and go on."""

    class Interrupted(io.FileIO):
        pressed = False

        def write(self, data):
            if Interrupted.pressed:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(sink, "open", lambda path, mode, **options: Interrupted(path, mode), raising=False)
    writer = AudioWriter(tmp_path / f"a.{format}", samplerate=48000, channels=2, format=format)
    Interrupted.pressed = True
    with pytest.raises(KeyboardInterrupt):
        fill(writer)


@pytest.mark.parametrize("format", SOUNDS)
def test_abort_leaves_nothing(tmp_path, format):
    with pytest.raises(KeyError):
        with AudioWriter(tmp_path / f"a.{format}", samplerate=48000, channels=2, format=format) as writer:
            writer.write(music(1000))
            raise KeyError
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("format", SOUNDS)
def test_any_name(tmp_path, monkeypatch, format):
    monkeypatch.chdir(tmp_path)
    for name in (b"caf\xe9.", b"-o.", b"a:b.", b"x" * 250 + b"."):
        path = Path(os.fsdecode(name + format.encode()))
        write(path, music(1000, samplerate=48000), samplerate=48000)
        assert read(path).shape[1] >= 1000
