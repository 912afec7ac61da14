"""EnCodec's files: published names and shapes, as transformers writes them and as the authors did, and ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.ldm import FAMILY
from sepcli.weights.catalog import bundled_catalog, load_catalog, read_catalog
from sepcli.weights.checkpoint import Checkpoint
from tests.contracts import peak_error, run
from tests.fakehub import FakeHub
from tests.models.test_ldm_codec import TINY
from tests.parity.test_encodec import reference

ROOT = Path(__file__).parents[2]
KEYS = ROOT / "tests" / "keys" / "ldm" / "encodec_48khz.json"
SMALL = {
    "upsampling_ratios": [4, 2],
    "num_filters": 4,
    "hidden_size": 6,
    "codebook_size": 8,
    "sampling_rate": 4800,
    "target_bandwidths": [18.0],
}  # 600 latents a second of 3 bits: 10 codebooks
OURS = TINY | {"codebooks": 10, "codebook_size": 8}

CATALOG = """
[encodec-48k]
family = "ldm"
arch = "Codec"
sources = ["reconstruction"]
samplerate = {samplerate}
channels = 2
config = {{ {config} }}
files.model = {{ {pin} }}
"""


def published_shapes() -> dict[str, tuple[int, ...]]:
    said = json.loads(KEYS.read_text(encoding="utf-8"))

    def flat(tree: dict, prefix: str) -> dict[str, tuple[int, ...]]:
        return {
            name: shape
            for key, value in tree.items()
            for name, shape in (
                flat(value, f"{prefix}{key}.")
                if isinstance(value, dict)
                else {prefix + key: tuple(map(int, value.split(",")))}
            ).items()
        }

    shapes = flat(said["state"], "")
    assert len(shapes) == said["tensors"]
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == said["values"]
    return shapes


def original_name(name: str) -> str:
    """A published name of the hub's file as the authors' own file has it."""
    part, _, rest = name.partition(".layers.")
    if part == "quantizer":
        return f"quantizer.vq.layers.{rest.replace('.codebook.', '._codebook.')}"
    if ".lstm." in rest:
        return f"{part}.model.{rest}"
    place, kind, what = rest.rsplit(".", 2)
    transposed = part == "decoder" and place in ("3", "6", "9", "12")
    outer = "convtr" if transposed else "conv"
    return f"{part}.model.{place}.{outer}.{outer if kind == 'conv' else kind}.{what}"


@pytest.mark.parametrize("named", [str, original_name], ids=["hub", "original"])
def test_published_files_fit(named):
    with torch.device("meta"):
        model = FAMILY.archs["Codec"].build(make_config(FAMILY.archs["Codec"], {}))
        state = {named(name): torch.empty(shape) for name, shape in published_shapes().items()}
    tensors = FAMILY.convert(Checkpoint(Path("published"), state, {}), model)
    model.load_state_dict(tensors, strict=True)
    assert tensors["quantizer.codebooks"].shape == (16, 1024, 128)


def test_the_catalogue():
    entry = load_catalog()["encodec-48k"]
    (member,) = entry.members
    config = make_config(FAMILY.archs[member.arch], member.config)
    assert ((config.source,), config.samplerate, config.channels) == (
        entry.sources,
        entry.samplerate,
        entry.channels,
    )
    assert member.file.check == "full" and member.file.fallback.check == "prefix"
    assert member.file.bytes == json.loads(KEYS.read_text(encoding="utf-8"))["bytes"]


def write_catalog(folder: Path, pin: dict, config: dict) -> Path:
    def toml(value) -> str:
        return json.dumps(list(value) if isinstance(value, tuple) else value)

    path = folder / "catalog.toml"
    given = {name: value for name, value in config.items() if name != "samplerate"}
    text = CATALOG.format(
        samplerate=config.get("samplerate", 48000),
        config=", ".join(f"{key} = {toml(value)}" for key, value in config.items()),
        pin=", ".join(f"{key} = {json.dumps(value)}" for key, value in pin.items()),
    )
    path.write_text(text if given else text.replace("config = {  }\n", ""), encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path):
    """A small model of transformers, its file as `save_pretrained` makes it, and a catalogue that names it."""
    model = reference(**SMALL)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    catalog = write_catalog(tmp_path, {"url": "https://example.org/model.safetensors"}, OURS)
    return model, path, load_catalog([catalog])


@pytest.mark.slow
@pytest.mark.parametrize("bandwidth", [None, 3.6, 18.0])
def test_a_file_of_transformers(small, bandwidth):
    model, path, catalog = small
    options = {} if bandwidth is None else {"bandwidth": str(bandwidth)}
    codec = load_model(f"encodec-48k={path}", catalog=catalog, options=options).model
    wave = torch.randn(1, 2, 960)
    with torch.inference_mode():
        scale = wave.mean(1).square().mean().sqrt() + 1e-8
        z = model.encoder(wave / scale)
        if bandwidth is not None:
            z = model.quantizer.decode(model.quantizer.encode(z, bandwidth))
        expected = model.decoder(z) * scale
    assert peak_error(run(codec, wave)[:, 0], expected) < 2e-5


def test_a_file_of_the_authors(small, tmp_path):
    """A plain state dict, written by torch.save."""
    model, path, catalog = small
    state = {original_name(name).replace("convtr", "conv"): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "encodec.th")
    wave = torch.randn(1, 2, 960)
    results = [
        run(load_model(f"encodec-48k={file}", catalog=catalog).model, wave)
        for file in (path, tmp_path / "encodec.th")
    ]
    assert torch.equal(*results)


def test_a_file_of_another_shape_is_refused(small, tmp_path):
    reference(**SMALL | {"num_filters": 6}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="do not fit Codec"):
        load_model(f"encodec-48k={tmp_path / 'model.safetensors'}", catalog=small[2])


@pytest.mark.slow
def test_from_the_hub_to_a_file(tmp_path):
    """The published size: downloaded from a hub on loopback, one window through the program."""
    model = reference()
    model.save_pretrained(tmp_path / "weights")
    wave = 0.1 * torch.randn(2, 48000)
    soundfile.write(tmp_path / "song.wav", wave.T.numpy(), 48000, "FLOAT")
    with FakeHub() as hub:
        pin = hub.add("facebook/encodec_48khz", "model.safetensors", tmp_path / "weights" / "model.safetensors")
        catalog = write_catalog(tmp_path, pin, {})
        bundled = read_catalog(bundled_catalog())["encodec-48k"]
        entry = read_catalog(catalog)["encodec-48k"]
        assert entry.members[0].config == bundled.members[0].config and entry.sources == bundled.sources
        command = [sys.executable, "-m", "sepcli", "separate", "song.wav", "--model", "encodec-48k"]
        command += [
            "--catalog",
            "catalog.toml",
            "--device",
            "cpu",
            "--json",
            "--bit-depth",
            "32f",
            "--clip",
            "none",
            "--overlap",
            "0",
        ]
        env = hub.env(tmp_path / "home", PYTHONPATH=str(ROOT))
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert list(outputs) == ["reconstruction"]
    made, rate = soundfile.read(tmp_path / outputs["reconstruction"], dtype="float32")
    with torch.inference_mode():
        scale = wave.mean(0).square().mean().sqrt() + 1e-8
        expected = (model.decoder(model.encoder(wave[None] / scale)) * scale)[0]
    assert rate == 48000 and peak_error(torch.from_numpy(made.T.copy()), expected) < 2e-5
