"""Rendered songs: what lies on disk, that it repeats, and that it sounds as its labels say.

Where FluidSynth and a SoundFont are installed (CI installs them) real songs are rendered; the rest uses a fake
synthesiser of sines, and tiny handmade SoundFonts.
"""

import json
import struct

import numpy as np
import pytest
import soundfile

from sepcli.data.synthetic import effects, mixdown, render, sounds
from sepcli.data.synthetic.compose import compose
from sepcli.data.synthetic.instruments import GROUPS, KITS
from sepcli.data.synthetic.midi import read_notes
from sepcli.data.synthetic.soundfont import read_presets
from sepcli.errors import DeviceError, InputError, OutputError, UsageError
from tests.needs import SOUNDFONTS, need

RATE = 8000  # Hz, of the fake renders


def soundfont(path, presets):
    """A file with preset headers only. presets: (bank, program, name)."""
    records = b"".join(
        struct.pack("<20sHHHIII", name.encode(), program, bank, 0, 0, 0, 0)
        for bank, program, name in [*presets, (0, 0, "EOP")]
    )
    chunk = b"phdr" + struct.pack("<I", len(records)) + records
    other = b"LIST" + struct.pack("<I", 10) + b"INFO" + b"isng" + b"\0\0"
    body = b"sfbk" + other + b"LIST" + struct.pack("<I", 4 + len(chunk)) + b"pdta" + chunk
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.fixture
def general_midi(tmp_path):
    presets = {preset for group in GROUPS.values() for preset in group.presets}
    presets |= {(128, program) for programs in KITS.values() for program in programs}
    named = [(bank, program, f"Preset {bank}-{program}") for bank, program in sorted(presets)]
    return soundfont(tmp_path / "gm.sf2", named)


@pytest.fixture
def fake(monkeypatch, general_midi):
    """Settings whose synthesiser plays decaying sines, in milliseconds."""

    def sines(midi, path, *, samplerate, frames, **kind):
        out = np.zeros((2, frames), dtype=np.float32)
        times = np.arange(samplerate // 4) / samplerate
        seconds_a_beat = 60 / tempo_of(midi)
        for note in read_notes(midi):
            begin = int(note.start * seconds_a_beat * samplerate)
            wave = np.sin(2 * np.pi * 440 * 2 ** ((note.pitch - 69) / 12) * times) * np.exp(-20 * times)
            wave = wave[: max(0, frames - begin)]
            out[:, begin : begin + len(wave)] += note.velocity / 127 * wave.astype(np.float32)
        return out

    monkeypatch.setattr(sounds, "synthesise", sines)
    monkeypatch.setattr(render, "find_fluidsynth", lambda: "fluidsynth")
    return render.RenderSettings((general_midi,), None, samplerate=RATE)


def tempo_of(midi):
    import mido

    return 60e6 / next(m.tempo for m in mido.MidiFile(midi).tracks[0] if m.type == "set_tempo")


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_song_on_disk(fake, tmp_path):
    done = []
    seconds = render.render_dataset(
        tmp_path / "out", hours=0.01, seed=5, settings=fake, done=lambda song, total: done.append((song, total))
    )
    assert [song.name for song, _ in done] == ["song-5-00000"] and done[0][0].new and done[0][1] == seconds
    folder = tmp_path / "out" / "song-5-00000"
    assert sorted(read_all(folder)) == ["bass.flac", "drums.flac", "other.flac", "song.json"]
    stems = {path.stem: soundfile.read(path, always_2d=True) for path in folder.glob("*.flac")}
    shapes = {audio.shape for audio, _ in stems.values()}
    facts = json.loads((folder / "song.json").read_text())
    assert shapes == {(round(facts["seconds"] * RATE), 2)}
    assert seconds == pytest.approx(facts["seconds"])
    assert facts["soundfont"] == "gm.sf2" and facts["seed"] == 5 and facts["tempo"] > 0
    assert {part["label"] for part in facts["parts"]} >= {"drums", "bass"}
    mix = sum(audio for audio, _ in stems.values())
    assert np.abs(mix).max() < 1 and all(0.01 < np.abs(audio).max() < 1 for audio, _ in stems.values())
    assert soundfile.info(folder / "bass.flac").subtype == "PCM_16"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["song-5-00000"]  # nothing hidden is left


@pytest.mark.slow
def test_the_same_whatever_else_is_rendered(fake, tmp_path):
    for name, hours in (("one", 0.01), ("three", 0.06)):
        render.render_dataset(tmp_path / name, hours=hours, seed=1, settings=fake)
    assert len(list((tmp_path / "three").iterdir())) > 1
    assert read_all(tmp_path / "one" / "song-1-00000") == read_all(tmp_path / "three" / "song-1-00000")
    third = render.render_song(tmp_path / "one", 1, fake, 1)
    assert read_all(tmp_path / "one" / third.name) == read_all(tmp_path / "three" / third.name)


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(fake, tmp_path):
    out = tmp_path / "out"
    render.render_dataset(out, hours=0.06, seed=1, settings=fake)
    count = len(list(out.iterdir()))
    before = read_all(out / "song-1-00000")
    # As if killed: the last song half done.
    (out / "song-1-00001").rename(out / ".song-1-00001.unfinished")
    (out / ".song-1-00001.unfinished" / "song.json").unlink()
    new = []
    render.render_dataset(out, hours=0.06, seed=1, settings=fake, done=lambda song, total: new.append(song))
    assert [song.new for song in new] == [song.name == "song-1-00001" for song in new]
    assert len(list(out.iterdir())) == count and read_all(out / "song-1-00000") == before


@pytest.mark.slow
def test_groupings(fake, tmp_path):
    slakh = render.RenderSettings(fake.soundfonts, None, stems="slakh", samplerate=RATE, channels=1)
    song = render.render_song(tmp_path, 0, slakh, 0)
    folder = tmp_path / song.name
    assert sorted(path.stem for path in folder.glob("*.flac")) == ["bass", "drums", "guitar", "piano"]
    for path in folder.glob("*.flac"):
        audio, _ = soundfile.read(path)
        assert audio.ndim == 1 and np.abs(audio).max() > 0.003, path.stem


@pytest.mark.slow
def test_a_stem_does_not_hear_the_others(fake, monkeypatch, tmp_path):
    """The drums alone are as they are beside everything else, up to the common mastering gain."""
    song = compose(0, 3)
    monkeypatch.setattr(mixdown, "finish", lambda rng, stems, samplerate: dict(stems))
    monkeypatch.setattr(mixdown, "duck_parts", lambda rng, parts, *rest: list(parts))
    whole, _ = render.render_stems(song, fake, tmp_path)
    monkeypatch.setitem(render.GROUPINGS, "four", {"drums": "drums", "percussion": "drums"})
    alone, _ = render.render_stems(song, fake, tmp_path)
    assert np.array_equal(whole["drums"], alone["drums"])


@pytest.mark.slow
def test_presets_come_from_the_soundfont(tmp_path, fake):
    few = soundfont(tmp_path / "few.sf2", [(0, 38, "Synth Bass"), (0, 0, "Piano"), (128, 0, "Kit")])
    settings = render.RenderSettings((few,), None, samplerate=RATE)
    render.render_song(tmp_path, 0, settings, 1)
    facts = json.loads((tmp_path / "song-0-00001" / "song.json").read_text())
    names = {name.split(" ", 1)[1] for part in facts["parts"] for name in part["sounds"] if ":" in name}
    assert names and names <= {"Synth Bass", "Piano", "Kit"}


def test_read_presets(tmp_path):
    path = soundfont(tmp_path / "a.sf2", [(0, 5, "Electric"), (128, 0, "Kit")])
    assert read_presets(path) == {(0, 5): "Electric", (128, 0): "Kit"}


def test_clear_errors(fake, tmp_path, monkeypatch):
    def check(**changes):
        from dataclasses import replace

        render.check_settings(replace(fake, **changes))

    with pytest.raises(UsageError, match="four, slakh"):
        check(stems="five")
    with pytest.raises(UsageError, match="SoundFont") as caught:
        check(soundfonts=())
    assert "fluid-soundfont-gm" in caught.value.remedy
    with pytest.raises(InputError, match="The SoundFont '.*none.sf2' does not exist") as caught:
        check(soundfonts=(tmp_path / "none.sf2",))
    assert "apt install" in caught.value.remedy
    for content in (b"", b"RIFFxxxxWAVE", b"RIFF" + b"\0" * 4 + b"sfbk" + b"LIST" + struct.pack("<I", 90)):
        (tmp_path / "bad.sf2").write_bytes(content)
        with pytest.raises(InputError, match="no SoundFont"):
            check(soundfonts=(tmp_path / "bad.sf2",))
    with pytest.raises(InputError, match="info.csv"):
        check(drums=tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="FluidSynth is not installed") as caught:
        check()
    assert "apt install fluidsynth" in caught.value.remedy


def test_a_failed_song_leaves_nothing(fake, monkeypatch, tmp_path):
    def broken(*arguments, **more):
        raise OutputError("FluidSynth could not render.", remedy="Look.")

    monkeypatch.setattr(sounds, "synthesise", broken)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError):
        render.render_song(tmp_path / "out", 0, fake, 0)
    assert list((tmp_path / "out").iterdir()) == []


# --- how it is processed ---


def noise(seconds=2.0, rate=44100, seed=0):
    return np.random.default_rng(seed).standard_normal((2, int(seconds * rate))).astype(np.float32) * 0.1


def test_levels_of_finished_stems():
    rate = 44100
    raw = {"drums": noise(seed=1) * 5, "bass": noise(seed=2) * 0.01, "other": noise(seed=3)}
    for seed in range(6):
        stems = mixdown.finish(np.random.default_rng(seed), raw, rate)
        mix = sum(stems.values())
        assert np.abs(mix).max() <= mixdown.PEAK + 1e-6
        assert max(np.abs(audio).max() for audio in stems.values()) <= mixdown.PEAK + 1e-6
        levels = {name: 20 * np.log10(effects.active_rms(audio, rate)) for name, audio in stems.items()}
        assert all(-32 < level < -8 for level in levels.values()), levels
        assert max(levels.values()) - min(levels.values()) < 20


def test_silence_stays_silent():
    silence = np.zeros((2, 44100), dtype=np.float32)
    stems = mixdown.finish(np.random.default_rng(0), {"drums": silence, "bass": noise(1.0)}, 44100)
    assert not stems["drums"].any()
    for label in ("drums", "bass", "guitar", "synth", "vocals"):
        for seed in range(4):
            out = mixdown.process_part(
                np.random.default_rng(seed),
                silence,
                44100,
                label=label,
                group="",
                role="lead",
                beat_seconds=0.5,
                machine=True,
            )
            assert not out.any()


def test_eq_changes_what_it_says():
    audio = noise()
    before = effects.octave_levels(audio, 44100)
    assert np.allclose(effects.colour(audio, 44100, effects.eq()), audio, atol=1e-5)
    bell = effects.eq(bells=[(1000.0, 12.0, 0.3)])
    assert bell(np.array([1000.0]))[0] == pytest.approx(12)
    cut = effects.octave_levels(effects.colour(audio, 44100, effects.eq(high_cut=500.0)), 44100)
    assert cut[-1] - cut[2] < before[-1] - before[2] - 40


def test_slope_bells_bring_a_spectrum_to_the_line():
    audio = effects.colour(noise(5.0), 44100, effects.eq(tilt=-6.0))
    for slope in (-3.0, -6.0):
        levels = effects.octave_levels(audio, 44100)
        out = effects.colour(audio, 44100, effects.eq(bells=effects.slope_bells(levels, slope, 1.0)))
        found = effects.octave_levels(out, 44100)
        line = levels[2:5].max() + slope * np.arange(1, 5)
        wanted = np.clip(line, levels[5:] - 10, levels[5:] + 14)
        shift = found[2] - levels[2]  # levels are relative to the whole, which has changed
        assert np.abs(found[5:8] - shift - wanted[:3]).max() < 3


def test_limiting_together_keeps_the_sum():
    stems = [noise(seed=number) * 4 for number in range(3)]
    limited = effects.limit_together(stems, 44100, 0.5)
    assert np.abs(sum(limited)).max() <= 0.5 + 1e-4
    ratio = sum(limited) / np.where(np.abs(sum(stems)) > 0.1, sum(stems), np.nan)
    each = limited[0] / np.where(np.abs(sum(stems)) > 0.1, stems[0], np.nan)
    assert np.nanmax(np.abs(ratio - each)) < 1e-3  # one gain for all


def test_compression_evens_out_and_ducking_presses_down():
    quiet_loud = np.concatenate([noise(1.0) * 0.1, noise(1.0)], axis=1)
    squashed = effects.compress(quiet_loud, 44100, threshold=-20, ratio=8, attack=0.005, release=0.05)
    spread = [
        np.ptp([20 * np.log10(audio[:, begin : begin + 30000].std()) for begin in (10000, 54100)])
        for audio in (quiet_loud, squashed)
    ]
    assert spread[1] < spread[0] - 6
    ducked = effects.duck(noise(2.0), 44100, [1.0], depth=12, recovery=0.2)
    rms = [ducked[:, int(at * 44100) : int((at + 0.03) * 44100)].std() for at in (0.9, 1.005, 1.5)]
    assert rms[1] < 0.5 * rms[0] and rms[2] == pytest.approx(rms[0], rel=0.1)


def test_drive_adds_harmonics_at_the_same_level():
    times = np.arange(44100) / 44100
    sine = np.stack([np.sin(2 * np.pi * 200 * times)] * 2).astype(np.float32) * 0.2
    driven = effects.drive(sine, 44100, 20.0)
    spectrum = np.abs(np.fft.rfft(driven[0]))
    assert spectrum[600] > 0.1 * spectrum[200]
    assert effects.active_rms(driven, 44100) == pytest.approx(effects.active_rms(sine, 44100), rel=0.02)


@pytest.mark.parametrize("samples", [1, 2, 7, 1000, 44101, 123457])
def test_fast_length(samples):
    length = effects.fast_length(samples)
    assert samples <= length < 2 * samples + 1
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1


# --- the real synthesiser ---


@pytest.mark.slow
def test_a_real_song(tmp_path):
    need("fluidsynth", "soundfont")
    settings = render.RenderSettings((SOUNDFONTS[0],), None)
    song = compose(0, 0)
    (tmp_path / "scratch").mkdir()
    stems, facts = render.render_stems(song, settings, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    frames = {audio.shape for audio in stems.values()}
    assert frames == {(2, round(facts["seconds"] * 44100))}
    bands = {name: effects.octave_levels(audio, 44100) for name, audio in stems.items()}
    below_250 = {name: 10 * np.log10(np.sum(10 ** (levels[:2] / 10))) for name, levels in bands.items()}
    assert below_250["bass"] > -6 and below_250["bass"] > below_250["other"]
    above_2000 = {name: 10 * np.log10(np.sum(10 ** (levels[6:] / 10))) for name, levels in bands.items()}
    assert above_2000["drums"] > above_2000["bass"] + 6
    # The drums strike when their notes say so.
    kicks = [note.start * 60 / song.tempo for note in song.parts[0].notes if note.pitch in (35, 36)]
    level = effects.block_levels(stems["drums"], 441)
    rises = [
        level[int(t * 100) : int(t * 100) + 8].max() - level[max(0, int(t * 100) - 3)] for t in kicks[4:40]
    ]
    assert np.mean(np.array(rises) > 0) > 0.8


@pytest.mark.slow
def test_fluidsynth_is_deterministic(tmp_path):
    need("fluidsynth", "soundfont")
    settings = render.RenderSettings((SOUNDFONTS[0],), None, samplerate=22050, channels=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        render.render_song(tmp_path / name, 2, settings, 0)
    assert read_all(tmp_path / "a" / "song-2-00000") == read_all(tmp_path / "b" / "song-2-00000")


@pytest.mark.slow
def test_two_jobs_make_the_same_songs(tmp_path):
    need("fluidsynth", "soundfont")
    settings = render.RenderSettings((SOUNDFONTS[0],), None, samplerate=16000, channels=1)
    for name, jobs in (("one", 1), ("two", 2)):
        render.render_dataset(tmp_path / name, hours=0.06, seed=4, settings=settings, jobs=jobs)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) >= 2 and names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert read_all(tmp_path / "one" / name) == read_all(tmp_path / "two" / name)


# --- the command ---


@pytest.mark.slow
def test_the_command(fake, tmp_path, capsys):
    from sepcli.cli.app import main

    command = [
        "dataset",
        "render",
        str(tmp_path / "out"),
        "--hours",
        "0.01",
        "--seed",
        "5",
        "--samplerate",
        str(RATE),
        "--soundfont",
        str(fake.soundfonts[0]),
    ]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("1 song, ") and "(1 new)" in said.out
    assert "every drum part is programmed" in said.err
    assert main([*command, "-q"]) == 0
    said = capsys.readouterr()
    assert "(0 new)" in said.out and said.err == ""


@pytest.mark.parametrize(
    "changed, code, words",
    [
        (["--soundfont", "nowhere.sf2"], 1, "The SoundFont 'nowhere.sf2' does not exist."),
        (["--stems", "five"], 2, "no grouping of stems named 'five'"),
        (["--drums", "nowhere"], 1, "no readable info.csv"),
        (["--samples", "nowhere"], 1, "no drum one-shots"),
        (["--jobs", "0"], 2, "jobs"),
    ],
)
def test_the_command_says_what_is_wrong(fake, tmp_path, capsys, changed, code, words):
    from sepcli.cli.app import main

    given = [] if "--soundfont" in changed else ["--soundfont", str(fake.soundfonts[0])]
    assert main(["dataset", "render", str(tmp_path / "out"), *given, *changed]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
