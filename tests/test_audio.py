"""Reading: every format gives the samples that are in it, and every odd file its own answer."""

import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from sepcli.errors import InputError
from sepcli.sound.decode import AudioReader
from sepcli.sound.probe import probe
from sepcli.sound.suffixes import AUDIO_SUFFIXES
from tests.needs import need
from tests.sounds import lag, music

FRAMES = 50021  # no multiple of any block or packet
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX file names")


def read(path, **options):
    reader = AudioReader(Path(path), **options)
    blocks = list(reader)
    for block in blocks:
        assert block.dtype == np.float32 and block.flags.c_contiguous and block.shape[0] == reader.channels
    assert sum(block.shape[1] for block in blocks) == reader.frames_read
    return np.concatenate(blocks, axis=1), reader


def run_ffmpeg(*arguments, feed=b""):
    need("ffmpeg")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(os.fspath, arguments)]
    return subprocess.run(command, input=feed, check=True, capture_output=True).stdout


def write(path, x, subtype, samplerate=44100, container=None):
    soundfile.write(path, x.T, samplerate, subtype, format=container or path.suffix[1:].upper())


# Lossless formats


LOSSLESS = [  # suffix, libsndfile's format and subtype, depth, largest rounding error
    ("wav", "WAV", "PCM_U8", "8", 2**-7),
    ("wav", "WAV", "PCM_16", "16", 2**-15),
    ("wav", "WAV", "PCM_24", "24", 2**-23),
    ("wav", "WAV", "PCM_32", "32", 2**-24),
    ("wav", "WAV", "FLOAT", "32f", 0),
    ("wav", "WAV", "DOUBLE", "64f", 0),
    ("wav", "WAV", "ALAW", "16", 0.04),
    ("wav", "WAV", "ULAW", "16", 0.04),
    ("wav", "WAVEX", "PCM_24", "24", 2**-23),
    ("wav", "RF64", "FLOAT", "32f", 0),
    ("w64", "W64", "PCM_16", "16", 2**-15),
    ("flac", "FLAC", "PCM_S8", "8", 2**-7),
    ("flac", "FLAC", "PCM_16", "16", 2**-15),
    ("flac", "FLAC", "PCM_24", "24", 2**-23),
    ("aiff", "AIFF", "PCM_16", "16", 2**-15),
    ("aiff", "AIFF", "FLOAT", "32f", 0),
    ("caf", "CAF", "PCM_24", "24", 2**-23),
    ("caf", "CAF", "ALAC_16", "16", 2**-15),
    ("au", "AU", "PCM_16", "16", 2**-15),
]


@pytest.mark.parametrize(("suffix", "container", "subtype", "depth", "error"), LOSSLESS)
def test_lossless_formats_give_their_samples(tmp_path, suffix, container, subtype, depth, error):
    path = tmp_path / f"a.{suffix}"
    x = music(FRAMES)
    write(path, x, subtype, container=container)
    info = probe(path)
    assert (info.samplerate, info.channels, info.frames) == (44100, 2, FRAMES)
    assert (info.depth, info.lossy) == (depth, False)
    assert info.decoder == ("av" if container == "FLAC" or subtype.startswith("ALAC") else "soundfile")
    assert info.container == {"WAVEX": "wav", "RF64": "wav"}.get(container, container.lower())
    assert info.duration == pytest.approx(FRAMES / 44100)
    y, reader = read(path)
    assert y.shape == x.shape and np.abs(y - x).max() <= error
    assert reader.warnings == [] and reader.expected == FRAMES
    exact = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert np.array_equal(y, exact)
    for block in (7, 1000, 65536):
        reader = AudioReader(path, block=block, duration=0.1 if block < 100 else None)
        assert np.array_equal(np.concatenate(list(reader), axis=1), exact[:, : reader.frames_read])


@pytest.mark.parametrize("samplerate", [8000, 11025, 22050, 32000, 44056, 48000, 88200, 96000, 176400, 192000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_rates(tmp_path, suffix, samplerate):
    path = tmp_path / f"a.{suffix}"
    x = music(1000, 1)
    write(path, x, "PCM_24", samplerate)
    y, reader = read(path)
    assert reader.samplerate == samplerate and np.abs(y - x).max() <= 2**-23


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "caf", "w64", "ogg", "mp3"])
def test_one_frame(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, music(1), None)
    y, reader = read(path)
    assert y.shape == (2, 1) and reader.warnings == []


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
def test_channels(tmp_path, channels):
    path = tmp_path / "a.flac"
    x = music(1000, channels)
    write(path, x, "PCM_24")
    assert np.abs(read(path)[0] - x).max() <= 2**-23


# Lossy formats: the length, and nothing moved in time by the encoder's delay


LOSSY = [
    ("ogg", "OGG", "VORBIS", 44100),
    ("opus", "OGG", "OPUS", 48000),
    ("mp3", "MP3", "MPEG_LAYER_III", 44100),
]


@pytest.fixture(scope="module")
def lossy_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lossy")
    for suffix, container, subtype, samplerate in LOSSY:
        write(folder / f"a.{suffix}", music(FRAMES, samplerate=samplerate), subtype, samplerate, container)
    return folder


@pytest.mark.parametrize(("suffix", "container", "subtype", "samplerate"), LOSSY)
def test_lossy_formats(lossy_files, suffix, container, subtype, samplerate):
    path = lossy_files / f"a.{suffix}"
    info = probe(path)
    assert (info.container, info.depth, info.lossy, info.decoder) == (suffix, "lossy", True, "av")
    y, reader = read(path)
    assert y.shape == (2, FRAMES) and reader.warnings == [] and reader.expected == FRAMES
    assert lag(music(FRAMES, samplerate=samplerate), y) == 0
    for block in (1000, 4096):
        assert np.array_equal(read(path, block=block)[0], y)
    theirs = np.frombuffer(run_ffmpeg("-i", path, "-f", "f32le", "-"), "<f4").reshape(-1, 2).T
    assert theirs.shape == y.shape and np.abs(theirs - y).max() < 1e-5


def test_mp3_of_variable_bit_rate_without_a_header_is_read_to_its_end(tmp_path):
    """libsndfile takes the length from the size and the first frame's bit rate: 20 s become 3."""
    wav, mp3 = tmp_path / "a.wav", tmp_path / "a.mp3"
    x = music(20 * 44100)
    x[:, : 44100 * 10] += 0.3 * np.random.default_rng(0).uniform(-1, 1, (2, 44100 * 10)).astype(np.float32)
    x[:, 44100 * 10 :] *= 0.01
    write(wav, x, "PCM_16")
    run_ffmpeg("-i", wav, "-q:a", "4", "-write_xing", "0", "-id3v2_version", "0", mp3)
    assert soundfile.info(mp3).frames < 15 * 44100, "the file no longer shows the problem"
    y, reader = read(mp3)
    assert 20 * 44100 <= y.shape[1] <= 20 * 44100 + 3 * 1152 and reader.warnings == []
    assert reader.info.frames is None
    part, _ = read(mp3, start=15.0, duration=1.0)
    assert np.array_equal(part, y[:, 15 * 44100 : 16 * 44100])
    next(iter(AudioReader(mp3, block=100)))  # leaving early leaves no thread behind


# What only ffmpeg reads


FFMPEG = [  # suffix, arguments, lossless
    ("m4a", ["-c:a", "alac"], True),
    ("mka", ["-c:a", "pcm_s16le"], True),
    ("mov", ["-c:a", "pcm_s24le"], True),
    ("tta", ["-c:a", "tta"], True),
    ("wv", ["-c:a", "wavpack"], True),
    ("m4a", ["-c:a", "aac", "-b:a", "192k"], False),
    ("aac", ["-c:a", "aac", "-b:a", "192k"], False),
    ("wma", ["-c:a", "wmav2", "-b:a", "192k"], False),
    ("ac3", ["-c:a", "ac3", "-b:a", "192k"], False),
    ("webm", ["-c:a", "libopus", "-ar", "48000"], False),
]


@pytest.mark.parametrize(("suffix", "arguments", "lossless"), FFMPEG)
def test_ffmpeg_reads_the_rest(tmp_path, suffix, arguments, lossless):
    wav, path = tmp_path / "a.wav", tmp_path / f"b.{suffix}"
    x = music(FRAMES)
    write(wav, x, "PCM_16")
    run_ffmpeg("-i", wav, *arguments, path)
    info = probe(path)
    assert info.decoder == "av" and info.lossy is not lossless and info.channels == 2
    assert abs(info.duration - FRAMES / 44100) < 0.2
    y, reader = read(path)
    assert reader.warnings == []
    if lossless:
        assert np.array_equal(y, read(wav)[0])
        assert info.depth == ("24" if "pcm_s24le" in arguments else "16")
    else:
        assert info.depth == "lossy" and abs(y.shape[1] - FRAMES * info.samplerate / 44100) < 5000
    part, _ = read(path, start=0.3, duration=0.25)
    first, length = round(0.3 * info.samplerate), round(0.25 * info.samplerate)
    assert np.array_equal(part, y[:, first : first + length])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "arguments"),
    [
        ("m4a", ["-c:a", "aac"]),
        ("aac", ["-c:a", "aac"]),
        ("mp3", ["-c:a", "libmp3lame"]),
        ("mp3", ["-c:a", "libmp3lame", "-write_xing", "0"]),
        ("mp2", ["-c:a", "mp2"]),
        ("ogg", ["-c:a", "libvorbis"]),
        ("opus", ["-c:a", "libopus", "-ar", "48000"]),
        ("spx", ["-c:a", "libspeex", "-ar", "32000"]),
        ("wma", ["-c:a", "wmav2"]),
        ("ac3", ["-c:a", "ac3"]),
        ("eac3", ["-c:a", "eac3"]),
        ("mkv", ["-c:a", "aac"]),
        ("webm", ["-c:a", "libopus", "-ar", "48000"]),
        ("mka", ["-c:a", "libvorbis"]),
        ("ts", ["-c:a", "aac"]),
        ("avi", ["-c:a", "libmp3lame"]),
        ("flv", ["-c:a", "aac"]),
    ],
)
def test_nothing_moves_in_time_against_ffmpegs_own_decoder(tmp_path, suffix, arguments):
    wav, path = tmp_path / "a.wav", tmp_path / f"b.{suffix}"
    write(wav, music(FRAMES), "PCM_16")
    try:
        run_ffmpeg("-i", wav, *arguments, path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this ffmpeg lacks the encoder: {error.stderr.decode()[:80]}")
    y, reader = read(path)
    assert reader.warnings == []
    theirs = np.frombuffer(run_ffmpeg("-i", path, "-f", "f32le", "-"), "<f4").reshape(-1, 2).T
    assert lag(theirs, y, most=3000) == 0
    # Its versions differ in what they cut off at the end.
    assert abs(theirs.shape[1] - y.shape[1]) <= 2048
    both = min(theirs.shape[1], y.shape[1]) - 4096
    assert np.abs(theirs[:, :both] - y[:, :both]).max() < 1e-3


def test_flac_of_32_bits_is_read(tmp_path):
    path = tmp_path / "a.flac"
    x = (np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2000)) * 2**31).astype(np.int32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=44100, layout="stereo")
        stream.codec_context.format = "s32"
        stream.codec_context.options = {"strict": "-2", "bits_per_raw_sample": "32"}
        frame = av.AudioFrame.from_ndarray(x, format="s32", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    y, reader = read(path)
    assert reader.info.depth == "32" and np.array_equal(y, (x.reshape(-1, 2).T / 2**31).astype(np.float32))


def test_dsd_is_read(tmp_path):
    """DSF (Sony's specification 1.01) of a tone: one bit a sample, in blocks of 4096 bytes."""
    samples = 4096 * 8 * 8
    t = np.arange(samples) / (64 * 44100)
    wave, error, bits = 0.5 * np.sin(2 * np.pi * 1000 * t), 0.0, np.empty(samples, np.uint8)
    for i, value in enumerate(wave):  # a modulator of first order
        error += value
        bits[i] = error > 0
        error -= 1 if bits[i] else -1
    blocks = np.packbits(bits, bitorder="little").reshape(-1, 4096)
    data = np.stack([blocks, blocks], axis=1).tobytes()
    form = struct.pack("<4sQIIIIIIQII", b"fmt ", 52, 1, 0, 2, 2, 64 * 44100, 1, samples, 4096, 0)
    path = tmp_path / "a.dsf"
    head = struct.pack("<4sQQQ", b"DSD ", 28, 28 + 52 + 12 + len(data), 0)
    path.write_bytes(head + form + struct.pack("<4sQ", b"data", 12 + len(data)) + data)
    y, reader = read(path)
    assert (reader.samplerate, y.shape) == (352800, (2, samples // 8)) and not reader.info.lossy
    spectrum = np.abs(np.fft.rfft(y[0]))[:2000]
    assert abs(spectrum[1:].argmax() + 1 - 1000 * samples / 8 / 352800) <= 1 and reader.warnings == []


def test_big_endian_wav_is_read(tmp_path):
    path = tmp_path / "a.wav"
    x = music(1000)
    soundfile.write(path, x.T, 44100, "PCM_24", endian="BIG", format="WAV")
    assert path.read_bytes()[:4] == b"RIFX" and np.abs(read(path)[0] - x).max() <= 2**-23


def test_the_sound_of_a_video(tmp_path):
    path = tmp_path / "a.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=1"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=1"]
    run_ffmpeg(*picture, *sound, "-c:v", "mpeg4", "-c:a", "aac", path)
    info = probe(path)
    assert (info.samplerate, info.channels, info.container) == (48000, 1, "mp4")
    assert read(path)[0].shape[1] >= 48000
    silent = tmp_path / "b.mp4"
    run_ffmpeg(*picture, "-c:v", "mpeg4", silent)
    with pytest.raises(InputError, match="no audio stream") as caught:
        probe(silent)
    assert caught.value.code == "no_audio"


@pytest.mark.parametrize("layout", ["quad", "5.0", "5.1(side)", "7.0", "7.1"])
def test_ffmpeg_mixes_no_channels(tmp_path, layout):
    """Asked for a number of channels it would remix the layouts that are not its own for that number."""
    path = tmp_path / "a.mka"
    channels = {"quad": 4, "5.0": 5, "5.1(side)": 6, "7.0": 7, "7.1": 8}[layout]
    values = "|".join(str((i + 1) / 16) for i in range(channels))
    source = f"aevalsrc=exprs={values}:c={layout}:d=0.1:s=48000"
    run_ffmpeg("-f", "lavfi", "-i", source, "-c:a", "pcm_f32le", path)
    y, reader = read(path)
    assert reader.channels == channels and reader.info.depth == "32f"
    assert np.array_equal(y, np.repeat(np.arange(1, channels + 1)[:, None] / 16, 4800, axis=1))


def test_suffixes():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in AUDIO_SUFFIXES)
    assert {".wav", ".mp3", ".m4a", ".mp4", ".mkv", ".webm", ".opus"} <= AUDIO_SUFFIXES
    assert not {".txt", ".jpg", ".png", ".pdf", ".zip", ".json", ".py"} & AUDIO_SUFFIXES


# A part of a file


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg", "opus", "mp3"])
@pytest.mark.parametrize(
    ("start", "duration"), [(0.1, 0.2), (0.5, None), (0.0, 0.3), (1.0, 100.0), (0.000025, 0.1)]
)
def test_a_part_is_exactly_that_part_of_the_whole(tmp_path, lossy_files, suffix, start, duration):
    path = lossy_files / f"a.{suffix}"
    if not path.exists():
        path = tmp_path / f"a.{suffix}"
        write(path, music(FRAMES), "PCM_16")
    whole, reader = read(path)
    first = round(start * reader.samplerate)
    end = None if duration is None else first + round(duration * reader.samplerate)
    part, partial = read(path, start=start, duration=duration, block=3000)
    assert np.array_equal(part, whole[:, first:end])
    assert partial.warnings == [] and partial.expected == part.shape[1]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "m4a"])
def test_a_start_beyond_the_end(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write(tmp_path / "a.wav", music(1000), "PCM_16")
        run_ffmpeg("-i", tmp_path / "a.wav", path)
    else:
        write(path, music(1000), None)
    with pytest.raises(InputError, match="ends before") as caught:
        read(path, start=10)
    assert caught.value.code == "start"


# Damage


@pytest.mark.parametrize(("suffix", "subtype"), [
    ("wav", "PCM_16"), ("wav", "FLOAT"), ("aiff", "PCM_16"), ("w64", "PCM_16"), ("rf64", "PCM_16"),
    ("au", "PCM_16"), ("caf", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"),
])  # fmt: skip
@pytest.mark.parametrize("part", [0.35, 0.8])
def test_a_truncated_file_gives_what_decodes_and_a_warning(tmp_path, suffix, subtype, part):
    if suffix == "caf":
        need("ffmpeg")  # libsndfile refuses it
    path, cut = tmp_path / f"a.{suffix}", tmp_path / f"cut.{suffix}"
    write(path, music(FRAMES * 4), subtype)
    whole, intact = read(path)
    assert intact.warnings == []
    data = path.read_bytes()
    cut.write_bytes(data[: int(len(data) * part)])
    y, reader = read(cut)
    assert 0.6 * part < y.shape[1] / whole.shape[1] < 1.1 * part
    # A lossy decoder fades its last frame differently when the next is missing.
    sure = y.shape[1] if subtype in ("PCM_16", "FLOAT") else y.shape[1] - 5000
    assert np.array_equal(y[:, :sure], whole[:, :sure])
    assert len(reader.warnings) == 1 and "Cut short" in reader.warnings[0]


@pytest.mark.parametrize(
    ("suffix", "arguments"), [("mka", ["-c:a", "flac"]), ("m4a", ["-movflags", "+faststart"])]
)
def test_a_truncated_file_of_ffmpeg(tmp_path, suffix, arguments):
    wav, path = tmp_path / "a.wav", tmp_path / f"a.{suffix}"
    write(wav, music(FRAMES * 4), "PCM_16")
    run_ffmpeg("-i", wav, *arguments, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    y, reader = read(path)
    assert 0.3 < y.shape[1] / (FRAMES * 4) < 0.7
    assert len(reader.warnings) == 1 and "Cut short" in reader.warnings[0]


def test_damage_in_the_middle_costs_the_damaged_frames_only(tmp_path):
    path = tmp_path / "a.flac"
    x = music(FRAMES * 4)
    write(path, x, "PCM_16")
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    for block in (1000, 65536):
        y, reader = read(path, block=block)
        assert y.shape == whole.shape
        (wrong,) = np.nonzero((y != whole).any(axis=0))
        assert not y[:, wrong[0] : wrong[-1] + 1].any(), "silence"
        (loss,) = reader.losses
        assert loss.code == "damaged" and loss.start * 44100 <= wrong[0] + 1
        assert wrong[-1] - wrong[0] < loss.seconds * 44100 < 3 * 4608
        assert len(reader.warnings) == 1 and "damaged" in reader.warnings[0].code
    # A part before the damage is no reason for a warning.
    assert read(path, duration=0.5)[1].warnings == []


def state_sizes(path, riff_size, data_size):
    """Other sizes in the header of a WAV."""
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", riff_size)
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", data_size)
    path.write_bytes(data)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_that_states_too_few_bytes_is_read_as_far_as_it_goes(tmp_path, subtype):
    path = tmp_path / "a.wav"
    write(path, music(FRAMES), subtype)
    whole, _ = read(path)
    state_sizes(path, 50_000, 40_000)
    y, reader = read(path)
    assert np.array_equal(y, whole) and reader.warnings == [] and reader.info.frames == FRAMES
    part, _ = read(path, start=0.5, duration=0.2)
    assert np.array_equal(part, whole[:, 22050 : 22050 + 8820])


@pytest.mark.parametrize("suffix", ["aiff", "au"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_other_headers_that_state_too_few_bytes(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write(path, music(FRAMES), "PCM_24")
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"SSND") + 4 if suffix == "aiff" else 8
    data[at : at + 4] = struct.pack(">I", int(FRAMES * share) * 6)
    if suffix == "aiff":
        at = data.index(b"COMM") + 10
        data[at : at + 4] = struct.pack(">I", int(FRAMES * share))
    path.write_bytes(data)
    y, reader = read(path)
    assert np.array_equal(y, whole) and reader.warnings == []


def test_what_stands_behind_the_samples_of_a_wav_is_no_sound(tmp_path):
    path = tmp_path / "a.wav"
    write(path, music(FRAMES), "PCM_16")
    data = path.read_bytes()
    whole, _ = read(path)
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOINAM" + struct.pack("<I", 13) + b"a long title\0\0"
    tails = [chunk, chunk[:20], b"id3 " + struct.pack("<I", 3000) + bytes(range(250)) * 12, bytes(100_000)]
    tails += [b"TAG".ljust(128, b"x"), b"\r\n", b"abcd" + struct.pack("<I", 2000) + bytes(2000)]
    for tail in tails:
        path.write_bytes(data + tail)
        y, reader = read(path)
        assert np.array_equal(y, whole) and reader.warnings == [], tail[:12]


@pytest.mark.parametrize("tail", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
def test_a_wav_over_4_gib_whose_size_wrapped(tmp_path, tail):
    path = tmp_path / "a.wav"
    x = music(44100)
    write(path, x, "PCM_16")
    head, body = path.read_bytes()[:44], path.read_bytes()[44:]
    with path.open("wb") as file:  # a hole of 4 GiB takes no room
        file.write(head + body)
        file.seek(1 << 32, os.SEEK_CUR)
        file.write(body + tail)
    frames = 44100 * 2 + (1 << 30)
    state_sizes_in(path, 2 * len(body))
    info = probe(path)
    assert info.frames == frames
    y, reader = read(path, start=(frames - 44100) / 44100)
    assert np.array_equal(y, np.round(x * 32767) / 32768) or np.abs(y - x).max() < 2**-14
    assert y.shape == x.shape and reader.warnings == []


def state_sizes_in(path, data_size):
    """As `state_sizes`, without reading the whole file."""
    with path.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("<I", data_size & 0xFFFFFFFF))


def test_an_rf64_of_a_recorder_that_died(tmp_path):
    path = tmp_path / "a.rf64"
    write(path, music(FRAMES), "PCM_24", container="RF64")
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"ds64") + 8
    data[at : at + 24] = bytes(24)
    path.write_bytes(data)
    y, reader = read(path)
    assert np.array_equal(y, whole) and reader.warnings == []


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [
        (0, 0),
        (36, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0x80000024, 0x80000000),
        (0, 0xFFFFFFFF),
    ],
)
def test_wav_headers_of_programs_that_could_not_seek(tmp_path, subtype, riff_size, data_size):
    path = tmp_path / "a.wav"
    write(path, music(FRAMES), subtype)
    whole, _ = read(path)
    state_sizes(path, riff_size, data_size)
    y, reader = read(path)
    assert np.array_equal(y, whole) and reader.warnings == []
    assert reader.info.frames == FRAMES
    part, _ = read(path, start=0.5, duration=0.1)
    assert np.array_equal(part, whole[:, 22050:26460])


def test_wav_from_a_pipe_of_ffmpeg(tmp_path):
    path, piped = tmp_path / "a.wav", tmp_path / "b.wav"
    write(path, music(FRAMES), "PCM_16")
    piped.write_bytes(run_ffmpeg("-i", path, "-f", "wav", "-"))
    y, reader = read(piped)
    assert np.array_equal(y, read(path)[0]) and reader.warnings == []


def test_flac_from_a_pipe_has_no_length(tmp_path):
    path, piped = tmp_path / "a.wav", tmp_path / "b.flac"
    write(path, music(FRAMES), "PCM_16")
    piped.write_bytes(run_ffmpeg("-i", path, "-f", "flac", "-"))
    y, reader = read(piped)
    assert np.array_equal(y, read(path)[0]) and reader.warnings == []
    assert reader.info.frames is None and reader.expected is None
    part, _ = read(piped, start=0.5, duration=0.1)
    assert np.array_equal(part, y[:, 22050:26460])


def test_wav_that_ends_inside_a_frame(tmp_path):
    path = tmp_path / "a.wav"
    write(path, music(1000), "PCM_16")
    path.write_bytes(path.read_bytes()[:-3])
    y, reader = read(path)
    assert y.shape == (2, 999) and len(reader.warnings) == 1


def test_wav_with_chunks_before_and_after_the_samples(tmp_path):
    path = tmp_path / "a.wav"
    write(path, music(1000), "PCM_16")
    data = path.read_bytes()
    extra = b"bext" + struct.pack("<I", 601) + bytes(602)
    path.write_bytes(data[:12] + extra + data[12:] + extra)
    y, reader = read(path)
    assert y.shape == (2, 1000) and reader.warnings == []


# Refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 70000])
def test_nan_and_infinity(tmp_path, value, at):
    path = tmp_path / "a.wav"
    x = music(80000)
    x[1, at] = value
    write(path, x, "FLOAT")
    with pytest.raises(InputError, match=f"at {at / 44100:.3f} s") as caught:
        read(path)
    assert caught.value.code == "not_finite" and caught.value.exit_code == 1
    assert read(path, start=(at + 1) / 44100)[0].shape[1] == 80000 - at - 1


def test_doubles_beyond_the_range_of_a_float(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((10, 2), 1e300), 44100, "DOUBLE")
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == "not_finite"


def test_float_beyond_full_scale_is_kept(tmp_path):
    path = tmp_path / "a.wav"
    write(path, music(1000) * 100, "FLOAT")
    assert np.array_equal(read(path)[0], music(1000) * 100)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg"])
def test_zero_frames(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, np.zeros((2, 0), np.float32), None)
    with pytest.raises(InputError) as caught:
        read(path)
    # libsndfile's FLAC encoder writes nothing before the first sample.
    assert caught.value.code == ("empty" if suffix == "flac" else "no_frames")


@pytest.mark.parametrize(("suffix", "size"), [("wav", 44), ("flac", 42), ("aiff", 54)])
def test_a_header_alone(tmp_path, suffix, size):
    path = tmp_path / f"a.{suffix}"
    write(path, music(1000), "PCM_16")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == "no_frames"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("empty.wav", b"", "empty"),
        ("text.wav", b"This is no audio, whatever its name says.\n" * 50, "not_audio"),
        ("text.txt", b"This is no audio.\n" * 50, "not_audio"),
        ("samples.raw", bytes(range(256)) * 100, "not_audio"),
        ("short.mp3", b"ID3", "not_audio"),
        ("one.flac", b"f", "not_audio"),
    ],
)
@pytest.mark.parametrize("tools", [True, False])
def test_what_is_no_audio(tmp_path, monkeypatch, name, content, code, tools):
    if not tools:
        monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code and caught.value.exit_code == 1
    assert name in caught.value.message and caught.value.remedy


def test_random_bytes(tmp_path):
    """Whatever a decoder may see in them: an InputError or finite samples."""
    for seed in range(6):
        path = tmp_path / f"{seed}.mp3"
        path.write_bytes(np.random.default_rng(seed).bytes(3000))
        try:
            y, _ = read(path)
            assert np.isfinite(y).all()
        except InputError as error:
            assert error.code in ("not_audio", "no_audio", "no_frames", "not_finite")


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist") as caught:
        probe(tmp_path / "nothing.wav")
    assert caught.value.code == "missing"
    with pytest.raises(InputError, match="is a folder") as caught:
        probe(tmp_path)
    assert caught.value.code == "folder"


def test_no_permission(tmp_path, monkeypatch):
    """By a stand-in for the refusal: root, who may run the tests, is refused nothing."""
    path = tmp_path / "a.wav"
    write(path, music(10), "PCM_16")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        probe(path)
    assert caught.value.code == "unreadable"


@posix
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(InputError, match="`-`") as caught:
        probe(tmp_path / "a.wav")
    assert caught.value.code == "unreadable"


# Names


NAMES = [
    b"plain", b"caf\xe9", b"\xff\xfe\x80", "\u65e5\u672c\u8a9e \u266a".encode(), b"-o", b"new\nline", b"a:b",
    b"50%d", b"concat:x", b"pipe:0", b"' \" $x", b"x" * 251,
]  # fmt: skip


@posix
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
@pytest.mark.parametrize("suffix", [b".wav", b".m4a"])
def test_any_name_opens(tmp_path, monkeypatch, name, suffix):
    if sys.platform == "darwin" and name in (b"caf\xe9", b"\xff\xfe\x80"):
        pytest.skip("this file system takes UTF-8 names only")
    write(tmp_path / "plain_source.wav", music(1000), "PCM_16")
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name + suffix))  # relative: "-o.wav" begins with a dash
    if suffix == b".wav":
        shutil.copy("plain_source.wav", path)
    else:
        run_ffmpeg("-i", "plain_source.wav", "-c:a", "alac", "made.m4a")
        os.rename("made.m4a", path)
    y, reader = read(path)
    assert y.shape == (2, 1000)
    assert reader.info.path == path and reader.info.decoder == ("soundfile" if suffix == b".wav" else "av")


@posix
@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_a_path_longer_than_libsndfile_takes(tmp_path, suffix):
    """libsndfile's own limit is 1023 bytes."""
    write(tmp_path / "a.wav", music(1000), "PCM_16")
    run_ffmpeg("-i", tmp_path / "a.wav", "-c:a", "alac", tmp_path / "a.m4a")
    folder = tmp_path
    for i in range(8):
        folder = folder / (str(i) * 200)
    folder.mkdir(parents=True)
    path = folder / f"a.{suffix}"
    shutil.move(tmp_path / f"a.{suffix}", path)
    assert len(str(path)) > 1600
    assert read(path)[0].shape == (2, 1000)


@posix
def test_messages_can_be_printed_whatever_the_name(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    with pytest.raises(InputError) as caught:
        probe(path)
    str(caught.value).encode("utf-8")


# Memory


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "m4a"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    wav = tmp_path / "source.wav"
    path = tmp_path / f"a.{suffix}"
    write(wav, music(44100 * 20, noise=0), "PCM_16")
    run_ffmpeg("-i", wav, *(["-c:a", "alac"] if suffix == "m4a" else []), path)
    info = probe(path)
    tracemalloc.start()
    try:
        frames = sum(block.shape[1] for block in AudioReader(path, info))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert frames >= 44100 * 20
    assert peak < 6 * 65536 * 2 * 4  # bytes: a few blocks of float32; the whole is 7 MB
