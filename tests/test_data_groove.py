"""Human drums: a folder as the Groove MIDI Dataset is, performances cut to fit."""

import mido
import numpy as np
import pytest

from sepcli.data.synthetic import groove
from sepcli.data.synthetic.compose import compose
from sepcli.data.synthetic.midi import read_notes, write_part
from sepcli.data.synthetic.score import Control, Note
from sepcli.errors import InputError

HEADER = "drummer,session,id,style,bpm,beat_type,time_signature,midi_filename,audio_filename,duration,split\n"


def performance(path, notes, bpm=100):
    """notes: (beat, pitch) pairs, as the Roland kit sends them."""
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(60e6 / bpm))])
    events = sorted(
        [(beat, "note_on", pitch) for beat, pitch in notes]
        + [(beat + 0.1, "note_off", pitch) for beat, pitch in notes]
    )
    now = 0
    for beat, kind, pitch in events:
        tick = round(beat * 480)
        velocity = 90 if kind == "note_on" else 0
        track.append(mido.Message(kind, channel=9, note=pitch, velocity=velocity, time=tick - now))
        now = tick
    path.parent.mkdir(parents=True, exist_ok=True)
    mido.MidiFile(type=0, ticks_per_beat=480, tracks=[track]).save(path)


@pytest.fixture
def folder(tmp_path):
    rows = []

    def add(name, style, bpm, kind, notes, meter="4-4"):
        performance(tmp_path / name, notes, bpm)
        rows.append(f"drummer1,s,s/1,{style},{bpm},{kind},{meter},{name},x.wav,10.0,train\n")

    # Four bars: kick 1 and 3, snare 2 and 4 (rim in the third bar), hats on eighths played on the edge.
    beat = [
        (bar * 4 + place, pitch)
        for bar in range(4)
        for place, pitch in [(0, 36), (2, 36), (1, 40 if bar == 2 else 38), (3, 38)]
    ]
    beat += [(eighth / 2 + 0.01, 22) for eighth in range(32)]
    add("d1/rock.mid", "rock/1", 100, "beat", beat)
    add("d1/funk.mid", "funk", 120, "beat", beat)
    add("d1/fill.mid", "rock", 104, "fill", [(step / 4, 48 if step < 8 else 43) for step in range(16)])
    add("d1/waltz.mid", "jazz", 100, "beat", [(0, 36), (1, 38), (2, 38)], meter="3-4")
    (tmp_path / "info.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def test_find(folder):
    found = groove.find_grooves(folder).performances
    assert [one.path.name for one in found] == ["fill.mid", "funk.mid", "rock.mid", "waltz.mid"]
    rock = found[2]
    assert (rock.style, rock.tempo, rock.fill, rock.beats_per_bar) == ("rock", 100, False, 4)


def test_pads_become_general_midi(folder):
    rock = groove.find_grooves(folder).performances[2]
    notes = groove.drum_notes(rock.path)
    assert {note.pitch for note in notes} == {36, 38, 42}  # rim and edge are the drum and the hat
    assert groove.bars_of(rock) == 4
    assert set(groove.TD11_TO_GM.values()) <= set(range(35, 60))


def test_suiting_tempo_style_and_meter(folder):
    grooves = groove.find_grooves(folder)

    def names(tempo, styles, **more):
        given = {"fill": False, "beats_per_bar": 4, **more}
        return [one.path.name for one in grooves.suiting(tempo, styles, **given)]

    assert names(105, ["rock"]) == ["rock.mid"]
    assert names(110, ["rock", "funk"]) == ["funk.mid", "rock.mid"]
    assert names(110, ["metal"]) == ["funk.mid", "rock.mid"]  # any style rather than none
    assert names(160, ["rock"]) == []
    assert names(100, [], fill=True) == ["fill.mid"]
    assert names(100, [], beats_per_bar=3) == ["waltz.mid"]


def test_cut_is_moved_and_keeps_the_timing(folder):
    rock = groove.find_grooves(folder).performances[2]
    notes = groove.cut(rock, bar=1, bars=2, at=20)
    assert min(note.start for note in notes) == 20
    assert all(20 <= note.start < 28 for note in notes)
    hats = [note.start for note in notes if note.pitch == 42]
    assert len(hats) == 16 and np.allclose(np.array(hats) * 2 % 1, 0.02, atol=0.005)  # late, as played


def test_loop_fills_the_section_and_ends_with_a_fill(folder):
    grooves = groove.find_grooves(folder)
    rock = grooves.performances[2]
    notes = groove.loop(
        np.random.default_rng(0), rock, grooves.performances[:1], start=8, bars=7, phrase=2, fill_share=1.0
    )
    assert all(8 <= note.start < 8 + 28 for note in notes)
    bars = {int((note.start - 8) // 4) for note in notes if note.pitch == 36}
    assert bars == set(range(6))
    last = [note.pitch for note in notes if note.start >= 8 + 24]
    assert set(last) == {50, 43}  # the fill's toms alone
    plain = groove.loop(np.random.default_rng(0), rock, [], start=8, bars=7, phrase=2)
    assert {int((note.start - 8) // 4) for note in plain if note.pitch == 36} == set(range(7))


@pytest.mark.slow
def test_songs_are_played_by_the_humans(folder):
    grooves = groove.find_grooves(folder)
    songs = [compose(0, index, grooves) for index in range(40)]
    human = [song for song in songs if song.drummer == "human"]
    assert human and all(abs(song.tempo / 110 - 1) < 0.35 for song in human)
    for song in human:
        if song.beats_per_bar == 4:
            hats = np.array([note.start for note in song.parts[0].notes if note.pitch == 42])
            assert np.median(hats * 2 % 1) == pytest.approx(0.02, abs=0.005)  # the drummer's own timing


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "no readable info.csv"),
        ("", "lacks the columns"),
        ("style,bpm\nrock,100\n", "beat_type, time_signature, midi_filename"),
        (HEADER + "d,s,i,rock,100,beat,4-4,gone.mid,x,1,train\n", "None of the 1 rows"),
    ],
)
def test_a_folder_of_another_kind(tmp_path, text, words):
    if text is not None:
        (tmp_path / "info.csv").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        groove.find_grooves(tmp_path)
    assert "Groove MIDI Dataset" in caught.value.remedy


def test_broken_midi_is_named(tmp_path):
    (tmp_path / "x.mid").write_bytes(b"MThd\0\0\0\6\0\0")
    with pytest.raises(InputError, match="x.mid"):
        read_notes(tmp_path / "x.mid")


def test_midi_round_trip(tmp_path):
    notes = [Note(0.0, 1.0, 60, 100), Note(0.5, 2.0, 64, 80), Note(1.0, 0.5, 60, 90)]
    write_part(
        tmp_path / "a.mid",
        notes,
        [Control(0.25, "bend", -1.0), Control(1.0, "modulation", 0.5)],
        tempo=90,
        beats=8,
        bank=8,
        program=4,
        drums=False,
        pan=0.5,
    )
    assert read_notes(tmp_path / "a.mid") == notes
    file = mido.MidiFile(tmp_path / "a.mid")
    assert file.length == pytest.approx(8 * 60 / 90, abs=0.01)
    messages = list(file.tracks[0])
    assert {m.program for m in messages if m.type == "program_change"} == {4}
    assert [m.value for m in messages if m.is_cc(0)] == [8]
    assert [m.pitch for m in messages if m.type == "pitchwheel"] == [round(-8192 / 12)]


def test_a_key_struck_again_is_released_first(tmp_path):
    write_part(
        tmp_path / "a.mid",
        [Note(0.0, 4.0, 60, 100), Note(1.0, 1.0, 60, 90)],
        [],
        tempo=120,
        beats=4,
        bank=0,
        program=0,
        drums=False,
    )
    assert read_notes(tmp_path / "a.mid") == [Note(0.0, 1.0, 60, 100), Note(1.0, 1.0, 60, 90)]
