"""Compressed files that are joined, damaged, cut, late or broken in time: nothing is lost in silence."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from sepcli.errors import InputError
from sepcli.sound import packets
from sepcli.sound.decode import AudioReader
from sepcli.sound.losses import DAMAGES
from sepcli.sound.probe import probe
from sepcli.sound.tags import read_tags
from tests.sounds import lag, music

RATE = 44100


def read(path, **options):
    reader = AudioReader(Path(path), **options)
    return np.concatenate(list(reader), axis=1), reader


def codes(reader):
    return [warning.code for warning in reader.warnings]


def encoded(folder, suffix, x, samplerate=RATE, container=None, subtype=None):
    """The bytes of a file that libsndfile writes."""
    path = folder / f"made.{suffix}"
    with soundfile.SoundFile(
        path, "w", samplerate, len(x), subtype, format=container or suffix.upper()
    ) as file:
        for at in range(0, x.shape[1], 10_000):  # its Vorbis encoder takes no long blocks
            file.write(x[:, at : at + 10_000].T)
    return path.read_bytes()


def mp3(folder, x, samplerate=RATE):
    return encoded(folder, "mp3", x, samplerate)


def without_xing(data):
    """An MP3 without its first frame, which counts the others."""
    second = data.index(data[:2], 100)
    while data[second : second + 2] != data[:2]:
        second = data.index(data[:2], second + 1)
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    return data[second:]


class Muxer:
    """A file of FFmpeg's libraries: packets of several tracks, with the times that the test wants."""

    def __init__(self, path, format=None):
        self.container = av.open(str(path), "w", format=format)
        self.packets = []  # muxed by `close`, when all streams are known

    def picture(self, seconds, rate=25):
        stream = self.container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for number in range(int(seconds * rate)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 255, np.uint8), format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, rate)
            self.packets += stream.encode(frame)
        self.packets += stream.encode(None)

    def sound(self, x, samplerate=48000, codec="libopus", late=0.0, gap=None, title="", default=False):
        """gap: (from, to) in seconds; the packets between are left out."""
        stream = self.container.add_stream(codec, rate=samplerate, layout="stereo")
        if title:
            stream.metadata["title"] = title
        stream.disposition = Disposition.default if default else 0
        size = 960 if codec == "libopus" else 1024
        packets = []
        for at in range(0, x.shape[1], size):
            block = x[:, at : at + size]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = samplerate, at, Fraction(1, samplerate)
            packets += stream.encode(_as(stream, frame))
        packets += stream.encode(None)
        for packet in packets:
            time = packet.pts * packet.time_base
            if gap is not None and gap[0] <= time < gap[1]:
                continue
            shift = round(Fraction(late) / packet.time_base)
            packet.pts += shift
            packet.dts += shift
            self.packets.append(packet)

    def close(self):
        for packet in sorted(self.packets, key=lambda packet: packet.dts * packet.time_base):
            self.container.mux(packet)
        self.container.close()


def _as(stream, frame):
    if stream.format.name == frame.format.name:
        return frame
    (made,) = av.AudioResampler(stream.format.name, "stereo", frame.sample_rate).resample(frame)
    made.pts, made.time_base = frame.pts, frame.time_base
    return made


# Joined files


def test_no_more_is_asked_for_at_once_than_a_file_may_have(tmp_path, monkeypatch):
    """A damaged size makes FFmpeg want half a gigabyte, for which Python would make room."""
    path = tmp_path / "huge.tta"
    with av.open(str(path), "w", format="tta") as file:
        stream = file.add_stream("tta", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8820), np.int16), format="s16", layout="stereo")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = data.lower().index(b"encoder\0") - 8  # a text of the tag at the end: its size comes first
    data[at : at + 4] = struct.pack("<I", 1 << 29)
    path.write_bytes(data)
    asked = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    info = probe(path)
    monkeypatch.setattr(Path, "open", lambda self, mode: Counting(self))
    with packets.opened(path) as container:
        assert container.streams.audio
    read_tags(path, info)
    assert 1 << 15 < max(asked) <= packets.MOST_AT_ONCE


@pytest.mark.slow
def test_joined_mp3s_are_read_through(tmp_path):
    one, two = music(3 * RATE), music(2 * RATE, seed=1)
    path = tmp_path / "a.mp3"
    first, second = mp3(tmp_path, one), mp3(tmp_path, two)
    path.write_bytes(first)
    alone, _ = read(path)
    path.write_bytes(first + second)
    y, reader = read(path)
    assert 5 * RATE <= y.shape[1] < 5 * RATE + 4 * 1152, "the second part's delay and padding are sound too"
    assert np.array_equal(y[:, : alone.shape[1] - 2000], alone[:, :-2000])
    tail = y[:, -2 * RATE - 1152 :]
    assert max(np.corrcoef(tail[0, d : d + RATE], two[0, :RATE])[0, 1] for d in range(2400)) > 0.98
    assert not DAMAGES & set(codes(reader))


@pytest.mark.parametrize(
    ("rate", "channels", "first_channels"), [(48000, 2, 2), (44100, 1, 2), (44100, 2, 1), (22050, 1, 2)]
)
def test_a_later_part_gets_the_first_ones_rate_and_channels(tmp_path, rate, channels, first_channels):
    first, second = music(2 * RATE, first_channels), music(2 * rate, channels, samplerate=rate)
    path = tmp_path / "a.mp3"
    path.write_bytes(without_xing(mp3(tmp_path, first)) + without_xing(mp3(tmp_path, second, rate)))
    y, reader = read(path)
    assert (reader.samplerate, y.shape[0]) == (RATE, first_channels)
    assert 4 * RATE <= y.shape[1] < 4 * RATE + 8 * 1152
    assert codes(reader) == ["joined"] and "another begins at 2." in reader.warnings[0]
    # What is heard in the second half is the second part.
    spectrum = np.abs(np.fft.rfft(y[0, -RATE - 4000 : -4000])) / np.hypot(*y.shape)
    same = second.mean(axis=0) if first_channels == 1 else second[0]
    wanted = np.abs(np.fft.rfft(same[-rate - 2000 : -2000]))
    assert abs(int(spectrum.argmax()) - int(wanted.argmax())) <= 1


def test_chained_ogg_is_read_through(tmp_path):
    one, two = music(3 * RATE), music(2 * RATE, seed=1)
    path = tmp_path / "a.ogg"
    path.write_bytes(encoded(tmp_path, "ogg", one) + encoded(tmp_path, "ogg", two))
    y, reader = read(path)
    assert abs(y.shape[1] - 5 * RATE) < 2048
    assert codes(reader) == ["joined"]
    assert lag(one[:, :RATE], y[:, :RATE]) == 0
    assert lag(two[:, -RATE - 1000 : -1000], y[:, -RATE - 1000 : -1000]) == 0


# Damage


def test_damage_in_an_mp3_costs_its_frames_only(tmp_path):
    x = music(4 * RATE)
    data = bytearray(mp3(tmp_path, x))
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    whole, intact = read(path)
    assert intact.losses == [] and whole.shape == x.shape
    middle = len(data) // 2
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(data)
    y, reader = read(path)
    assert y.shape == whole.shape, "all that follows stays in time"
    (wrong,) = np.nonzero(np.abs(y - whole).max(axis=0) > 1e-3)
    assert wrong[-1] - wrong[0] < 12 * 1152
    assert lag(whole[:, -RATE:], y[:, -RATE:]) == 0
    assert set(codes(reader)) == {"damaged"}
    lost = sum(loss.seconds for loss in reader.losses)
    assert 0.02 < lost < 0.2 and abs(reader.losses[0].start - 2) < 0.2
    # The part before it is intact.
    assert read(path, duration=1.0)[1].warnings == []
    late, reader = read(path, start=3.0)
    assert reader.warnings == [] and np.array_equal(late, y[:, 3 * RATE :])


@pytest.mark.parametrize("titles", [[1] * 9, [1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1]])
def test_metadata_within_a_stream_rip_is_taken_out(tmp_path, titles):
    """ICY: after each so many bytes a block of text that a player would have taken out; most are empty."""
    body = without_xing(mp3(tmp_path, music(6 * RATE)))
    path = tmp_path / "a.mp3"
    path.write_bytes(body)
    whole, _ = read(path)
    interval = len(body) // (len(titles) + 1) + 1
    text = b"\x10" + b"StreamTitle='Somebody - Something';".ljust(256, b"\0")
    data = b""
    for number, at in enumerate(range(0, len(body), interval)):
        data += body[at : at + interval]
        if number < len(titles):
            data += text if titles[number] else b"\0"
    path.write_bytes(data)
    y, reader = read(path)
    assert np.array_equal(y, whole) and reader.warnings == []


def test_a_title_that_stands_in_the_sound_by_itself_changes_nothing(tmp_path):
    body = bytearray(without_xing(mp3(tmp_path, music(6 * RATE))))
    middle = len(body) // 3
    body[middle : middle + 30] = b"\x10StreamTitle='Something';".ljust(30, b"\0")
    path = tmp_path / "a.mp3"
    path.write_bytes(body)
    y, reader = read(path)
    assert codes(reader) in ([], ["damaged"]) and abs(y.shape[1] - 6 * RATE) < 4 * 1152


def test_a_flac_that_states_too_few_samples_is_read_to_its_end(tmp_path):
    x = music(2 * RATE)
    data = bytearray(encoded(tmp_path, "flac", x, subtype="PCM_16"))
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    whole, _ = read(path)
    data[22:26] = struct.pack(">I", RATE)  # the low 32 bits of the total
    path.write_bytes(data)
    y, reader = read(path)
    assert reader.info.frames == RATE and np.array_equal(y, whole) and reader.warnings == []


@pytest.mark.parametrize("size", [500, 576, 4096])
def test_one_bad_frame_of_a_flac_is_silent(tmp_path, size):
    """Also where it is shorter than 50 ms: FLAC counts samples."""
    x = (music(RATE) * 32767).astype(np.int16)
    path = tmp_path / "a.flac"
    container = av.open(str(path), "w")
    stream = container.add_stream("flac", rate=RATE, layout="stereo")
    stream.codec_context.options = {"frame_size": str(size)}
    for at in range(0, RATE, size):
        block = np.ascontiguousarray(x[:, at : at + size].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()
    whole, _ = read(path)
    assert np.array_equal(whole, x / np.float32(32768))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    y, reader = read(path)
    assert y.shape == whole.shape and codes(reader) == ["damaged"]
    changed = (y != whole).any(axis=0)
    assert 0 < changed.sum() <= 2 * size and not y[:, changed].any()


def test_a_tag_behind_an_mp3_is_no_damage(tmp_path):
    body = without_xing(mp3(tmp_path, music(RATE)))
    lyrics = b"LYRICSBEGININD0000200" + b"LYR01000" + b"la " * 1000 + b"003021LYRICS200"
    ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 64, 1, 0) + bytes(range(32, 96))
    id3v1 = b"TAG" + b"title".ljust(125, b"\0")
    path = tmp_path / "a.mp3"
    path.write_bytes(body)
    whole, _ = read(path)
    for tail in (lyrics + id3v1, ape, id3v1, bytes(5000), b"<html>not found</html>" * 50):
        path.write_bytes(body + tail)
        y, reader = read(path)
        assert reader.warnings == [] and np.array_equal(y[:, : whole.shape[1]], whole), tail[:8]
        assert y.shape[1] - whole.shape[1] < 1152


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac"])
def test_a_file_that_ends_early_says_so(tmp_path, suffix):
    x = music(3 * RATE)
    data = encoded(tmp_path, suffix, x, subtype="PCM_16" if suffix == "flac" else None)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data[: len(data) * 2 // 3])
    y, reader = read(path)
    assert RATE < y.shape[1] < 2.3 * RATE and codes(reader) == ["cut_short"]
    if suffix != "ogg":  # its last page was the only one to state the length
        assert reader.losses[-1].seconds == pytest.approx(3 - y.shape[1] / RATE, abs=0.05)


# Time


def test_the_sound_of_a_video_starts_with_its_picture(tmp_path):
    x = music(2 * 48000, samplerate=48000)
    for late in (0.0, 0.5):
        path = tmp_path / f"{late}.mkv"
        made = Muxer(path)
        made.sound(x, late=late)
        made.picture(2)
        made.close()
        y, reader = read(path)
        silence = round(late * 48000)
        assert codes(reader) == (["late_start"] if late else [])
        assert not y[:, : max(0, silence - 400)].any()
        # Opus begins 6.5 ms before its first sample, which Matroska states to the millisecond.
        assert abs(y.shape[1] - silence - x.shape[1]) < 2000
        delay = lag(x[:, 2000:40000], y[:, silence + 2000 : silence + 40000], most=100)
        assert abs(delay) <= (48 if late else 0)


def test_a_gap_becomes_silence_and_what_follows_stays_in_time(tmp_path):
    x = music(3 * 48000, samplerate=48000)
    path = tmp_path / "a.mkv"
    made = Muxer(path)
    made.sound(x)
    made.close()
    whole, intact = read(path)
    assert intact.warnings == []
    made = Muxer(path)
    made.sound(x, gap=(1.0, 1.75))
    made.close()
    y, reader = read(path)
    assert codes(reader) == ["gap"] and not DAMAGES & set(codes(reader))
    assert reader.losses[0].seconds == pytest.approx(0.75, abs=0.03)
    assert abs(y.shape[1] - whole.shape[1]) <= 48
    assert abs(lag(whole[:, -48000:], y[:, -48000:], most=100)) <= 48
    middle = y[:, round(1.05 * 48000) : round(1.7 * 48000)]
    assert not middle.any()


def test_a_leap_of_hours_is_another_clock(tmp_path):
    """As in joined recordings of a broadcast: what follows is taken as it comes."""
    x = music(2 * 48000, samplerate=48000)
    path = tmp_path / "a.mka"
    made = Muxer(path, "matroska")
    stream = made.container.add_stream("libopus", rate=48000, layout="stereo")
    for at in range(0, x.shape[1], 960):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(x[:, at : at + 960]), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = 48000, at, Fraction(1, 48000)
        for packet in stream.encode(_as(stream, frame)):
            if at >= 48000:
                packet.pts += 5 * 3600 * 48000
                packet.dts += 5 * 3600 * 48000
            made.packets.append(packet)
    made.close()
    y, reader = read(path)
    assert abs(y.shape[1] - x.shape[1]) < 2000 and "timestamps" in codes(reader)


# Tracks


@pytest.fixture
def two_tracks(tmp_path):
    path = tmp_path / "a.mkv"
    made = Muxer(path)
    one = music(48000, samplerate=48000)
    streams = []
    for title, language, default in (("Commentary", "eng", False), ("Music", "fra", True)):
        stream = made.container.add_stream("libopus", rate=48000, layout="stereo")
        stream.metadata["title"], stream.metadata["language"] = title, language
        stream.disposition = Disposition.default if default else 0
        streams.append(stream)
    for number, stream in enumerate(streams):
        for at in range(0, 48000, 960):
            block = np.ascontiguousarray(one[:, at : at + 960] * (number + 1) / 2)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, at, Fraction(1, 48000)
            made.packets += stream.encode(_as(stream, frame))
        made.packets += stream.encode(None)
    made.close()
    return path


def test_the_default_track_is_taken_or_the_one_asked_for(two_tracks):
    info = probe(two_tracks)
    assert [track.title for track in info.tracks] == ["Commentary", "Music"] and info.track == 2
    loud = np.abs(read(two_tracks)[0]).max()
    for wanted in (1, "1", "commentary", "eng", "comm"):
        chosen = probe(two_tracks, wanted)
        assert chosen.track == 1, wanted
        y, _ = read(two_tracks, info=chosen)
        assert np.abs(y).max() == pytest.approx(loud / 2, rel=0.1)
    assert probe(two_tracks, "fra").track == probe(two_tracks, "Music").track == 2
    for wrong in ("3", "0", "deu", "m"):
        with pytest.raises(InputError) as caught:
            probe(two_tracks, wrong)
        assert caught.value.code == "audio_track" and '1 (eng, "Commentary")' in caught.value.message


def test_a_file_with_one_track_has_track_1(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, music(1000).T, RATE)
    assert probe(path, "1").track == 1
    with pytest.raises(InputError, match="2"):
        probe(path, "2")


# Length


@pytest.mark.parametrize("frames", [1, 100, 1000, 5000, 12345, 22050, 40000, 60000])
def test_short_vorbis_files_give_every_frame(tmp_path, frames):
    x = music(frames)
    path = tmp_path / "a.ogg"
    for quality in (0.9, 0.2):  # 64 and 256 kbit/s
        with soundfile.SoundFile(path, "w", RATE, 2, "VORBIS", format="OGG", compression_level=quality) as file:
            file.write(x.T)
        y, reader = read(path)
        exact = soundfile.read(path, dtype="float32", always_2d=True)[0].T
        assert y.shape == x.shape == exact.shape and np.abs(y - exact).max() < 1e-5 and reader.warnings == []


# Channels


def test_channels_of_vorbis_come_in_the_order_of_wav(tmp_path):
    """Its own order is FL FC FR BL BR LFE; libsndfile passes samples through as they are stored."""
    hertz = {"FL": 500, "FC": 300, "FR": 700, "BL": 1100, "BR": 1300, "LFE": 60}
    t = np.arange(48000) / 48000
    x = np.stack([0.5 * np.sin(2 * np.pi * each * t) for each in hertz.values()]).astype(np.float32)
    path = tmp_path / "a.ogg"
    path.write_bytes(encoded(tmp_path, "ogg", x, 48000))
    y, reader = read(path)
    assert reader.info.layout == ("FL", "FR", "FC", "LFE", "BL", "BR")
    for name, channel in zip(reader.info.layout, y, strict=True):
        assert abs(int(np.abs(np.fft.rfft(channel[:48000])).argmax()) - hertz[name]) <= 1, name


# What is said


def test_an_mp4_without_index_was_interrupted(tmp_path):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(20) + struct.pack(">I4s", 100_008, b"mdat") + bytes(50_000))
    with pytest.raises(InputError) as caught:
        probe(path)
    assert caught.value.code == "no_index" and "interrupted" in caught.value.message


def test_a_playlist_opens_no_other_file(tmp_path):
    soundfile.write(tmp_path / "secret.wav", music(RATE).T, RATE)
    path = tmp_path / "a.m3u8"
    path.write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
        f"file://{tmp_path / 'secret.wav'}\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError):
        read(path)
    path.write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.wav'}\n")
    with pytest.raises(InputError):
        read(path)
