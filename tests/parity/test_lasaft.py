"""The LaSAFT networks against what the originals computed (tests/golden/lasaft), in the tolerances there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sepcli.engine import chunking
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.models.lasaft import FAMILY
from sepcli.models.lasaft.query import LaSAFTQuery
from sepcli.models.lasaft.spectral import Conditioned
from sepcli.models.lasaft.v1 import LaSAFTv1
from sepcli.weights.checkpoint import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "lasaft"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/case.json"))
TARGETS = ("vocals", "drums", "bass", "other")
CPU = torch.device("cpu")


def arguments(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The case's network in our words: arch and config."""
    said = case["config"]
    config = {
        "sources": tuple(said["targets_order"]),
        "n_fft": said["n_fft"],
        "hop_length": said["hop"],
        "num_frame": said["frames_T"],
        "margin": 0,
        "n_blocks": said["n_blocks"],
        "internal_channels": said["channels_c"],
        "n_internal_layers": said["n_layers_per_dense_block"],
        "embedding_dim": said["embedding_dim_e"],
        "num_tdfs": said["latent_sources_L"],
        "dk": said["dk"],
        "activation": said["activation"].split()[0],
    }
    kind = said["frequency_transformation"]
    if kind != "LightSAFT, v2 form":
        return "LaSAFTv1", {**config, "analyser": "heavy" if kind == "heavy LaSAFT" else "light"}
    heard = [word for word in ("query", "key") if said[f"{word}_listening"]]
    config["listening"] = "_".join(heard) or "none"
    if "query_network" not in said:
        return "LaSAFTv2", config
    net = said["query_network"]
    channels = (net["first_conv_channels"], *net["conv_channels"])
    return "LaSAFTQuery", {
        **config,
        "query_n_fft": said["n_fft"],
        "query_channels": channels,
        "query_hidden": net["gru_hidden"],
    }


class Golden:
    """One case: our network with its weights, its tensors, and the comparison."""

    def __init__(self, name: str, **other: Any):
        self.case = json.loads((GOLDEN / name / "case.json").read_text())
        self.tensors = load_file(GOLDEN / name / "io.safetensors")
        arch, config = arguments(self.case)
        arch = FAMILY.archs[arch]
        self.model: Conditioned = arch.build(arch.config(**{**config, **other})).eval()
        weights = FAMILY.convert(read_checkpoint(GOLDEN / name / "weights.safetensors"), self.model)
        if isinstance(self.model, LaSAFTQuery):  # whatever the queries say
            weights["mean_latents"] = torch.cat([self.tensors[f"query.z.{target}"] for target in TARGETS])
        self.model.load_state_dict(weights, strict=True)

    def z(self, target: str) -> Tensor:
        return self.model.condition(torch.tensor([TARGETS.index(target)]))

    def check(self, group: str, found: dict[str, Tensor]) -> None:
        for name, result in found.items():
            expected = self.tensors[name]
            assert result.shape == expected.shape, name
            error = (result - expected).abs().max().item()
            assert error <= self.case["tolerance_by_group"][group]["tolerance"], (name, error)


@pytest.fixture(params=CASES)
def golden(request) -> Golden:
    return Golden(request.param)


def test_every_case_is_here():
    assert CASES == [
        "aq_as_written",
        "aq_qk",
        "v1_1_lightsaft",
        "v1_2_light",
        "v1_heavy",
        "v2_k",
        "v2_none",
        "v2_q",
        "v2_qk",
        "v2_qk_leaky",
    ]


def test_parameters(golden):
    assert sum(p.numel() for p in golden.model.parameters()) == golden.case["parameters"]


@pytest.mark.parametrize("prepared", [False, True])
@torch.inference_mode()
def test_spectrograms_and_waveforms(golden, prepared):
    model, tensors = golden.model, golden.tensors
    mix = tensors["wave.input"].transpose(1, 2)
    if prepared:
        model.prepare(mix.shape[-1], CPU, torch.float32)
    vocals = model.estimate(tensors["spec.input"], golden.z("vocals"))
    golden.check("spec.output", {"spec.output.vocals": vocals})
    golden.check("wave.stft", {"wave.stft": model.spectrogram(mix)})
    stems = model(mix).transpose(-1, -2)
    golden.check("wave.output", {f"wave.output.{target}": stems[:, i] for i, target in enumerate(TARGETS)})


@torch.inference_mode()
def test_values_on_the_way(golden):
    model, spec = golden.model, golden.tensors["spec.input"]
    found = {}
    model.mid_block.register_forward_hook(lambda _, given, out: found.update({"probe.mid": out}))
    model.decoders[0].register_forward_hook(lambda _, given, out: found.update({"probe.decoder0.out": out}))
    constants = model.constants(golden.z("vocals"))
    model.finish(model.share(spec), constants)
    if not isinstance(model, LaSAFTQuery):
        found["probe.z"] = golden.z("vocals")
    if isinstance(model, LaSAFTv1):
        found["probe.pocm.gamma_all"] = constants.gamma.flatten(1)
        found["probe.pocm.beta_all"] = constants.beta.flatten(1)
    else:
        found["probe.decoder0.pocm_weights"] = torch.cat([constants[0].gamma.flatten(1), constants[0].beta], 1)
    golden.check("probe", found)


@torch.inference_mode()
def test_attention(golden):
    model = golden.model
    found = {}
    for target in TARGETS:
        z = golden.z(target)
        maps = [
            (f"decoder{i}", weights)
            for i, weights in enumerate(model.attention(golden.tensors["spec.input"], z))
        ]
        if isinstance(model, LaSAFTv1):
            blocks = [*(f"encoder{i}" for i in range(len(model.encoders))), "mid"]
            maps += zip(blocks, (w[:, None] for w in model.constants(z).attention), strict=False)
        found |= {f"probe.{block}.attention.{target}": weights for block, weights in maps}
    assert found.keys() == {name for name in golden.tensors if ".attention." in name}
    golden.check("probe", found)


@pytest.mark.parametrize("name", ["aq_as_written", "aq_qk"])
@torch.inference_mode()
def test_queries(name):
    golden = Golden(name)
    queries = {name: wave for name, wave in golden.tensors.items() if name.startswith("query.wave")}
    golden.check(
        "query.z",
        {
            name.replace("wave", "z"): golden.model.query(golden.model.query_spectrogram(wave.transpose(1, 2)))
            for name, wave in queries.items()
        },
    )


@pytest.mark.parametrize("overlap", [0, 0.5])
def test_a_track_through_the_engine(overlap, monkeypatch):
    """Cut, separated and put together by the engine as by the original.

    What we do otherwise is taken back or left out: we fade where the original takes a plain mean, centre a
    short last window in real audio where it puts silence behind, and at an overlap begin one more window near
    the end, so that there too every sample is heard twice. (At overlap 0 the end is compared.)
    """
    monkeypatch.setattr(chunking, "triangle", torch.ones)
    track = load_file(GOLDEN / "v2_qk" / "track.safetensors")
    said = json.loads((GOLDEN / "v2_qk" / "case.json").read_text())["track"]
    model = Golden("v2_qk", num_frame=said["frames_T"], margin=said["trim_samples"]).model.select(["vocals"])
    assert model.segment.samples == said["window_samples"]
    mix, expected = track["input"].T, track[f"output.vocals.overlap_{overlap}"].T
    silence = torch.zeros(2, 2 * said["kept_samples_per_chunk"])  # so that no window is short
    engine = Engine(model, Settings(overlap=overlap), CPU, torch.float32)
    blocks = torch.cat([mix, silence], dim=-1)[None].split(5000, dim=-1)
    vocals = torch.cat(list(engine.separate(iter(blocks))), dim=-1)[0, 0]
    same = mix.shape[-1] if overlap == 0 else 3 * said["chunk_hop_at_overlap_0.5"]
    assert (vocals[:, :same] - expected[:, :same]).abs().max() <= said["tolerance"]
