"""What `sepcli dataset check` finds: each fault is planted, and only what is planted is reported."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sepcli.cli.app import main
from sepcli.data import check
from sepcli.data.check import BLOCK, Limits, check_dataset
from sepcli.errors import InputError
from tests.sounds import music
from tests.stems import RATE, track, write

STEMS = ("bass", "drums", "vocals")


def reports(root, **options):
    return {report.name: report for report in check_dataset(root, **options)}


def kinds(report):
    return [problem.kind for problem in report.problems]


def mixed(folder, sounds, mixture, rate=RATE, suffix=".wav"):
    """A track's folder with these stems and this mixture."""
    for name, sound in {**sounds, "mixture": mixture}.items():
        write(folder / f"{name}{suffix}", sound, rate)


def noises(seconds=6.0, stems=STEMS, rate=RATE):
    random = np.random.default_rng(0)
    frames = round(seconds * rate)
    return {name: (0.1 * random.standard_normal((2, frames))).astype(np.float32) for name in stems}


def later(sound, samples):
    """[C, T] moved by `samples`, as long as before."""
    early, late = max(0, -samples), max(0, samples)
    return np.pad(sound, ((0, 0), (late, early)))[:, early:][:, : sound.shape[1]]


def test_a_good_track(tmp_path):
    sounds = track(tmp_path / "song", STEMS, mixture=True, seconds=5)
    counts = []
    (report,) = check_dataset(tmp_path, begun=counts.append)
    assert counts == [1] and report.problems == () and report.seconds == 5.0
    assert (report.mixture.samplerate, report.mixture.channels) == (RATE, 2)
    drums = report.stems["drums"]
    assert drums.peak_dbfs == pytest.approx(20 * np.log10(np.abs(sounds["drums"]).max()), abs=1e-3)
    assert drums.rms_dbfs == pytest.approx(10 * np.log10((sounds["drums"].astype(float) ** 2).mean()), abs=1e-3)
    assert report.sum.snr_db > 120 and set(report.sum.lag_samples.values()) == {0} and not report.sum.inverted


def test_without_a_mixture_there_is_nothing_to_add_up_to(tmp_path):
    track(tmp_path / "song", STEMS)
    (report,) = check_dataset(tmp_path)
    assert report.sum is None and report.mixture is None and report.problems == ()


@pytest.mark.parametrize("gain", [0.0, 0.0009])
def test_a_silent_stem(tmp_path, gain):
    sounds = track(tmp_path / "song", STEMS)
    quiet = gain * sounds["bass"] / np.abs(sounds["bass"]).max()
    write(tmp_path / "song" / "bass.wav", quiet)
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == ["silent"] and "bass" in report.problems[0].message
    assert report.stems["bass"].peak_dbfs == pytest.approx(-200 if gain == 0 else -60.9, abs=0.1)
    assert kinds(next(check_dataset(tmp_path, limits=Limits(silent=-90)))) == (["silent"] if gain == 0 else [])


def test_one_loud_sample_is_not_silence(tmp_path):
    sound = np.zeros((2, 9 * BLOCK // 4), np.float32)
    sound[1, -1] = 0.5
    write(tmp_path / "song" / "bass.wav", sound)
    assert next(check_dataset(tmp_path)).problems == ()


def test_stems_of_different_lengths(tmp_path):
    track(tmp_path / "song", STEMS)
    write(tmp_path / "song" / "bass.wav", music(2 * RATE))
    track(tmp_path / "close", STEMS)
    write(tmp_path / "close" / "bass.wav", music(3 * RATE + 300))
    found = reports(tmp_path)
    assert kinds(found["song"]) == ["lengths"] and found["song"].seconds == 3.0
    assert "bass 2.00 s" in found["song"].problems[0].message and kinds(found["close"]) == []


@pytest.mark.parametrize("lag", [1, -37, 1105, -4000])
def test_a_stem_that_is_late_or_early(tmp_path, lag):
    sounds = noises()
    # The file is early by `lag` against what is in the mixture.
    mixture = sounds["bass"] + sounds["drums"] + later(sounds["vocals"], lag)
    mixed(tmp_path / "song", sounds, mixture)
    (report,) = check_dataset(tmp_path)
    assert report.sum.lag_samples == {"bass": 0, "drums": 0, "vocals": lag} and kinds(report) == ["lag"]
    message = report.problems[0].message
    assert f"vocals is {abs(lag)} samples" in message and ("early" if lag > 0 else "late") in message
    assert report.sum.snr_db == pytest.approx(10 * np.log10(3 / 2), abs=0.2)


def test_all_stems_late(tmp_path):
    sounds = noises()
    mixed(tmp_path / "song", sounds, later(sum(sounds.values()), -500))
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == ["lag"] and report.sum.common_lag_samples == -500 and not report.sum.lag_samples
    assert "The sum of the stems is 500 samples (62.5 ms) late" in report.problems[0].message


def test_a_stem_upside_down(tmp_path):
    sounds = noises()
    mixed(tmp_path / "song", sounds, sounds["bass"] - sounds["drums"] + sounds["vocals"])
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == ["polarity"] and report.sum.inverted == ("drums",)


def test_a_mixture_at_another_level(tmp_path):
    sounds = noises()
    mixed(tmp_path / "song", sounds, 0.5 * sum(sounds.values()))
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == ["level"] and report.sum.gain_db == pytest.approx(-6.02, abs=0.01)
    assert report.sum.snr_db == pytest.approx(0, abs=0.01) and report.sum.snr_after_gain_db > 80


def test_a_stem_that_is_missing(tmp_path):
    sounds = noises()
    mixture = sum(sounds.values())
    del sounds["vocals"]
    mixed(tmp_path / "song", sounds, mixture)
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == ["sum"] and report.sum.snr_db == pytest.approx(10 * np.log10(3), abs=0.1)
    assert kinds(next(check_dataset(tmp_path, limits=Limits(snr=4)))) == []


def test_lossy_stems_pass(tmp_path):
    rate = 48000
    sounds = {name: 0.2 * music(4 * rate, 2, rate, seed) for seed, name in enumerate(STEMS)}
    mixed(tmp_path / "song", sounds, sum(sounds.values()), rate, ".ogg")
    (report,) = check_dataset(tmp_path)
    assert kinds(report) == [] and 20 < report.sum.snr_db < 60


def test_files_of_another_rate_and_other_channels_are_compared_too(tmp_path):
    sounds = {name: music(4 * 16000, 1, 16000, seed, noise=0) for seed, name in enumerate(STEMS)}
    mixed(tmp_path / "song", sounds, sum(sounds.values()), 16000)
    halved = np.repeat(music(4 * 32000, 1, 32000, 0, noise=0), 2, axis=0)  # bass again, at 32 kHz in stereo
    write(tmp_path / "song" / "bass.wav", halved, 32000)
    (report,) = check_dataset(tmp_path)
    bass = report.stems["bass"]
    assert report.problems == () and (bass.samplerate, bass.channels) == (32000, 2)


def test_what_cant_be_read(tmp_path):
    track(tmp_path / "good", STEMS)
    track(tmp_path / "text", STEMS, mixture=True)
    (tmp_path / "text" / "bass.wav").write_text("not audio")
    track(tmp_path / "nan", STEMS, mixture=True)
    sound = music(3 * RATE)
    sound[0, 20000] = np.nan
    write(tmp_path / "nan" / "drums.wav", sound)
    track(tmp_path / "cut", STEMS, suffix=".flac", seconds=20)
    whole = (tmp_path / "cut" / "bass.flac").read_bytes()
    (tmp_path / "cut" / "bass.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "bass.wav").write_bytes(b"")
    found = reports(tmp_path)
    assert list(found) == ["cut", "good", "nan", "none", "text"]
    assert {name: kinds(report) for name, report in found.items()} == {
        "cut": ["broken"], "good": [], "nan": ["not_finite"], "none": ["broken"], "text": ["broken"],
    }  # fmt: skip
    assert found["text"].sum is None and found["nan"].sum is None
    assert "2.500 s" in found["nan"].problems[0].message and "drums.wav" in found["nan"].problems[0].message
    assert found["none"].stems == {} and "bass.wav" in found["none"].problems[0].message


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    shapes = set()
    original = check._Comparison.add
    monkeypatch.setattr(check._Comparison, "add", lambda self, b: shapes.add(b.shape) or original(self, b))
    track(tmp_path / "song", ["drums"], seconds=60, mixture=True)
    assert next(check_dataset(tmp_path)).problems == ()
    assert shapes == {(2, 2, BLOCK)}


def test_pools(tmp_path):
    write(tmp_path / "drums" / "kick.wav", music(500, 1))
    write(tmp_path / "drums" / "rest.wav", np.zeros((1, 500)))
    found = reports(tmp_path)
    assert kinds(found["drums/kick.wav"]) == [] and kinds(found["drums/rest.wav"]) == ["silent"]


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="looked for"):
        list(check_dataset(tmp_path))


# The command


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["dataset", "check", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_command_prints_a_line_a_track(tmp_path, run):
    track(tmp_path / "A long name", STEMS, mixture=True)
    code, out, err = run(tmp_path)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2 and lines[0].split()[:4] == ["TRACK", "LENGTH", "RATE", "CH"]
    assert lines[1].startswith("A long name  0:03    8000  2   bass -") and lines[1].endswith("  -")
    assert "1 track, no problems." in err


def test_the_command_fails_where_there_are_problems(tmp_path, run):
    track(tmp_path / "good", STEMS)
    track(tmp_path / "quiet", STEMS)
    write(tmp_path / "quiet" / "bass.wav", np.zeros((2, 3 * RATE)))
    code, out, err = run(tmp_path)
    assert code == 1 and "quiet: bass is silent: its peak is 0, digital silence." in out
    assert "2 tracks, 1 with problems." in err
    code, out, err = run(tmp_path, "--json", "-q")
    good, quiet = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and err == "" and good["problems"] == [] and good["stems"]["drums"]["samplerate"] == RATE
    message = "bass is silent: its peak is 0, digital silence."
    assert quiet["problems"] == [{"kind": "silent", "message": message}]
    assert run(tmp_path, "--silent", -300)[0] == 0


def test_the_command_on_nothing(tmp_path, run):
    code, out, err = run(tmp_path, "--layout", "slakh")
    assert code == 1 and out == "" and "TrackNNNNN" in err
    assert run(tmp_path, "--layout", "tracks")[0] == 2


def test_its_help_is_instant():
    code = (
        "import sys; from sepcli.cli.app import main; main(['dataset', 'check', '--help'])\n"
        "assert not {'torch', 'soundfile', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--min-snr" in done.stdout, done.stderr
