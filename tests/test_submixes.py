"""Sums of stems and of the mix: how they are written, what they mean, and what a run makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import sepcli
from sepcli.batch.names import Stems
from sepcli.batch.submixes import parse_submixes, parse_terms
from sepcli.batch.words import meaning
from sepcli.cli.app import main
from sepcli.errors import UsageError
from sepcli.sound.submix import Submix
from sepcli.weights.catalog import load_catalog
from tests import fake_model
from tests.test_jobs import batch, song, statuses, told, tree
from tests.test_standing import dates, ints, loud
from tests.test_words import share
from tests.toys import Split

FOUR = ("drums", "bass", "other", "vocals")
MINUS_12 = 10 ** (-12 / 20)


# --- how they are written ---


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("mix-drums", [("mix", 1), ("drums", -1)]),
        ("vocals*-12dB+bass+drums", [("vocals", MINUS_12), ("bass", 1), ("drums", 1)]),
        (" - vocals * 0.5 + bass*2 ", [("vocals", -0.5), ("bass", 2)]),
        ("-vocals*-.5-bass*+3.dB", [("vocals", 0.5), ("bass", -(10 ** (3 / 20)))]),
        ("+vocals*6DB", [("vocals", 10**0.3)]),
        ("lead-vocals-lead", [("lead-vocals", 1), ("lead", -1)]),  # the longest name that fits
        ("lead - vocals", [("lead", 1), ("vocals", -1)]),
        ("kick+snare+kick", [("kick+snare", 1), ("kick", 1)]),
        ("Lead-Vocals", [("Lead-Vocals", 1)]),  # as it is written
        ("piano-drums", [("piano", 1), ("drums", -1)]),  # of a word that nobody knows
        ("vocals2*2", [("vocals2", 2)]),
    ],
)
def test_sums_are_read(text, pairs):
    words = ["mix", *FOUR, "lead", "lead-vocals", "kick", "kick+snare"]
    assert parse_terms("x", text, words) == [(word, pytest.approx(gain)) for word, gain in pairs]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no stem at its end"),
        ("mix-", "no stem at its end"),
        ("mix--drums", "no stem at '-drums'"),
        ("drums bass", "can't be read at 'bass'"),
        ("drums*", "can't be read at '\\*'"),
        ("drums*loud", "can't be read at"),
        ("drums*2dBx", "can't be read at 'dBx'"),
        ("0.5*drums", "can't be read at '\\*drums'"),
        ("drums*2*2", "can't be read at '\\*2'"),
        ("drums*61dB", "61dB; the most is 1000"),
        ("drums*1001", "1001; the most"),
        ("drums*" + "9" * 400, "the most is"),
    ],
)
def test_what_is_no_sum(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        parse_terms("x", text, FOUR)
    assert caught.value.code == "submix" and caught.value.remedy


def test_a_submix_needs_a_name():
    assert parse_submixes(["a=b", " a b =c=d"]) == (("a", "b"), ("a b", "c=d"))
    with pytest.raises(UsageError, match="has no name"):
        parse_submixes(["mix-drums"])


thousandths = st.integers(-900_000, 900_000).filter(bool).map(lambda number: number / 1000)
gains = st.dictionaries(st.sampled_from(FOUR), thousandths, min_size=1)


@given(mix=st.sampled_from([0.0, 1.0, -0.25]), stems=gains)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_again(mix, stems):
    text = "+".join(f"{name}*{gain:.3f}" for name, gain in {**({"mix": mix} if mix else {}), **stems}.items())
    (submix,) = meaning((), FOUR, rest=False, submixes=[("x", text)], model="m").submixes
    assert submix.mix == mix and submix.stems == stems


# --- what they mean ---


def understood(*pairs, words=(), sources=FOUR, rest=False, others=()):
    return meaning(words, sources, rest=rest, others=others, submixes=pairs, model="m")


def test_words_and_repeated_stems_in_a_sum():
    for text, mix, stems in [
        ("Drums+DRUMS", 0, {"drums": 2}),
        ("instrumental+vocals", None, None),  # the mix, without any stem in it
        ("instrumental*0.5", 0.5, {"vocals": -0.5}),
        ("MIX-acapella", 1, {"vocals": -1}),
        ("no_drums-bass", 1, {"drums": -1, "bass": -1}),
        ("drums*0+bass", 0, {"bass": 1}),
        ("mix*-300000dB+bass", 0, {"bass": 1}),
        ("mix", None, None),
    ]:
        if stems is None:
            with pytest.raises(UsageError, match="no stem in it"):
                understood(("x", text))
        else:
            (submix,) = understood(("x", text)).submixes
            assert (submix.name, submix.mix, submix.stems) == ("x", mix, stems)


def test_which_stems_are_made_and_written():
    pair = ("x", "mix-drums-bass")
    assert (understood(pair).targets, understood(pair).hidden) == ((), ())  # all, and all are written
    meant = understood(pair, words=("vocals", "bass"))
    assert (meant.targets, meant.hidden) == (("vocals", "bass", "drums"), ("drums",))
    meant = understood(pair, words=("x",))
    assert (meant.targets, meant.hidden) == (("drums", "bass"), ("drums", "bass"))
    meant = understood(("x", "hum+drums"), others=("hum",))
    assert (meant.targets, meant.hidden) == (("drums",), ("drums",))
    meant = understood(pair, words=("instrumental", "drums"))
    assert [submix.name for submix in meant.submixes] == ["instrumental", "x"]
    assert (meant.targets, meant.hidden) == (("drums", "vocals", "bass"), ("vocals", "bass"))


@pytest.mark.parametrize(
    ("pairs", "more", "said"),
    [
        ([("x", "piano")], {}, "no stem 'piano'; it has drums, bass, other, vocals"),
        ([("x", "lead-vocals")], {}, "no stem 'lead'"),
        ([("drums", "mix-bass")], {}, "'drums', which is a stem already. Stems here: drums, bass"),
        ([("Drums", "mix-bass")], {}, "is a stem already"),  # one file where case does not count
        ([("Mix", "mix-bass")], {}, "word for the input"),
        ([("hum", "mix-bass")], {"others": ("hum",)}, "is a stem already"),
        ([("x", "bass"), ("X", "drums")], {}, "name of another submix"),
        ([("instrumental", "bass")], {"words": ("Instrumental",)}, "word already"),
        ([("a/b", "bass")], {}, "name of a file"),
        ([("", "bass")], {}, "name of a file"),
        ([("x", "instrumental")], {"sources": ("bass", "drums")}, "needs a model with the stem vocals"),
        ([("x", "bass")], {"words": ("x",), "rest": True}, "only submixes"),
    ],
)
def test_submixes_that_can_not_be(pairs, more, said):
    with pytest.raises(UsageError, match=said) as caught:
        understood(*pairs, **more)
    assert caught.value.remedy


def test_the_rest_is_a_submix_and_written_once():
    stems = Stems(FOUR, (), (Submix("karaoke", 1.0, {"vocals": -1.0}),), FOUR[:3])
    assert stems.with_rest("no_vocals") == stems  # it is that already
    assert stems.written == ("vocals",) and stems.files == ("vocals", "karaoke")
    other = Stems(FOUR, (), (Submix("rest", stems={"vocals": 1.0}),))
    with pytest.raises(UsageError, match="name of the rest"):
        other.with_rest("rest")
    assert Stems(FOUR, ()).with_rest("rest").submixes[0].gains == (1.0, dict.fromkeys(sorted(FOUR), -1.0))


def test_what_is_left_of_files_that_are_there():
    submixes = (Submix("x", 1.0, {"drums": -1.0}), Submix("y", stems={"bass": 1.0, "vocals": 0.5}))
    stems = Stems(FOUR, (), submixes)
    left = stems.without_files([*FOUR, "x"])
    assert (left.targets, left.hidden, left.files) == (("bass", "vocals"), ("bass", "vocals"), ("y",))
    left = stems.without_files(["drums", "bass", "other", "y"])
    assert (left.targets, left.hidden, left.files) == (("drums", "vocals"), ("drums",), ("vocals", "x"))


# --- runs ---


@pytest.fixture
def catalog(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    song("a.wav")
    return load_catalog()


def separate(capfd, *arguments):
    model = () if "-m" in arguments else ("-m", "fake")
    code = main(["a.wav", *model, *arguments])
    return code, *capfd.readouterr()


PRACTICE = "practice=vocals*-12dB+bass+drums"
NO_DRUMS = "no_drums=mix-drums"


def test_submixes_stand_beside_the_stems(catalog, capfd):
    code, out, err = separate(capfd, "--submix", NO_DRUMS, "--submix", PRACTICE, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert list(result["outputs"]) == list(result["levels"]) == [*FOUR, "no_drums", "practice"]
    assert share("no_drums") == pytest.approx(1 - Split.SHARES["drums"], abs=1e-4)
    wanted = Split.SHARES["vocals"] * MINUS_12 + Split.SHARES["bass"] + Split.SHARES["drums"]
    assert share("practice") == pytest.approx(wanted, abs=1e-4)
    for name in ("no_drums", "practice"):
        ours, stem = (soundfile.info(f"separated/fake/a/{each}.wav") for each in (name, "drums"))
        assert (ours.frames, ours.samplerate, ours.subtype) == (stem.frames, stem.samplerate, stem.subtype)
    line = json.loads(Path("separated/.sepcli.jsonl").read_text().splitlines()[-1])
    assert [output["stem"] for output in line["outputs"]] == [*FOUR, "no_drums", "practice"]
    assert separate(capfd, "--submix", NO_DRUMS, "--submix", PRACTICE, "--json")[1].count('"skipped"') == 1


@pytest.mark.parametrize(
    ("arguments", "files", "made"),
    [
        (["-t", "vocals", "--submix", NO_DRUMS], ["no_drums", "vocals"], ("drums", "vocals")),
        (["-t", "no_drums", "--submix", NO_DRUMS], ["no_drums"], ("drums",)),
        (["-t", "no_drums", "-t", "no_bass"], ["no_bass", "no_drums"], ("drums", "bass")),
        (["-t", "vocals", "--rest", "--submix", "x=bass"], ["no_vocals", "vocals", "x"], ("bass", "vocals")),
        (["-t", "vocals", "--rest", "--submix", "x=mix-vocals"], ["vocals", "x"], ("vocals",)),
    ],
)
def test_only_what_is_needed_runs_and_only_what_is_wanted_is_written(
    catalog, capfd, monkeypatch, arguments, files, made
):
    selected = []
    monkeypatch.setattr(
        fake_model.Slow,
        "select",
        lambda self, sources: selected.append(sources) or Split(sources, self.segment),
    )
    code, _, err = separate(capfd, *arguments)
    assert code == 0 and tree("separated/fake") == [f"a/{name}.wav" for name in files], err
    assert {*selected} == {made}


def test_a_submix_in_a_dry_run_and_a_pipe(catalog, capfdbinary):
    code, out, _ = separate(capfdbinary, "--submix", NO_DRUMS, "--dry-run")
    assert code == 0 and b"a/no_drums.wav" in out and not Path("separated").exists()
    code, out, err = separate(capfdbinary, "--submix", NO_DRUMS, "-t", "no_drums", "-o", "-")
    assert code == 0 and out[:4] == b"RIFF", err
    assert separate(capfdbinary, "--submix", NO_DRUMS, "-o", "-")[0] == 2


@pytest.mark.parametrize(
    ("submix", "code", "said"),
    [
        ("x=vocls+bass", "unknown_stem", "no stem 'vocls'; it has drums, bass, other, vocals"),
        ("mix-drums", "submix", "has no name"),
        ("x=drums*", "submix", "--submix"),
        ("bass=mix-drums", "equal_names", "--submix"),
    ],
)
def test_mistakes_end_the_run_before_any_work(catalog, capfd, submix, code, said):
    exit_code, out, _ = separate(capfd, "--submix", submix, "--json")
    error = json.loads(out)["error"]
    assert exit_code == 2 and error["code"] == (code) and not Path("separated").exists()
    assert said in f"{error['message']} {error['remedy']}" or code == "submix"
    assert not fake_model.loads


def test_a_stem_that_other_models_have_is_answered_with_these(catalog, capfd):
    code, _, err = separate(capfd, "--submix", "x=vocals+choir")
    assert code == 2 and "vox" in err


def test_a_submix_that_clips_lowers_all_and_is_named(catalog, capfd):
    code, out, err = separate(capfd, "--submix", "loud=drums*13dB", "--json")
    result = json.loads(out)
    assert code == 0 and result["gain"] == pytest.approx(4 * 10 ** (-13 / 20), abs=0.01)
    (warning,) = result["warnings"]
    assert warning["code"] == "lowered" and "for loud would have clipped" in warning["message"]
    assert "Without it" in warning["message"] and warning["message"] in err
    assert share("bass") == pytest.approx(Split.SHARES["bass"] * result["gain"], abs=1e-4)
    code, out, _ = separate(capfd, "--submix", "loud=drums*13dB", "--json", "--bit-depth", "32f", "-o", "f")
    assert json.loads(out)["gain"] == 1 and not json.loads(out)["warnings"]


# --- what stands ---


def test_a_submix_of_stems_that_stand_needs_no_model(catalog):
    batch(catalog, ["a.wav"])
    before = dates()
    fake_model.loads.clear()
    asked = {"submixes": (("no_drums", "mix-drums"), ("p", "vocals*0.5+bass"))}
    _, results, heard = told(catalog, ["a.wav"], **asked)
    assert statuses(results) == ["done"] and not fake_model.loads and "already" in heard[0]
    assert list(results[0].outputs) == [*FOUR, "no_drums", "p"] and results[0].kept == FOUR
    assert {path: date for path, date in dates().items() if path in before} == before
    batch(catalog, ["a.wav"], out=Path("new"), **asked)
    for name in ("no_drums", "p"):
        assert np.abs(ints(f"out/a/{name}.wav") - ints(f"new/a/{name}.wav")).max() <= 1
    assert statuses(batch(catalog, ["a.wav"], **asked)[1]) == ["skipped"]
    assert statuses(batch(catalog, ["a.wav"], targets=("no_drums",))[1]) == ["skipped"]  # the same in a word


def test_a_gain_above_one_is_made_by_the_model(catalog):
    batch(catalog, ["a.wav"])
    fake_model.loads.clear()
    assert statuses(batch(catalog, ["a.wav"], submixes=(("x", "bass*1.5"),))[1]) == ["done"]
    assert fake_model.loads


def test_a_submix_with_another_sum_is_replaced_and_the_stems_stay(catalog):
    batch(catalog, ["a.wav"], submixes=(("x", "bass*0.5"),))
    before = dates()
    _, results, heard = told(catalog, ["a.wav"], submixes=(("x", "bass*0.25"),))
    assert statuses(results) == ["done"] and "submixes" in heard[0] and "x is replaced" in heard[0]
    after = dates()
    assert {path for path in after if after[path] != before[path]} == {"a/x.wav"}
    assert share("x", "out") == pytest.approx(Split.SHARES["bass"] * 0.25, abs=1e-4)
    # As another text, or with its terms in another order, it is the same sum.
    assert statuses(batch(catalog, ["a.wav"], submixes=(("x", "drums*0 + Bass*0.25"),))[1]) == ["skipped"]


def test_what_would_clip_with_what_stands_is_made_again_with_it(catalog):
    loud("a.wav", peak=0.9)
    batch(catalog, ["a.wav"])
    _, (result,), heard = told(catalog, ["a.wav"], submixes=(("x", "drums+drums*0.9+bass"),))
    assert result.gain < 1 and any("can't stay" in text for text in heard)


def test_an_exact_sum_is_of_the_stems_and_submixes_are_of_its_files(catalog):
    asked = {"submixes": (("x", "mix-other"), ("y", "drums+bass+vocals")), "spec": {"sum": "exact"}}
    batch(catalog, ["a.wav"], **asked)
    files = {name: ints(f"out/a/{name}.wav") for name in (*FOUR, "x", "y")}
    assert (sum(files[name] for name in FOUR) == ints("a.wav")).all()
    assert (files["x"] == files["y"]).all() and (files["x"] + files["other"] == ints("a.wav")).all()
    assert statuses(batch(catalog, ["a.wav"], **asked)[1]) == ["skipped"]
    # The stems do not depend on submixes.
    assert statuses(batch(catalog, ["a.wav"], spec={"sum": "exact"})[1]) == ["skipped"]


def test_silent_submixes_can_be_left_out(catalog, capfd):
    code, out, _ = separate(capfd, "--submix", "x=drums*-90dB", "--skip-silent", "--json")
    assert code == 0 and json.loads(out)["silent"] == ["x"] and "a/x.wav" not in tree("separated/fake")


def test_a_submix_with_a_query(catalog, capfd):
    soundfile.write("hum.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)), 44100)
    arguments = ["-m", "asked", "--query", "hum.wav"]
    assert separate(capfd, *arguments, "--submix", "x=mix-hum-bass")[0] == 0
    assert tree("separated/asked") == ["a/hum.wav", "a/x.wav"]
    total = share("x", "separated/asked") + share("hum", "separated/asked")
    assert total == pytest.approx(1 - Split.SHARES["bass"], abs=1e-4)
    assert separate(capfd, *arguments, "--submix", "hum=mix-bass")[0] == 2


# --- in Python ---


@pytest.mark.parametrize("samplerate", [44100, 48000])
def test_submixes_of_an_array(samplerate):
    mix = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 70_001)).astype(np.float32)
    sums = {"no_drums": "mix-drums", "x": "vocals*-12dB+bass"}
    whole = sepcli.separate(Split(), mix, samplerate, submixes=sums)
    assert list(whole) == [*FOUR, *sums]
    np.testing.assert_allclose(whole["no_drums"], mix - whole["drums"], atol=1e-7)
    np.testing.assert_allclose(whole["x"], whole["vocals"] * MINUS_12 + whole["bass"], atol=1e-7)
    some = sepcli.separate(Split(), mix, samplerate, targets=["other"], submixes=sums)
    assert list(some) == ["other", *sums]
    np.testing.assert_allclose(some["x"], whole["x"], atol=1e-7)
    with pytest.raises(UsageError, match="piano"):
        sepcli.separate(Split(), mix, samplerate, submixes={"x": "piano"})


def test_submixes_of_a_file_are_those_of_the_array(tmp_path):
    path = song(tmp_path / "song.wav", samplerate=32000)
    mix = soundfile.read(path, dtype="float32")[0].T
    sums = {"no_drums": "mix-drums", "x": "vocals*0.5-bass"}
    arrays = sepcli.separate(Split(), mix, 32000, submixes=sums)
    more = {"rest": True, "bit_depth": "32f", "template": "{stem}.{ext}"}
    done = sepcli.separate_file(path, tmp_path, model=Split(), targets=["x", "bass"], submixes=sums, **more)
    assert list(done.outputs) == ["bass", "no_drums", "x", "no_bass"]
    for name, file in done.outputs.items():
        wanted = mix - arrays["bass"] if name == "no_bass" else arrays[name]
        np.testing.assert_allclose(soundfile.read(file, dtype="float32")[0].T, wanted, atol=1e-6)
