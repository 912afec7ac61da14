"""What `--model` names: every form, its name in file names, and each refusal."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sepcli.errors import ModelError, UsageError
from sepcli.weights.catalog import load_catalog
from sepcli.weights.entries import Catalog
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


# --- several models ---


@pytest.mark.parametrize(
    ("text", "names", "weights"),
    [
        ("htdemucs+mdx_extra", "htdemucs+mdx_extra", [1, 1]),
        ("htdemucs:2+mdx_extra+hdemucs_mmi:.5", "htdemucs+mdx_extra+hdemucs_mmi", [2, 1, 0.5]),
        ("spleeter:2stems+htdemucs", "spleeter-2stems+htdemucs", [1, 1]),  # an alias with a colon
        ("spleeter:2stems:3+htdemucs", "spleeter-2stems+htdemucs", [3, 1]),
    ],
)
def test_models_of_the_catalogue_side_by_side_are_an_entry(text, names, weights):
    found = read_model(text, load_catalog())
    assert found.name == names == found.entry.name and not found.is_remote
    assert [weight for _, weight in found.parts] == weights
    assert [max(part.weights) for part in found.entry.parts] == weights
    assert found.blend == found.entry.blend == "avg_wave"


def test_several_of_which_one_is_a_file(run):
    found = read_model("htdemucs+mine:2", load_catalog())
    assert found.entry is None and [weight for _, weight in found.parts] == [1, 2]
    assert found.parts[1][0].file == Path("mine") / RUN_FILE and not found.is_remote
    assert found.name == "htdemucs+mine"
    hub = read_model("htdemucs+hf://owner/repo/a+b.ckpt+hf://owner/repo/c.ckpt:2", load_catalog())
    assert [part.text for part, _ in hub.parts] == [
        "htdemucs",
        "hf://owner/repo/a+b.ckpt",
        "hf://owner/repo/c.ckpt",
    ]
    assert [weight for _, weight in hub.parts] == [1, 1, 2] and hub.is_remote


def test_a_file_whose_name_holds_a_plus_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("htdemucs+mdx_extra", "a+b.th", "c:2"):
        (tmp_path / name).touch()
    assert read_model("htdemucs+mdx_extra", load_catalog()).file == Path("htdemucs+mdx_extra")
    assert read_model("a+b.th", load_catalog()).file == Path("a+b.th")
    found = read_model("htdemucs+a+b.th+mdx_extra=a+b.th+c:2", load_catalog())
    assert [part.text for part, _ in found.parts] == ["htdemucs", "a+b.th", "mdx_extra=a+b.th", "c:2"]
    assert {weight for _, weight in found.parts} == {1}


@pytest.mark.parametrize(
    ("text", "blend", "error", "words"),
    [
        ("htdemucs+htdemuc", "", ModelError, "Did you mean htdemucs"),
        ("htdemucs+nothing/there.th", "", ModelError, "no model file or run folder 'nothing/there.th'"),
        ("htdemucs+htdemucs", "", UsageError, "names 'htdemucs' twice"),
        ("htdemucs:0+mdx_extra", "", UsageError, "has the weight 0"),
        ("htdemucs:2+mdx_extra", "max_fft", UsageError, "Weights have no meaning"),
        ("htdemucs+mdx_extra", "mean", UsageError, "is 'mean', but must be one of avg_wave, median_wave"),
        ("htdemucs", "max_fft", UsageError, "is for several models, but 'htdemucs' is one"),
    ],
)
def test_what_can_not_be_side_by_side(text, blend, error, words):
    with pytest.raises(error, match=words):
        read_model(text, load_catalog(), blend=blend)


def test_the_way_of_a_catalogue_entry_can_be_changed():
    plain = read_model("vocals-clean", load_catalog())
    assert plain.entry.blend == "min_fft"
    changed = read_model("vocals-clean", load_catalog(), blend="avg_wave")
    assert changed.entry.blend == changed.blend == "avg_wave" and changed.entry.parts == plain.entry.parts


def test_a_model_of_queries_is_none_of_several():
    catalog = load_catalog()
    asked = replace(catalog["htdemucs"], name="asked", min_query=1.0)
    with pytest.raises(UsageError, match="'asked' takes queries"):
        read_model("asked+mdx_extra", Catalog(catalog, {"asked": asked}))
