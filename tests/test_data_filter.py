"""The quality matrix: the decision on the published examples, the measurement on a model that hears bands."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from sepcli import loading
from sepcli.cli.app import main
from sepcli.data import filter as filtering
from sepcli.data import quality, quality_report
from sepcli.data.quality import Row, Rule, SegmentPower, Verdict, judge, measure_song, measure_stem, shares_of
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment, Separator
from sepcli.engine.settings import Settings
from sepcli.errors import InputError, OutputError, UsageError
from tests.toys import Split

RATE = 8000
STEMS = ("vocals", "drums", "bass", "other")
HERTZ = {"vocals": 1000, "drums": 3000, "bass": 100, "other": 2000}


class Bands(Separator):
    """Hears each stem where HERTZ has it, a band of 500 Hz; what is in no band it hears nowhere."""

    def __init__(self, sources=STEMS, samplerate=RATE):
        super().__init__()
        self.sources, self.samplerate, self.channels = tuple(sources), samplerate, 2
        self.segment = Segment(samples=2 * samplerate)
        self.calls = 0

    def forward(self, mix, *, noise=None):
        self.calls += 1
        spectrum = torch.fft.rfft(mix)
        hertz = torch.fft.rfftfreq(mix.shape[-1], 1 / self.samplerate)
        masks = torch.stack([(hertz - HERTZ[name]).abs() < 250 for name in self.sources])
        return torch.fft.irfft(spectrum[:, None] * masks[:, None], n=mix.shape[-1])

    def select(self, sources):
        return Bands(sources, self.samplerate)


def engine(model=None):
    return Engine(model or Bands(), Settings(), torch.device("cpu"), torch.float32)


def tone(hertz, seconds, rate=RATE, level=0.1, channels=2):
    t = np.arange(round(seconds * rate)) / rate
    return np.tile(level * np.sin(2 * np.pi * hertz * t), (channels, 1))


def write(path, audio, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def song(folder, name="song", seconds=10, **stems):
    """stems: audio or seconds at the end in which `other` sounds too."""
    files = {}
    for stem in STEMS:
        audio = tone(HERTZ[stem], seconds)
        leak = stems.get(stem, 0)
        if isinstance(leak, np.ndarray):
            audio = leak
        elif leak:
            audio[:, -leak * RATE :] += tone(HERTZ["other" if stem != "other" else "bass"], leak)
        files[stem] = write(folder / name / f"{stem}.wav", audio)
    return SimpleNamespace(name=name, stems=files)


def slide(rows):
    return {stem: dict(zip(STEMS, row, strict=True)) for stem, row in zip(STEMS, rows, strict=True)}


IDEAL = slide([[100, 0, 0, 0], [0, 100, 0, 0], [0, 0, 100, 0], [0, 0, 0, 100]])
ACCEPTABLE = slide([[78, 24, 12, 25], [18, 75, 19, 28], [15, 17, 82, 21], [22, 26, 14, 71]])
REJECTED = slide([[75, 22, 15, 42], [25, 62, 20, 27], [18, 29, 80, 19], [38, 26, 22, 58]])


# --- the decision ---


@pytest.mark.parametrize("matrix", [IDEAL, ACCEPTABLE])
def test_the_ideal_and_the_acceptable_matrix_of_the_slides_are_kept(matrix):
    assert judge(matrix, Rule()) == () and quality.violation(matrix, Rule()) < 0


def test_the_rejected_matrix_of_the_slides_is_rejected_for_its_four_bad_cells():
    reasons = judge(REJECTED, Rule())
    assert len(reasons) == 4
    for words, reason in zip(
        (
            ("drums", "62.0 %", "its own"),
            ("other", "58.0 %", "its own"),
            ("other", "42.0 %", "vocals stem"),
            ("vocals", "38.0 %", "other stem"),
        ),
        reasons,
        strict=True,
    ):
        assert all(word in reason for word in words), reason
    assert quality.violation(REJECTED, Rule()) == 12


def test_limits_themselves_reject():
    assert judge({"bass": {"bass": 70.0, "drums": 0.0}}, Rule())
    assert judge({"bass": {"bass": 100.0, "drums": 30.0}}, Rule())
    assert not judge({"bass": {"bass": 70.1, "drums": 29.9}}, Rule())
    assert not judge(REJECTED, Rule(keep_above=57, off_below=43))


def test_a_song_without_a_row_is_rejected_and_a_missing_row_decides_nothing():
    assert judge({}, Rule()) == ("none of its stems could be judged",)
    assert judge({"bass": IDEAL["bass"]}, Rule()) == ()


@pytest.mark.parametrize(
    "values",
    [
        {"keep_above": 101},
        {"off_below": -1},
        {"segment": 0},
        {"threshold": 3},
        {"floor": 1},
        {"segment": float("nan")},
    ],
)
def test_a_rule_that_can_not_be_is_refused(values):
    with pytest.raises(UsageError):
        Rule(**values)


# --- the measurement ---


def test_the_power_of_segments_does_not_depend_on_the_blocks():
    random = np.random.default_rng(0)
    audio = random.standard_normal((3, 2, 1000)).astype(np.float32)
    wanted = (audio.astype(np.float64) ** 2).mean(axis=1)[:, :994].reshape(3, 14, 71).mean(axis=-1)
    for _ in range(20):
        cuts = np.sort(random.integers(0, 1001, random.integers(0, 30)))
        power = SegmentPower(71)
        for block in np.split(audio, cuts, axis=-1):
            power.add(block)
        np.testing.assert_allclose(power.values(), wanted, rtol=1e-12)


def test_a_rest_is_no_segment():
    power = SegmentPower(100)
    power.add(np.ones((2, 99)))
    assert power.values().size == 0
    power.add(np.ones((2, 1)))
    assert power.values().tolist() == [1.0]


def test_shares_are_of_the_segments_above_the_floor():
    stem = np.array([1, 1, 1, 1e-5, 1e-7, 0])  # 1e-7: -70 dBFS
    parts = np.array([[1, 0.2, 0.09, 1e-5, 1e-7, 0], [0.1, 0.11, 0, 0, 1, 1]])
    shares, judged = shares_of(stem, parts, Rule())
    assert judged == 4 and shares.tolist() == [75, 25]  # 0.1 is -10 dB: not more
    shares, judged = shares_of(stem, parts, Rule(floor=-80))
    assert judged == 5 and shares.tolist() == [80, 40]
    assert shares_of(stem, parts, Rule(threshold=-5))[0].tolist() == [50, 0]


def test_the_matrix_of_a_song_is_what_sounds_in_it(tmp_path):
    verdict = measure_song(song(tmp_path, vocals=4, drums=2), engine(), Rule())
    assert verdict.matrix == {
        "vocals": {"vocals": 100, "drums": 0, "bass": 0, "other": 40},
        "drums": {"vocals": 0, "drums": 100, "bass": 0, "other": 20},
        "bass": {"vocals": 0, "drums": 0, "bass": 100, "other": 0},
        "other": {"vocals": 0, "drums": 0, "bass": 0, "other": 100},
    }
    assert verdict.status == "rejected" and len(verdict.reasons) == 1 and "40.0 %" in verdict.reasons[0]
    assert [(row.judged, row.segments) for row in verdict.rows] == [(10, 10)] * 4
    assert verdict.audio_seconds == 40


def test_a_wrong_stem_is_found_nowhere_as_itself(tmp_path):
    verdict = measure_song(song(tmp_path, bass=tone(HERTZ["drums"], 10)), engine(), Rule())
    assert verdict.matrix["bass"] == {"vocals": 0, "drums": 100, "bass": 0, "other": 0}
    assert len(verdict.reasons) == 2


@pytest.mark.parametrize("rate,channels,suffix", [(16000, 1, "wav"), (11025, 2, "flac")])
def test_other_rates_and_mono(tmp_path, rate, channels, suffix):
    audio = tone(1000, 8, rate, channels=channels)
    audio[:, 3 * rate :] += tone(100, 5, rate, channels=channels)
    row, seconds = measure_stem("vocals", write(tmp_path / f"vocals.{suffix}", audio, rate), engine(), Rule())
    assert seconds == 8 and (row.judged, row.segments) == (8, 8)
    assert row.shares["vocals"] == 100 and row.shares["bass"] == pytest.approx(100 * 5 / 8)


def test_a_silent_stem_neither_counts_nor_costs_a_call(tmp_path):
    model = Bands()
    nothing = song(tmp_path, "nothing", **{stem: np.zeros((2, 10 * RATE)) for stem in STEMS})
    verdict = measure_song(nothing, engine(model), Rule())
    assert model.calls == 0 and verdict.matrix == {} and verdict.status == "rejected"
    assert verdict.reasons == ("none of its stems could be judged",)
    assert len(verdict.notes) == 4 and "vocals is not judged: it is silent throughout" in verdict.notes
    quiet = song(tmp_path, "quiet", vocals=tone(1000, 10, level=1e-4))  # -83 dBFS
    verdict = measure_song(quiet, engine(model), Rule())
    assert verdict.status == "kept" and list(verdict.matrix) == ["drums", "bass", "other"]
    assert measure_song(quiet, engine(model), Rule(floor=-90)).matrix["vocals"]["vocals"] == 100


def test_a_stem_that_the_model_lacks_is_noted(tmp_path):
    plain = song(tmp_path)
    plain.stems["kazoo"] = plain.stems.pop("bass")
    verdict = measure_song(plain, engine(), Rule())
    assert verdict.status == "kept" and "bass" not in verdict.matrix and "kazoo" not in verdict.matrix
    assert verdict.notes == ("kazoo is not judged: the model has no such stem, but vocals, drums, bass, other",)


def test_a_stem_longer_than_a_block_streams(tmp_path):
    """Every share follows from Split's own, whatever the segments of model, blocks and rule."""
    random = np.random.default_rng(1)
    path = write(tmp_path / "drums.wav", random.standard_normal((2, 200_000)) * 0.1)
    model = Split(samplerate=RATE, segment=Segment(samples=30_011))
    row, _ = measure_stem("drums", path, engine(model), Rule(segment=0.37))
    assert row.shares == {"drums": 100, "bass": 0, "other": 0, "vocals": 0}  # -6, -12, -18, -18 dB
    assert row.segments == 200_000 // 2960 == row.judged and len(model.calls) == 9
    row, _ = measure_stem("drums", path, engine(model), Rule(threshold=-15))
    assert row.shares == {"drums": 100, "bass": 100, "other": 0, "vocals": 0}


# --- a whole folder ---


def loaded(model=None, digest="f"):
    model = model or Bands()
    return loading.Loaded("bands", model, model.sources, (digest * 64,), "toy")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    song(folder, "clean")
    song(folder, "leaking", vocals=4)
    song(folder, "swapped", bass=tone(HERTZ["drums"], 10))
    return folder


def run_filter(data, out, model=None, rule=None, **more):
    seen = []
    made = loaded(model, more.pop("digest", "f"))
    verdicts = filtering.filter_dataset(
        data,
        made,
        out,
        rule,
        device="cpu",
        **more,
        done=lambda verdict, before: seen.append((verdict.name, before)),
    )
    return verdicts, seen


@pytest.mark.slow
def test_a_folder_gives_a_report_a_list_and_a_picture(data, tmp_path):
    out = tmp_path / "deep" / "report"
    verdicts, _seen = run_filter(data, out)
    assert [(v.name, v.status) for v in verdicts] == [
        ("clean", "kept"),
        ("leaking", "rejected"),
        ("swapped", "rejected"),
    ]
    assert (out / "kept.txt").read_text() == "clean\n"
    report = json.loads((out / "report.json").read_text())
    assert [found["name"] for found in report["songs"]] == ["clean", "leaking", "swapped"]
    assert report["songs"][1]["matrix"]["vocals"]["other"] == 40
    assert report["mean"]["bass"] == pytest.approx({"vocals": 0, "drums": 100 / 3, "bass": 200 / 3, "other": 0})
    assert (report["keep_above"], report["off_below"], report["made_with"]["threshold"]) == (70, 30, -10)
    assert sorted(path.name for path in out.iterdir()) == ["kept.txt", "matrix.png", "report.json"]


def test_without_matplotlib_there_is_no_picture(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out, said = tmp_path / "report", []
    run_filter(data, out, notice=said.append)
    assert sorted(path.name for path in out.iterdir()) == ["kept.txt", "report.json"]
    assert len(said) == 1 and said[0].startswith("The picture is left out: matplotlib is not installed")


@pytest.mark.slow
def test_what_is_done_is_not_done_again(data, tmp_path):
    out, model = tmp_path / "report", Bands()
    first, _ = run_filter(data, out, model)
    calls = model.calls
    song(data, "a new one")
    song(data, "leaking")  # repaired: another date
    verdicts, seen = run_filter(data, out, model)
    assert seen == [("a new one", False), ("clean", True), ("leaking", False), ("swapped", True)]
    assert model.calls - calls == calls * 2 // 3
    assert [v.status for v in verdicts] == ["kept", "kept", "kept", "rejected"]
    assert verdicts[1].rows == first[0].rows and verdicts[3].matrix == first[2].matrix


@pytest.mark.slow
def test_other_limits_decide_anew_without_the_model(data, tmp_path):
    out, model = tmp_path / "report", Bands()
    run_filter(data, out, model)
    calls = model.calls
    verdicts, _ = run_filter(data, out, model, Rule(off_below=45))
    assert [v.status for v in verdicts] == ["kept", "kept", "rejected"] and model.calls == calls
    assert (out / "kept.txt").read_text() == "clean\nleaking\n"


@pytest.mark.slow
def test_a_report_made_in_another_way_is_not_replaced_unasked(data, tmp_path):
    out = tmp_path / "report"
    run_filter(data, out)
    before = (out / "report.json").read_bytes()
    for rule, digest, words in (
        (Rule(threshold=-20), "f", "threshold is -10.0, not -20"),
        (None, "e", "another model"),
    ):
        with pytest.raises(UsageError, match=words):
            run_filter(data, out, rule=rule, digest=digest)
    assert (out / "report.json").read_bytes() == before
    _, seen = run_filter(data, out, digest="e", force=True)
    assert not any(known for _, known in seen)
    (out / "report.json").write_text("mine")
    with pytest.raises(UsageError, match="no report"):
        run_filter(data, out)


@pytest.mark.slow
def test_a_run_that_stops_goes_on(data, tmp_path):
    out = tmp_path / "report"

    class Stopped(Exception):
        pass

    def stop(verdict, before):
        if verdict.name == "leaking":
            raise Stopped

    with pytest.raises(Stopped):
        filtering.filter_dataset(data, loaded(), out, device="cpu", done=stop)
    _, seen = run_filter(data, out)
    assert seen == [("clean", True), ("leaking", True), ("swapped", False)]

    # and stopped at once, it still knows all
    def stop_at_once(verdict, before):
        raise Stopped

    with pytest.raises(Stopped):
        filtering.filter_dataset(data, loaded(), out, device="cpu", done=stop_at_once)
    assert all(known for _, known in run_filter(data, out)[1])


@pytest.mark.slow
def test_a_broken_file_fails_its_song_and_the_others_go_on(data, tmp_path):
    drums = data / "clean" / "drums.wav"
    drums.write_bytes(drums.read_bytes()[:100_000])  # cut short
    (data / "leaking" / "bass.wav").write_bytes(b"no audio at all")
    (data / "a ruin").mkdir()
    (data / "a ruin" / "vocals.wav").write_bytes(b"nor this")
    verdicts, _ = run_filter(data, tmp_path / "report")
    assert [(v.name, v.status) for v in verdicts] == [
        ("a ruin", "failed"),
        ("clean", "failed"),
        ("leaking", "failed"),
        ("swapped", "rejected"),
    ]
    assert "vocals.wav" in verdicts[0].error.message
    assert str(drums) in verdicts[1].error.message or "drums.wav" in verdicts[1].error.message
    assert "bass.wav" in verdicts[2].error.message
    assert (tmp_path / "report" / "kept.txt").read_text() == ""
    song(data, "clean")  # replaced: it is tried again, the others that failed too
    _, seen = run_filter(data, tmp_path / "report")
    assert seen == [("a ruin", False), ("clean", False), ("leaking", False), ("swapped", True)]


def test_no_songs_and_no_place(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        run_filter(tmp_path / "empty", tmp_path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        run_filter(data, tmp_path / "file")


# --- the picture ---


def colours(matrix, rule=None):
    """{(stem, part): colour} of the picture's cells, by what is drawn."""
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    quality_report._draw_matrix(axes, matrix, STEMS, STEMS, rule or Rule())
    return {
        (STEMS[int(patch.get_y())], STEMS[int(patch.get_x())]): to_hex(patch.get_facecolor())
        for patch in axes.patches
    }


def test_the_picture_has_the_decision_s_colours():
    found = colours(REJECTED)
    broken = {cell for cell, colour in found.items() if colour == quality_report._BROKEN}
    assert broken == {("drums", "drums"), ("other", "other"), ("vocals", "other"), ("other", "vocals")}
    assert len(found) == 16 and set(found.values()) == {quality_report._BROKEN, quality_report._FINE}
    assert set(colours(ACCEPTABLE).values()) == {quality_report._FINE}
    partly = colours({"bass": IDEAL["bass"]})
    assert sum(colour == quality_report._NOT_JUDGED for colour in partly.values()) == 12


@pytest.mark.slow
def test_many_songs_with_odd_names_fit_on_one_page(tmp_path):
    def verdict(name, matrix):
        return Verdict(name, tuple(Row(stem, shares, 1, 1) for stem, shares in matrix.items()))

    songs = [
        verdict(f"song {i} $x \udce9 " + "long " * 20, matrix)
        for i, matrix in enumerate([IDEAL, ACCEPTABLE, REJECTED, {"bass": IDEAL["bass"]}] * 10)
    ]
    quality_report.draw(songs, Rule(), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


# --- the command ---


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr(loading, "load_model", lambda spec, **more: loaded())

    def run(*arguments):
        code = main(["dataset", "filter", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.mark.slow
def test_the_command_prints_a_table(run, data, tmp_path):
    code, out, err = run(data, "-m", "bands", "-o", tmp_path / "report", "--device", "cpu")
    assert code == 0 and "1 kept, 2 rejected" in err
    lines = [line.split(maxsplit=4) for line in out.splitlines()]
    assert lines[0] == ["SONG", "VERDICT", "OWN", "%", "OTHERS %  WHY"]
    assert lines[1] == ["clean", "kept", "100.0", "0.0"]
    assert lines[2][:4] == ["leaking", "rejected", "100.0", "40.0"] and "vocals stem" in lines[2][4]
    assert lines[3][:4] == ["swapped", "rejected", "0.0", "100.0"]
    assert lines[-2] == ["bass", "0.0", "33.3", "66.7", "0.0"]
    code, out, err = run(data, "-m", "bands", "-o", tmp_path / "report", "--off-below", "45", "--device", "cpu")
    assert code == 0 and "3 of them done before" in err and "2 kept, 1 rejected" in err


def test_the_command_as_json(run, data, tmp_path):
    (data / "clean" / "drums.wav").write_bytes(b"")
    code, out, err = run(data, "-m", "bands", "-o", tmp_path / "report", "--json", "-q", "--device", "cpu")
    songs = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [found["status"] for found in songs] == ["failed", "rejected", "rejected"]
    assert "drums.wav" in songs[0]["error"]["message"]
    assert songs[1]["segments"]["bass"] == {"judged": 10, "all": 10}
    assert "drums.wav" in err and "kept" not in err


def test_the_command_refuses_what_can_not_be(run, data, tmp_path):
    assert run(data, "-o", tmp_path / "report")[0] == 2  # no model
    code, _, err = run(data, "-m", "bands", "-o", tmp_path / "report", "--keep-above", "120")
    assert code == 2 and "--keep-above 120 is out of range" in err and not (tmp_path / "report").exists()
    code, _, err = run(data / "absent", "-m", "bands", "-o", tmp_path / "report")
    assert code == 1 and "absent" in err
