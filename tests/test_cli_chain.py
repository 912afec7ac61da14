"""`sepcli separate --then`: models one after another, as the user writes them."""

from __future__ import annotations

import json

import pytest
import soundfile

from sepcli.cli.app import main
from tests import fake_model
from tests.test_jobs import song


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    song("a.wav")


SPLIT = ("-m", "fake", "--then", "vocals: fake")  # drums, bass, other; vocals-drums, ..., vocals
FOLDER = "separated/fake-then-fake"


def separate(capfd, *arguments):
    code = main(["a.wav", *arguments])
    return code, *capfd.readouterr()


def outputs(out):
    return list(json.loads(out.splitlines()[-1])["outputs"])


def share(name, folder=FOLDER):
    """How much of the mix a file holds."""
    mix, stem = (soundfile.read(path)[0] for path in ("a.wav", f"{folder}/a/{name}.wav"))
    return (mix * stem).sum() / (mix * mix).sum()


def test_a_stem_is_taken_apart_by_another_model(capfd):
    code, out, err = separate(capfd, *SPLIT, "--json")
    assert code == 0, err
    assert outputs(out) == ["drums", "bass", "other", "vocals-drums", "vocals-bass", "vocals-other", "vocals"]
    assert share("drums") == pytest.approx(0.5, abs=1e-3)
    assert share("vocals-drums") == pytest.approx(0.125 * 0.5, abs=1e-3)
    assert sum(map(share, outputs(out))) == pytest.approx(1, abs=2e-3)  # the leaves add up


def test_what_was_taken_and_what_is_left_of_it_are_there_on_request(capfd):
    chain = ("-m", "fake", "--then", "Other: vox", "--then", "drums:fake")
    wanted = ("-t", "other", "-t", "other-rest", "-t", "drums-bass", "--json")
    code, out, err = separate(capfd, *chain, *wanted)
    assert code == 0, err
    assert outputs(out) == ["drums-bass", "other", "other-rest"]
    folder = "separated/fake-then-vox-then-fake"
    assert share("other", folder) == pytest.approx(0.125, abs=1e-3)
    assert share("other-rest", folder) == pytest.approx(0.125 * 5 / 8, abs=1e-3)  # of vocals and choir
    assert share("drums-bass", folder) == pytest.approx(0.125, abs=1e-3)


def test_a_submix_may_use_a_stem_that_was_taken(capfd):
    code, out, err = separate(
        capfd, "-m", "fake", "--then", "other: fake", "--submix", "low=other-rest+bass", "--json"
    )
    assert code == 0, err
    names = outputs(out)
    assert names[-1] == "low" and "other-rest" not in names and len(names) == 8
    folder = "separated/fake-then-fake"
    assert share("low", folder) == pytest.approx(0.25, abs=1e-3)  # the fake model leaves nothing


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (["flute: fake"], "there is no stem 'flute' by then; there are drums, bass, other, vocals."),
        (["drums: vox", "drums: fake"], "'drums' was taken apart before; there are drums-vocals, choir, "),
        (["vocals:"], "'vocals:' does not say which model takes which stem apart."),
        ([": fake"], "does not say which model takes which stem apart."),
        (["fake"], "does not say which model takes which stem apart."),
        (["vocals: asked"], "'asked' takes queries, and can't be one of several models."),
        (["vocals: fkae"], "There is no model 'fkae' in the catalogue."),
        (["vocals: lost.ckpt"], "There is no model file or run folder 'lost.ckpt'."),
    ],
)
def test_a_step_that_can_not_be(capfd, tmp_path, then, said):
    code, out, err = separate(capfd, "-m", "fake", *(word for text in then for word in ("--then", text)))
    assert code == (2 if "model" not in said.split()[:4] else code) and not out
    assert said in " ".join(err.split())
    assert not fake_model.loads and not (tmp_path / "in" / "separated").exists()


def test_a_rest_of_stems_of_which_one_is_in_the_other(capfd):
    chain = ("-m", "fake", "--then", "other: vox")
    code, _, err = separate(capfd, *chain, "-t", "other", "-t", "choir", "--rest")
    assert code == 2 and "choir is a part of other, so the files would not add up to the mix." in " ".join(
        err.split()
    )
    code, out, err = separate(capfd, *chain, "-t", "other", "-t", "bass", "--rest", "--json")
    assert code == 0 and outputs(out) == ["bass", "other", "rest"], err


def test_what_stands_is_kept_and_what_another_chain_made_is_not(capfd):
    assert separate(capfd, *SPLIT)[0] == 0
    fake_model.loads.clear()
    code, out, _ = separate(capfd, *SPLIT, "--json")
    assert code == 0 and json.loads(out)["status"] == "skipped" and not fake_model.loads
    code, out, err = separate(capfd, *SPLIT, "-t", "vocals-rest", "-t", "bass", "--json")
    assert code == 0 and "has bass already" in err and outputs(out) == ["bass", "vocals-rest"], err
    # The same models, but the second takes another stem: these are others, so they are made again.
    code, out, err = separate(capfd, "-m", "fake", "--then", "drums: fake", "-t", "drums", "--json")
    assert code == 0 and "drums is replaced" in err
    assert share("drums") == pytest.approx(0.25, abs=1e-3)


def test_a_dry_run_knows_the_stems(capfd):
    code, out, err = separate(capfd, *SPLIT, "--dry-run")
    assert code == 0 and "vocals-drums.wav" in out + err and not fake_model.loads


def test_several_models_and_then_one(capfd):
    code, out, err = separate(capfd, "-m", "fake+vox", "--then", "choir: fake", "-t", "choir-bass", "--json")
    assert code == 0 and outputs(out) == ["choir-bass"], err
