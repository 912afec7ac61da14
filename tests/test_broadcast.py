"""WAV chunks of a production: the time reference moves with the samples; what would be wrong is left out."""

import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sepcli import __version__
from sepcli.sound.broadcast import Chunks, read_chunks
from sepcli.sound.encode import AudioWriter
from sepcli.sound.probe import probe
from sepcli.sound.tags import read_tags
from tests.sounds import music

HOUR = 3600 * 44100
IXML = (
    b"<BWFXML><SCENE>1</SCENE><SPEED><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>0</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>"
    b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>158760000</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>"
    b"<TIMESTAMP_SAMPLE_RATE>44100</TIMESTAMP_SAMPLE_RATE></SPEED></BWFXML>"
)


def bext(reference=HOUR, version=2):
    loudness = struct.pack("<5h", -2300, 700, -100, -1800, -2000)
    parts = (b"A take".ljust(256, b"\0"), b"someone".ljust(32, b"\0"), b"ref".ljust(32, b"\0"))
    return (
        b"".join(parts)
        + b"2026-11-27"
        + b"10:00:00"
        + struct.pack("<QH", reference, version)
        + b"U" * 64
        + loudness
        + bytes(180)
        + b"A=PCM,F=44100\r\n"
    )


def recording(path, chunks=None, rate=44100):
    soundfile.write(path, music(rate).T, rate, "PCM_16")
    data = path.read_bytes()
    if chunks is None:
        chunks = {b"bext": bext(), b"iXML": IXML, b"acid": bytes(24), b"cue ": struct.pack("<I", 1) + bytes(24),
                  b"smpl": bytes(60), b"LIST": b"adtllabl\6\0\0\0\1\0\0\0A\0"}  # fmt: skip
    more = b"".join(
        name + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)
        for name, payload in chunks.items()
    )
    data = data[:12] + more + data[12:]
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return path


def names(path):
    data, at, found = path.read_bytes(), 12, []
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        found.append(name)
        at += 8 + size + size % 2
    return found


def stem(tmp_path, source, *, start=0, rate=44100, format="wav", name=""):
    found = read_tags(source, probe(source)).moved(start, 44100, rate).for_stem("vocals")
    path = tmp_path / (name or f"stem.{format}")
    x = music(1000)
    with AudioWriter(path, samplerate=rate, channels=2, format=format, tags=found) as writer:
        writer.write(x)
    assert soundfile.info(path).frames == 1000
    return path


def test_a_whole_file_keeps_everything_but_what_describes_the_mix(tmp_path):
    source = recording(tmp_path / "a.wav")
    path = stem(tmp_path, source)
    found = read_chunks(path)
    assert found.reference == HOUR and found.ixml == IXML
    assert found.timeline == read_chunks(source).timeline
    assert found.bext[:602] == read_chunks(source).bext[:602] and found.bext[:338] == bext()[:338]
    assert found.bext[348:412] == bytes(64) and found.bext[412:422] == b"\xff\x7f" * 5  # UMID, loudness
    assert b"acid" not in names(path) and set(names(path)) >= {b"bext", b"iXML", b"cue ", b"smpl", b"LIST"}
    assert names(path)[-1] == b"data"


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        (b"A=PCM,F=44100\r\n", "A=PCM,F=44100\r\n"),
        (b"A=PCM,F=44100\r\nA=MPEG1L3,B=128\r\n\0\0\0", "A=PCM,F=44100\r\nA=MPEG1L3,B=128\r\n"),
        (b"no end of line", "no end of line\r\n"),
        (b"", ""),
        (bytes(9), ""),
    ],
)
def test_the_coding_history_gets_a_line(tmp_path, history, kept):
    source = recording(tmp_path / "a.wav", {b"bext": bext()[:602] + history})
    written = read_chunks(stem(tmp_path, source)).bext[602:].decode()
    assert written == f"{kept}A=PCM,F=44100,W=24,M=stereo,T=sepcli {__version__}; vocals\r\n"
    again = stem(tmp_path, tmp_path / "stem.wav", name="again.wav")
    assert read_chunks(again).bext[602:].decode() == written + written.removeprefix(kept)


@pytest.mark.parametrize(
    ("depth", "channels", "text", "line"),
    [
        ("16", 1, "a, b", "A=PCM,F=96000,W=16,M=mono,T=a_ b"),
        ("32f", 6, "\u00fc\r\n", "A=PCM,F=96000,W=32,T=___; float; 6 channels"),
    ],
)
def test_a_line_of_coding_history_has_one_line_and_its_commas(depth, channels, text, line):
    ixml = b"<BWFXML><SPEED><AUDIO_BIT_DEPTH>24</AUDIO_BIT_DEPTH></SPEED></BWFXML>"
    coded = Chunks(bext()[:602], ixml).coded(96000, depth, channels, text)
    assert coded.bext[602:].decode() == line + "\r\n"
    assert b"<AUDIO_BIT_DEPTH>%s</" % depth.rstrip("f").encode() in coded.ixml
    assert Chunks().coded(96000, depth, channels, text) == Chunks()


def test_an_rf64_has_them_too(tmp_path):
    """As a recording of more than 4 GiB is."""
    source = recording(tmp_path / "a.wav")
    data = source.read_bytes()
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, len(data) + 28, 44100 * 4, 44100, 0)
    at = data.rindex(b"data") + 4
    (tmp_path / "b.wav").write_bytes(
        b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + data[12:at] + b"\xff" * 4 + data[at + 4 :]
    )
    assert read_chunks(tmp_path / "b.wav") == read_chunks(source)


@pytest.mark.parametrize(
    ("start", "rate", "reference"),
    [(22050, 44100, HOUR + 22050), (0, 48000, 3600 * 48000), (44100, 48000, 3601 * 48000)],
)
def test_the_time_reference_moves_with_the_samples(tmp_path, start, rate, reference):
    path = stem(tmp_path, recording(tmp_path / "a.wav"), start=start, rate=rate)
    found = read_chunks(path)
    assert found.reference == reference and not found.timeline
    assert b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>%d</" % reference in found.ixml
    assert b"<TIMESTAMP_SAMPLE_RATE>%d</" % rate in found.ixml and b"<SCENE>1</SCENE>" in found.ixml
    # FFmpeg's name for it is a text tag of other formats.
    other = stem(tmp_path, tmp_path / "a.wav", start=start, rate=rate, format="flac")
    assert read_tags(other, probe(other)).text["time_reference"] == str(reference)


def test_a_time_of_more_than_32_bits(tmp_path):
    late = (23 * 3600 + 59 * 60) * 192000
    assert late > 1 << 32
    high, low = divmod(late, 1 << 32)
    ixml = b"<A><BWF_TIME_REFERENCE_LOW>%d</BWF_TIME_REFERENCE_LOW>" % low
    ixml += b"<BWF_TIME_REFERENCE_HIGH>%d</BWF_TIME_REFERENCE_HIGH></A>" % high
    moved = Chunks(bext(late)[:602], ixml).moved(1 << 31, 192000, 192000)
    high, low = divmod(late + (1 << 31), 1 << 32)
    assert moved.reference == late + (1 << 31)
    assert b"LOW>%d<" % low in moved.ixml and b"HIGH>%d<" % high in moved.ixml


@pytest.mark.parametrize("broken", [b"", b"short", bext()[:347]])
def test_a_bext_that_is_too_short_is_left_out(tmp_path, broken):
    source = recording(tmp_path / "a.wav", {b"bext": broken, b"iXML": IXML})
    assert read_chunks(source) == Chunks(ixml=IXML)
    assert b"bext" not in names(stem(tmp_path, source))


def test_files_without_such_chunks_have_none(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros((10, 2)), 44100)
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 2)), 44100)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    for name in ("a.flac", "a.wav", "cut.wav"):
        assert read_chunks(tmp_path / name) == Chunks()
    assert names(stem(tmp_path, tmp_path / "a.wav")) == [b"JUNK", b"fmt ", b"LIST", b"data"]


def test_a_long_tail_of_nulls_or_of_tiny_chunks_ends_the_search(tmp_path):
    source = recording(tmp_path / "a.wav")
    expected = read_chunks(source)
    os.truncate(source, 4 << 30)
    assert read_chunks(source) == expected
    many = recording(tmp_path / "b.wav", {b"iXML": IXML})
    with many.open("ab") as file:
        file.write(b"abcd\0\0\0\0" * 100_000 + b"bext" + struct.pack("<I", 602) + bytes(602))
    assert read_chunks(many) == Chunks(ixml=IXML)


def test_chunks_do_not_go_into_other_formats_or_without_tags(tmp_path):
    source = recording(tmp_path / "a.wav")
    assert b"bext" not in stem(tmp_path, source, format="aiff").read_bytes()
    found = replace(read_tags(source, probe(source)), chunks=Chunks())
    with AudioWriter(tmp_path / "b.wav", samplerate=44100, channels=2, tags=found) as writer:
        writer.write(music(10))
    assert b"bext" not in names(tmp_path / "b.wav")
