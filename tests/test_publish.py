"""Publishing a run: its card and entry, the upload to a hub on loopback, and the way back to a separation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard, constants

from sepcli.api import separate
from sepcli.cli.app import main
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model, save_model
from sepcli.models.family import get_family
from sepcli.training import modelcard, publish
from sepcli.weights.catalog import read_catalog
from sepcli.weights.entries import Catalog
from tests.fakehub import FakeHub
from tests.models.test_lasaft import tiny
from tests.sounds import music

SOURCES = ("drums", "bass", "other", "vocals")
CONFIG = """
about = "A small one, for a test."

[model]
family = "demucs"
arch = "HTDemucs"

[[data.train]]
path = "/home/somebody/music/stems"
layout = "stems"

[[data.train]]
path = "groove"
stems = ["drums"]

[optim]
lr = 0.0003
"""
METRICS = [
    {"step": 50, "loss": 0.2, "lr": 0.0003},
    {"step": 60, "problem": "/home/somebody/music/stems/x/bass.wav can't be read"},
    {
        "step": 70,
        "valid": {"raw": {"drums": 1.0, "score": 1.0}},
        "best": {"score": 1.0, "weights": "raw", "step": 70},
    },
    {
        "step": 100,
        "valid": {"raw": {"drums": 5.0, "bass": 3.0, "score": 4.0}, "step0.9": {"score": 3.9}},
        "best": {"score": 4.0, "weights": "raw", "step": 100},
    },
    {
        "step": 200,
        "valid": {"raw": {"drums": 4.0, "bass": 2.0, "score": 3.0}, "step0.9": {"score": 2.9}},
        "best": {"score": 4.0, "weights": "raw", "step": 100},
    },
]


def save(path, seed=0):
    torch.manual_seed(seed)
    arch = get_family("demucs").archs["HTDemucs"]
    config = arch.config(SOURCES, channels=8, depth=2, t_layers=1, t_heads=2, segment=Fraction(1, 4), nfft=512)
    save_model(arch.build(config).state_dict(), path, family="demucs", arch="HTDemucs", config=config)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(path)
    return path


@pytest.fixture
def run(weights, tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    shutil.copy(weights, folder)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS) + '{"step": 2')
    (folder / "curves.png").write_bytes(b"\x89PNG curves")
    (folder / "state.pt").write_bytes(b"what the run goes on from")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        hub.tokens["hf_me"] = {"me", "us"}
        environment = hub.env(tmp_path, NO_COLOR="1", HF_TOKEN="hf_me")
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # The client reads these when it is imported, which another test may have done.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


# --- what a run says of itself ---


def test_a_run_is_read(run):
    read = modelcard.read_run(run)
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert (read.sha256, read.bytes) == (digest, (run / "model.safetensors").stat().st_size)
    assert (read.sources, read.samplerate, read.channels, read.segment) == (SOURCES, 44100, 2, 0.25)
    assert read.parameters == sum(p.numel() for p in load_model(str(run)).model.parameters())
    assert read.scores == {"drums": 5.0, "bass": 3.0, "score": 4.0} and read.steps == 100
    assert read.settings["data"]["train"][0]["path"] == "stems"


def test_only_the_checkpoint_must_be_there(run, tmp_path):
    for name in ("config.toml", "metrics.jsonl", "curves.png", "state.pt"):
        (run / name).unlink()
    upload = publish.prepare(run, "me/model")
    assert list(upload.files) == ["README.md", "model.safetensors"]
    assert "Scores" not in upload.card and "config.toml" not in upload.card and "curves" not in upload.card
    (run / "model.safetensors").unlink()
    for folder, words in (
        (run, "has no model.safetensors"),
        (tmp_path / "absent", "does not exist"),
        (__file__, "is not a folder"),
    ):
        with pytest.raises(ModelError, match=words):
            publish.prepare(type(run)(folder), "me/model")


def test_validations_of_another_kind_are_not_given_for_decibels(run):
    with (run / "config.toml").open("a") as file:
        file.write('\n[run]\nvalid_metric = "lsd"\n')
    read = modelcard.read_run(run)
    assert read.scores == {} and read.steps == 100


def test_weights_that_can_not_be_loaded_are_not_published(run):
    from safetensors.torch import load_file, save_file

    path = run / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(ModelError, match="does not say which network"):
        publish.prepare(run, "me/model")
    save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelError):
        publish.prepare(run, "me/model")


def test_places_of_this_machine_stay_here(run):
    upload = publish.prepare(run, "me/model")
    assert set(upload.files) == {"README.md", "model.safetensors", "config.toml", "metrics.jsonl", "curves.png"}
    for name, content in upload.files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert b"somebody" not in content and str(run).encode() not in content, name
    assert tomllib.loads(upload.files["config.toml"].decode())["optim"] == {"lr": 0.0003}
    lines = upload.files["metrics.jsonl"].splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 70, 100, 200]


@pytest.mark.parametrize(
    "path,name", [("/a/b", "b"), ("C:\\music\\stems", "stems"), ("~/x", "x"), ("a/b", "a/b"), ("39/5", "39/5")]
)
def test_only_absolute_paths_are_shortened(path, name):
    assert modelcard.without_places({"data": [{"path": path}]}) == {"data": [{"path": name}]}


def test_the_card_has_what_the_hub_and_a_user_look_for(run):
    text = publish.prepare(run, "me/model", license="CC-BY-4.0").card
    head = ModelCard(text).data.to_dict()
    assert head["library_name"] == "sepcli" and head["pipeline_tag"] == "audio-to-audio"
    assert head["license"] == "cc-by-4.0"
    assert {"audio-source-separation", "demucs", "vocals"} <= set(head["tags"])
    for words in (
        "drums, bass, other and vocals",
        "A small one, for a test.",
        "44100 Hz, stereo",
        "HTDemucs",
        "Trained on stems; groove (only drums).",
        "after 100 steps",
        "| drums | 5.00 |",
        "| mean | 4.00 |",
        "![Loss and scores over steps](curves.png)",
        "--model hf://me/model/model.safetensors",
        'segment = "1/4"',
        modelcard.read_run(run).sha256,
    ):
        assert words in text, words
    assert "hf://me/model@draft/model.safetensors" in publish.prepare(run, "me/model", branch="draft").card


@pytest.mark.slow
@pytest.mark.parametrize(
    "sources, words",
    [
        (
            ("a", "b"),
            (
                "apart into a and b, or takes the sound of a recorded example (a query) out of it",
                'separate(model, audio, samplerate)\nprint(stems["a"].shape)',
            ),
        ),
        (
            (),
            (
                "takes the sound of a recorded example (a query) out of a mix",
                "| none of its own: one for each",
                " --query NAME=example.wav\n",
                'queries={"NAME": "example.wav"})\nprint(stems["NAME"].shape)',
            ),
        ),
    ],
)
def test_the_card_of_a_model_of_queries(tmp_path, sources, words):
    config = tiny("query").config
    config = type(config)(**{**vars(config), "sources": sources})
    model = get_family("lasaft").archs["LaSAFTQuery"].build(config)
    path = tmp_path / "model.safetensors"
    save_model(model.state_dict(), path, family="lasaft", arch="LaSAFTQuery", config=config)
    upload = publish.prepare(tmp_path, "me/model")
    for found in (*words, "| queries | of "):
        assert found in upload.card, found
    (tmp_path / "my.toml").write_text(modelcard.entry(modelcard.read_run(tmp_path), "me/model", "0" * 40, None))
    entry = read_catalog(tmp_path / "my.toml")["model"]
    assert entry.sources == sources and entry.min_query == model.min_query


def test_the_licence_of_the_card(run):
    head = ModelCard(publish.prepare(run, "me/model", license="My-Own.1").card).data.to_dict()
    assert head["license"] == "other" and head["license_name"] == "my-own.1"
    text = publish.prepare(run, "me/model").card
    assert "license" not in ModelCard(text).data.to_dict() and "not stated" in text


def test_the_entry_is_one_of_a_catalogue(run, tmp_path):
    read = modelcard.read_run(run)
    for repo, name in (("me/model", "model"), ("me/my.model_2", "my.model_2")):
        path = tmp_path / f"{name}.toml"
        path.write_text(modelcard.entry(read, repo, "a" * 40, None))
        entry = read_catalog(path)[name]
        assert entry.files[0].source == f"hf://{repo}@{'a' * 40}/model.safetensors" and entry.check == "full"
        assert entry.scores[0].value == 4.0 and entry.scores[0].stems == {"drums": 5.0, "bass": 3.0}
        assert entry.license == "unspecified" and entry.training_data == "stems; groove (only drums)"
        # The entry's config is that of the file, or it would be refused.
        loaded = load_model(f"{name}={run / 'model.safetensors'}", catalog=Catalog({name: entry}))
        assert loaded.sources == SOURCES


def test_what_can_not_be_is_refused_before_anything_is_read(tmp_path):
    absent = tmp_path / "absent"
    for repo in (
        "model",
        "me/",
        "/model",
        "a/b/c",
        "me/mo del",
        "me/mo--del",
        "me/model.git",
        "me/_x",
        "-me/x",
        "",
        "me/" + "x" * 100,
    ):
        with pytest.raises(UsageError, match="repo=.* is no name of a repository"):
            publish.prepare(absent, repo)
    for branch in ("a" * 40, "a b", "-x", "", "a..b"):
        with pytest.raises(UsageError, match="branch="):
            publish.prepare(absent, "me/model", branch=branch)
    for license in ("", "mit\nx: y"):
        with pytest.raises(UsageError, match="license="):
            publish.prepare(absent, "me/model", license=license)


# --- to the hub ---


def test_one_commit_holds_it_all(run, hub):
    upload = publish.prepare(run, "me/model", license="mit")
    done = publish.publish(upload)
    repo = hub.repos["me/model"]
    assert not repo.private and len(repo.commits) == 2 and len(repo.messages) == 1
    assert "my run" in repo.messages[0] and done.commit == repo.branches["main"]
    files = repo.files("main")
    assert set(files) == {".gitattributes", *upload.files}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert files["README.md"].decode() == upload.card
    assert list(hub.objects.values()) == [files["model.safetensors"]]  # the rest came inside the commit
    assert done.spec == f"hf://me/model@{done.commit}/model.safetensors" and done.url == f"{hub.url}/me/model"


def test_pushing_again(run, hub):
    first = publish.publish(publish.prepare(run, "me/model"))
    again = publish.publish(publish.prepare(run, "me/model"))
    assert again.commit == first.commit and len(hub.repos["me/model"].commits) == 2  # nothing changed
    save(run / "model.safetensors", seed=1)
    third = publish.publish(publish.prepare(run, "me/model"), message="Better")
    assert third.commit != first.commit and hub.repos["me/model"].messages[1:] == ["Better"]
    assert hub.repos["me/model"].files("main")["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_a_branch_leaves_main_alone(run, hub):
    for _ in range(2):  # made, then there
        done = publish.publish(publish.prepare(run, "us/model", branch="draft"))
    repo = hub.repos["us/model"]
    assert list(repo.files("main")) == [".gitattributes"] and repo.branches["draft"] == done.commit


def test_private_means_private(run, hub):
    upload = publish.prepare(run, "me/model")
    publish.publish(upload, private=True)
    assert hub.repos["me/model"].private
    publish.publish(publish.prepare(run, "me/open"))
    commits = len(hub.repos["me/open"].commits)
    with pytest.raises(ModelError, match="public, not private"):
        publish.publish(publish.prepare(run, "me/open"), private=True)
    assert len(hub.repos["me/open"].commits) == commits
    assert publish.publish(upload).commit  # without --private what is there stays as it is
    assert hub.repos["me/model"].private


def test_nobody_is_logged_in(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match="Nobody is logged in") as caught:
        publish.publish(publish.prepare(run, "me/model"))
    assert "hf auth login" in caught.value.remedy and "HF_TOKEN" in caught.value.remedy and hub.count() == 0
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(ModelError, match="does not accept the token") as caught:
        publish.publish(publish.prepare(run, "me/model"))
    assert "hf auth login" in caught.value.remedy and not hub.repos


def test_no_right_to_write(run, hub):
    with pytest.raises(ModelError, match="may not write") as caught:
        publish.publish(publish.prepare(run, "others/model"))
    assert "'others'" in caught.value.remedy and not hub.repos
    publish.publish(publish.prepare(run, "me/model"))
    hub.tokens["hf_me"] = set()  # it was there, but not for this token
    with pytest.raises(ModelError, match="may not write"):
        publish.publish(publish.prepare(run, "me/model"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "where,kind,words",
    [
        ("/repos/create", "404", "not there"),
        ("/preupload/", "403", "may not write"),
        ("/commit/", "404", "not there"),
        ("/commit/", "401", "does not accept the token"),
        ("/commit/", "500", "can't be written now"),
        ("/api/models/me/model", "503", "can't be written now"),
        ("objects/batch", "503", "can't be written now"),
        ("/lfs/", "500", "can't be written now"),
        ("/lfs/verify", "404", "not there"),
    ],
)
def test_whatever_the_hub_answers_is_said_and_nothing_is_committed(run, hub, where, kind, words):
    hub.fault(where, kind)
    with pytest.raises(ModelError, match=words) as caught:
        publish.publish(publish.prepare(run, "me/model"))
    assert caught.value.remedy
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())


def test_a_card_that_the_hub_refuses(run, hub, monkeypatch):
    monkeypatch.setattr(modelcard, "HUB_LICENSES", frozenset({"odd"}))
    with pytest.raises(ModelError, match="one of the list"):
        publish.publish(publish.prepare(run, "me/model", license="odd"))


def test_offline_and_unreachable(run, hub, monkeypatch):
    upload = publish.prepare(run, "me/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        publish.publish(upload)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="can't be reached"):
        publish.publish(upload)
    assert hub.count() == 0


def test_a_checkpoint_that_changes_meanwhile_is_noticed(run, hub):
    upload = publish.prepare(run, "me/model")
    save(run / "model.safetensors", seed=1)
    with pytest.raises(ModelError, match="was replaced"):
        publish.publish(upload)


# --- the command ---


@pytest.fixture
def push(capsys):
    def push(*arguments):
        code = main(["models", "push", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return push


def test_a_dry_run_asks_nothing(run, hub, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = push(run, "--repo", "me/model", "--dry-run")
    assert code == 0 and hub.count() == 0 and "# model\n" in out and "No --license" in err
    assert [line.split()[0] for line in out.splitlines()[:6]] == [
        "FILE",
        "README.md",
        "model.safetensors",
        "config.toml",
        "metrics.jsonl",
        "curves.png",
    ]
    code, out, _ = push(run, "--repo", "me/model", "--dry-run", "--json", "--license", "mit")
    plan = json.loads(out)
    assert code == 0 and plan["files"]["curves.png"] == 11 and plan["card"].startswith("---\n")


def test_the_command_s_failures(run, hub, push, tmp_path, monkeypatch):
    assert push(run)[0] == 2
    code, _, err = push(run, "--repo", "model")
    assert code == 2 and "OWNER/NAME" in err
    code, _, err = push(tmp_path, "--repo", "me/model")
    assert code == 3 and "sepcli train" in err and hub.count() == 0
    code, _, err = push(run, "--repo", "others/model")
    assert code == 3 and "hf auth login" in err
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = push(run, "--repo", "me/model", "--json")
    assert code == 3 and json.loads(out)["error"]["code"] == "no_token"


@pytest.mark.slow
def test_a_pushed_model_separates_as_the_run_does(run, hub, push, tmp_path):
    """Push, then separate by the printed name, as a user elsewhere would, and by the printed entry."""
    audio = music(30_000)
    wanted = separate(load_model(str(run)).model, audio, 44100, device="cpu", precision="float32")
    code, out, err = push(run, "--repo", "me/small", "--private", "--license", "mit")
    assert code == 0 and "%" not in err and "it/s" not in err  # the client draws no bar of its own
    spec, entry = out.split("\n", 1)
    assert spec == f"hf://me/small@{hub.repos['me/small'].branches['main']}/model.safetensors"

    (tmp_path / "catalog.toml").write_text(entry)
    by_entry = load_model("small", catalog=Catalog(read_catalog(tmp_path / "catalog.toml"))).model
    found = separate(by_entry, audio, 44100, device="cpu", precision="float32")
    for stem in SOURCES:
        np.testing.assert_array_equal(found[stem], wanted[stem])

    soundfile.write(tmp_path / "song.wav", audio.T, 44100, subtype="FLOAT")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "sepcli",
            "separate",
            "song.wav",
            "-m",
            spec,
            "--device",
            "cpu",
            "--precision",
            "float32",
        ],
        cwd=tmp_path,
        check=True,
        env=hub.env(tmp_path / "elsewhere", HF_TOKEN="hf_me", OMP_NUM_THREADS="1"),
    )
    for stem in SOURCES:
        found, _ = soundfile.read(tmp_path / "separated" / "small" / "song" / f"{stem}.wav", dtype="float32")
        assert np.abs(wanted[stem]).max() > 0
        np.testing.assert_allclose(found.T, wanted[stem], atol=1e-6)
