"""What words for stems mean, and what a run makes of them."""

import json

import numpy as np
import pytest
import soundfile

from sepcli.batch.words import WORDS, meaning, rest_of, stem_of
from sepcli.cli.app import main
from sepcli.errors import UsageError
from sepcli.weights.catalog import load_catalog
from tests import fake_model
from tests.test_jobs import song, tree
from tests.toys import Split

FOUR = ("drums", "bass", "other", "vocals")
LED = ("lead", "backing", "vocals", "band")


@pytest.mark.parametrize(
    ("word", "sources", "stem", "rest"),
    [
        ("vocals", FOUR, "vocals", None),
        ("VOCALS", FOUR, "vocals", None),
        ("vocals", ("Vocals", "Other"), "Vocals", None),
        ("vocals", ("VOCALS", "vocals"), "vocals", None),  # the very name comes first
        ("Vocals", ("VOCALS", "vocals"), None, None),  # and nothing is guessed
        ("lead vocals", ("Lead-Vocals", "band"), "Lead-Vocals", None),
        ("acapella", FOUR, "vocals", None),
        ("Acappella", FOUR, "vocals", None),
        ("a cappella", FOUR, "vocals", None),
        ("acapella", ("acapella", "vocals"), "acapella", None),
        ("acapella", ("drums", "bass"), None, None),
        ("instrumental", FOUR, None, "vocals"),
        ("Accompaniment", FOUR, None, "vocals"),
        ("no_vocals", FOUR, None, "vocals"),
        ("no-vocals", FOUR, None, "vocals"),
        ("no_drums", FOUR, None, "drums"),
        ("no_Drums", FOUR, None, "drums"),
        ("no_piano", FOUR, None, None),
        ("instrumental", ("vocals", "accompaniment"), "accompaniment", None),
        ("accompaniment", ("vocals", "accompaniment"), "accompaniment", None),
        ("no_accompaniment", ("vocals", "accompaniment"), None, "accompaniment"),
        ("no_vocals", ("vocals", "Instrumental"), "Instrumental", None),
        ("instrumental", ("vocals", "other"), "other", None),
        ("instrumental", ("vocals", "other", "drums"), None, "vocals"),
        ("instrumental", ("vocals", "choir"), None, "vocals"),
        ("instrumental", ("bass", "other"), None, None),
        ("karaoke", FOUR, None, "vocals"),
        ("karaoke", LED, None, "lead"),
        ("karaoke", ("Lead", "Karaoke"), "Karaoke", None),
        ("karaoke", ("vocals", "accompaniment"), "accompaniment", None),
        ("instrumental", LED, None, "vocals"),
        ("guitar", FOUR, None, None),
    ],
)
def test_a_word_is_a_stem_or_a_mix_minus_one_or_nothing(word, sources, stem, rest):
    assert (stem_of(word, sources), rest_of(word, sources)) == (stem, rest)


@pytest.mark.parametrize("entry", load_catalog().values(), ids=lambda entry: entry.name)
def test_in_the_catalogue_every_stem_means_itself_and_every_word_something_where_there_are_vocals(entry):
    for source in entry.sources:
        for written in (source, source.upper()):
            assert stem_of(written, entry.sources) == source and rest_of(written, entry.sources) is None
    for word in WORDS if "vocals" in entry.sources else ():
        assert (stem_of(word, entry.sources) is None) != (rest_of(word, entry.sources) is None)


def understood(*words, rest=False, others=(), sources=FOUR):
    meant = meaning(words, sources, rest=rest, others=others, model="m")
    assert all(submix.mix == 1 and set(submix.stems.values()) == {-1} for submix in meant.submixes)
    left = [(submix.name, tuple(submix.stems), meant.hidden) for submix in meant.submixes]
    return meant.targets, left[0] if len(left) == 1 else left or None, len(meant.notices)


def test_words_together():
    assert understood("Vocals", "vocals", "BASS") == (("vocals", "bass"), None, 0)
    assert understood("acapella") == (("vocals",), None, 1)
    assert understood("instrumental") == (("vocals",), ("instrumental", ("vocals",), ("vocals",)), 1)
    assert understood("Instrumental", "no_vocals")[1][0] == "instrumental"  # the first of two for one
    assert understood("vocals", "karaoke") == (("vocals",), ("karaoke", ("vocals",), ()), 1)
    assert understood("drums", "no_vocals") == (("drums", "vocals"), ("no_vocals", ("vocals",), ("vocals",)), 1)
    assert understood("instrumental", rest=True) == (("vocals",), ("instrumental", ("vocals",), ()), 1)
    assert understood("guitar", "instrumental")[0] == ("guitar", "vocals")  # names.py says that it is unknown
    assert understood("instrumental", others=("hum",))[0] == ("vocals",)
    assert understood() == ((), None, 0)
    two = [("no_drums", ("drums",), ("drums", "vocals")), ("instrumental", ("vocals",), ("drums", "vocals"))]
    assert understood("no_drums", "instrumental") == (("drums", "vocals"), two, 2)


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["no_drums", "instrumental"], {"rest": True}, "different stems"),
        (["karaoke", "instrumental"], {"sources": LED, "rest": True}, "different stems"),
        (["drums", "instrumental"], {"rest": True}, "add up"),
        (["instrumental"], {"rest": True, "others": ("hum",)}, "hum"),
        (["instrumental"], {"sources": ("drums", "bass")}, "needs a model with the stem vocals"),
        (["acapella"], {"sources": ()}, "no stems of its own"),
    ],
)
def test_words_that_can_not_be(words, more, said):
    with pytest.raises(UsageError, match=said) as caught:
        understood(*words, **more)
    assert caught.value.remedy


# --- runs ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    song("a.wav")


def separate(capfd, *arguments):
    model = () if "-m" in arguments else ("-m", "fake")
    code = main(["a.wav", *model, *arguments])
    return code, *capfd.readouterr()


def share(name, out="separated/fake"):
    """How much of the mix a file holds."""
    mix, stem = (soundfile.read(path)[0] for path in ("a.wav", f"{out}/a/{name}.wav"))
    return (mix * stem).sum() / (mix * mix).sum()


def test_the_case_of_a_stem_does_not_count(fake, capfd):
    assert separate(capfd, "-t", "Vocals")[0] == 0
    assert tree("separated/fake") == ["a/vocals.wav"]
    code, _, err = separate(capfd, "-t", "vocals")
    assert code == 0 and "skipped" in err
    assert separate(capfd, "--two-stems", "DRUMS", "-o", "o")[0] == 0
    assert tree("o/fake") == ["a/drums.wav", "a/no_drums.wav"]


@pytest.mark.parametrize("clip", ["gain", "clamp"])
def test_an_instrumental_is_the_mix_minus_the_vocals(fake, capfd, clip, monkeypatch):
    selected = []
    monkeypatch.setattr(
        fake_model.Slow,
        "select",
        lambda self, sources: selected.append(sources) or Split(sources, self.segment),
    )
    code, _, err = separate(capfd, "-t", "instrumental", "--clip", clip)
    assert code == 0 and "instrumental means the mix minus vocals here" in err
    assert tree("separated/fake") == ["a/instrumental.wav"]
    assert selected == [("vocals",)]  # the work of no other stem was done
    assert share("instrumental") == pytest.approx(1 - Split.SHARES["vocals"], abs=1e-4)
    code, _, err = separate(capfd, "-t", "instrumental", "--clip", clip)
    assert code == 0 and "1 skipped" in err


def test_an_instrumental_beside_other_stems_is_still_all_but_the_vocals(fake, capfd):
    assert separate(capfd, "-t", "drums", "-t", "karaoke")[0] == 0
    assert tree("separated/fake") == ["a/drums.wav", "a/karaoke.wav"]
    assert share("karaoke") == pytest.approx(1 - Split.SHARES["vocals"], abs=1e-4)
    assert share("drums") == pytest.approx(Split.SHARES["drums"], abs=1e-4)


@pytest.mark.parametrize("more", [["-t", "vocals"], ["--rest"], ["--sum", "exact"]])
def test_the_vocals_and_the_instrumental(fake, capfd, more):
    assert separate(capfd, "-t", "instrumental", *more)[0] == 0
    assert tree("separated/fake") == ["a/instrumental.wav", "a/vocals.wav"]
    mix, *stems = (
        soundfile.read(path, dtype="int16")[0].astype(int)
        for path in ("a.wav", "separated/fake/a/instrumental.wav", "separated/fake/a/vocals.wav")
    )
    assert np.abs(sum(stems) - mix).max() <= ("exact" not in more)


def test_an_acapella_is_the_stem_vocals(fake, capfd):
    code, _, err = separate(capfd, "-t", "acapella")
    assert (
        code == 0
        and "acapella means the stem vocals here" in err
        and tree("separated/fake") == ["a/vocals.wav"]
    )


def test_words_in_json_a_dry_run_and_a_pipe(fake, capfdbinary):
    assert separate(capfdbinary, "-t", "instrumental", "--dry-run", "--json")[0] == 0
    code, out, _ = separate(capfdbinary, "-t", "instrumental", "--json")
    assert code == 0 and list(json.loads(out)["outputs"]) == ["instrumental"]
    code, out, err = separate(capfdbinary, "-t", "instrumental", "-o", "-")
    assert code == 0 and out[:4] == b"RIFF", err


def test_a_template_without_a_stem_is_enough_for_an_instrumental(fake, capfd):
    assert separate(capfd, "-t", "instrumental", "--template", "{track} (instrumental).{ext}")[0] == 0
    assert tree("separated") == ["a (instrumental).wav"]


def test_words_that_the_model_has_no_stems_for(fake, capfd):
    code, _, err = separate(capfd, "-m", "asked", "-t", "instrumental")
    assert code == 2 and "needs a model with the stem vocals" in err and "--target vocals" in err
    code, _, err = separate(capfd, "-t", "drums", "-t", "instrumental", "--rest")
    assert code == 2 and "add up" in err and "--rest" in err


def test_a_query_that_has_the_name_of_a_word_or_of_what_it_means(fake, capfd):
    soundfile.write("hum.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)), 44100)
    for name in ("Other", "no_Bass"):
        code, _, err = separate(
            capfd, "-m", "asked", "-t", "no_bass", "-t", "other", "--query", f"{name}=hum.wav"
        )
        assert code == 2 and "would become one stem" in err, err
    assert separate(capfd, "-m", "asked", "-t", "no_bass", "--query", "hum.wav")[0] == 0
    assert tree("separated/asked") == ["a/hum.wav", "a/no_bass.wav"]
    assert share("no_bass", "separated/asked") == pytest.approx(1 - Split.SHARES["bass"], abs=1e-4)


def test_a_model_of_ones_own_is_understood_after_it_is_loaded(fake, capfd, tmp_path, monkeypatch):
    from sepcli import loading

    entries = dict(load_catalog([tmp_path / "fake-catalog.toml"]))
    own = {**entries, "./own.ckpt": entries["fake"]}
    monkeypatch.setattr(
        loading, "load_model", lambda spec, **more: fake_model.load_model(spec, **{**more, "catalog": own})
    )
    (tmp_path / "in" / "own.ckpt").write_bytes(b"weights")
    code, _, err = separate(capfd, "-m", "./own.ckpt", "-t", "Instrumental")
    assert code == 0 and "instrumental.wav" in str(tree("separated/own")) and "minus vocals" in err, err
    assert tree("separated/own") == ["a/instrumental.wav"]
    assert share("instrumental", "separated/own") == pytest.approx(1 - Split.SHARES["vocals"], abs=1e-4)


def test_models_are_found_by_words_too(capfd):
    main(["models", "list", "--target", "Instrumental", "--json"])
    names = {entry["name"] for entry in json.loads(capfd.readouterr().out)}
    assert {"mini", "htdemucs", "spleeter-2stems"} <= names and "dicose-det" not in names
