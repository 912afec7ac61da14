"""What `--model` names: every form, its name in file names, and each refusal."""

import os
from pathlib import Path

import pytest

from sepcli.errors import ModelError, UsageError
from sepcli.weights.catalog import load_catalog
from sepcli.weights.modelspec import RUN_FILE, HubFile, read_model


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder `mine` and a checkpoint `other.th`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / RUN_FILE).touch()
    (tmp_path / "other.th").touch()
    (tmp_path / "2stems").mkdir()
    for name in ("model.index", "._model.index", "model.data-00000-of-00001"):
        (tmp_path / "2stems" / name).touch()
    (tmp_path / "4stems.tar.gz").touch()
    (tmp_path / "two").mkdir()
    for name in ("one.index", "other.index"):
        (tmp_path / "two" / name).touch()


@pytest.mark.parametrize(
    "text, entry, file, name",
    [
        ("htdemucs", "htdemucs", None, "htdemucs"),
        ("htdemucs=other.th", "htdemucs", "other.th", "htdemucs"),
        ("mine", None, f"mine/{RUN_FILE}", "mine"),
        (f"mine/{RUN_FILE}", None, f"mine/{RUN_FILE}", "mine"),
        ("other.th", None, "other.th", "other"),
        ("2stems", None, "2stems/model.index", "2stems"),
        ("2stems/model.index", None, "2stems/model.index", "2stems"),
        ("4stems.tar.gz", None, "4stems.tar.gz", "4stems"),
        ("spleeter:2stems", "spleeter-2stems", None, "spleeter-2stems"),
        ("spleeter:2stems=2stems", "spleeter-2stems", "2stems/model.index", "spleeter-2stems"),
        ("htdemucs=mine", "htdemucs", f"mine/{RUN_FILE}", "htdemucs"),
    ],
)
def test_forms(run, text, entry, file, name):
    spec = read_model(text, load_catalog())
    assert (spec.entry and spec.entry.name) == entry
    assert spec.file == (file and Path(file))
    assert spec.hub is None and spec.name == name


@pytest.mark.parametrize(
    "text, hub, name",
    [
        ("hf://a/b/c/d.safetensors", HubFile("a/b", None, "c/d.safetensors"), "b"),
        (f"hf://a/b@main/{RUN_FILE}", HubFile("a/b", "main", RUN_FILE), "b"),
    ],
)
def test_hub_addresses(text, hub, name):
    spec = read_model(text, load_catalog())
    assert spec.hub == hub and spec.name == name and spec.file is None


def test_the_folder_one_stands_in_has_a_name(run, monkeypatch):
    monkeypatch.chdir("mine")
    assert read_model(".", load_catalog()).name == "mine"
    assert read_model(RUN_FILE, load_catalog()).name == "mine"


def test_the_catalogue_comes_before_the_disk(run):
    os.mkdir("htdemucs")
    assert read_model("htdemucs", load_catalog()).entry


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("htdemuc", ModelError, "no model 'htdemuc' in the catalogue.*Did you mean htdemucs"),
        ("htdemuc=other.th", ModelError, "no model 'htdemuc' in the catalogue"),
        ("htdemucs=nowhere.th", ModelError, "no file 'nowhere.th'"),
        ("nowhere/run", ModelError, "no model file or run folder 'nowhere/run'"),
        ("nowhere.ckpt", ModelError, "no model file or run folder 'nowhere.ckpt'"),
        ("empty", ModelError, "'empty' is no run"),
        ("htdemucs=empty", ModelError, "'empty' is no run"),
        ("two", ModelError, "'two' holds several checkpoints: one.index, other.index"),
        ("spleeter:3stems", ModelError, "Did you mean spleeter:"),
        ("hf://owner/repo", UsageError, "hf://owner/repo/file"),
        ("hf:///repo/file", UsageError, "hf://owner/repo/file"),
    ],
)
def test_what_is_not_there_is_said(run, text, error, words):
    os.mkdir("empty")
    with pytest.raises(error, match=words):
        read_model(text, load_catalog())
