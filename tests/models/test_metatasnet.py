"""Meta-TasNet: tiny networks for the contract, equality with the original, levels, and checkpoints."""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.models.config import make_config
from sepcli.models.metatasnet import FAMILY
from sepcli.models.metatasnet.checkpoint import settings
from sepcli.models.metatasnet.network import MetaTasNet, MetaTasNetConfig, MetaTasNetOptions, fitting
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, peak_error, run

TESTS = Path(__file__).parents[1]
GOLDEN = {path.parent.name: path.parent for path in sorted(TESTS.glob("golden/metatasnet/*/case.json"))}
ARCH = FAMILY.archs["MetaTasNet"]
TINY = dict(latent=8, mels=4, bottleneck=8, hidden=8, layers=2, stack=1, embedding=3, narrow=2, chunk=4000)


def tiny(*sources, stages=2, fit=True, **other):
    torch.manual_seed(0)
    rate = 8000 * 2 ** (stages - 1)
    config = MetaTasNetConfig(**{"sources": sources, "stages": stages, "samplerate": rate, **TINY, **other})
    model = MetaTasNet(config)
    model.options = MetaTasNetOptions(fit)
    return model.eval()


NETWORKS = {
    "MetaTasNet": {
        "generated": Case(partial(tiny, "a", "b", "c", fit=False), [1, 3001]),
        "independent, fitted": Case(partial(tiny, "a", "b", stages=1, embedding=0, bias=True), [2500]),
    }
}


# --- equality with the original ------------------------------------------------------------------------------


def golden(name):
    """A network of the original with its weights, what it heard and made, and what is said of it."""
    folder = GOLDEN[name]
    case, io = json.loads((folder / "case.json").read_text()), load_file(folder / "io.safetensors")
    checkpoint = read_checkpoint(folder / "weights.safetensors")
    model = MetaTasNet(make_config(ARCH, settings(case["config"]))).eval()
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return model, io, case, checkpoint


def original_walk(model, mixes, pieces):
    """The original's way through a track: mixes [1, 1, T] of all stages -> the stems [1, S, 1, T] of each.

    Pieces of one length, without overlap; each is computed with up to 8 s on both sides, which are thrown away.
    What a piece hears is shortened to whole strides: at its end if it begins with the track, else at its start.
    """
    samples, context = mixes[0].shape[-1], 8 * 8000
    borders = [int(samples / pieces * number + 0.5) for number in range(pieces)] + [samples]
    made = []
    for start, stop in pairwise(borders):
        first, last = max(0, start - context), min(samples, stop + context)
        odd = (last - first) % model.config.stride
        first, last = (first, last - odd) if first == 0 else (first + odd, last)
        latents, stems = None, []
        for number, (stage, mix) in enumerate(zip(model.stages, mixes, strict=True)):
            factor = 2**number
            latents = stage(mix[..., factor * first : factor * last], latents)
            stems.append(stage.decoder(latents)[..., factor * (start - first) : factor * (stop - first)])
        made.append(stems)
    return [torch.cat(each, dim=-1) for each in zip(*made, strict=True)]


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    model, io, case, checkpoint = golden(name)
    told = FAMILY.detect(checkpoint)
    assert {key: getattr(model.config, key) for key in told.config} == dict(told.config)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == case["parameters"]
    latents = None
    with torch.inference_mode():
        for number, stage in enumerate(model.stages):
            latents = stage(io[f"input.{number}"], latents)
            stems = stage.decoder(latents)
            assert (stems - io[f"output.{number}"]).abs().max() < case["tolerance"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_original(name):
    """Of a track that is shorter than what a piece hears around it: so every piece hears all of it."""
    model, io, case, _ = golden(name)
    mixes = [io[f"input.{number}"] for number in range(len(model.stages))]
    with torch.inference_mode():
        for number, stems in enumerate(original_walk(model, mixes, 3)):
            assert (stems - io[f"chunked.{number}"]).abs().max() < case["tolerance"]


# --- what the network promises -------------------------------------------------------------------------------


def test_the_levels_of_stems():
    """Their sum is the mix, where that can be; stems without sound get a number."""
    stems = torch.randn(2, 3, 1, 1000)
    factors = torch.tensor([[0.5, 2.0, -1.0], [3.0, 0.1, 1.0]])
    mix = (stems * factors[:, :, None, None]).sum(dim=1)
    assert peak_error(fitting(stems, mix), factors) < 1e-5
    stems[:, 1] = 0
    assert fitting(stems, mix).isfinite().all()
    assert (fitting(torch.zeros(1, 2, 1, 9), torch.zeros(1, 1, 9)) == 0).all()


def test_fitted_stems_are_nearest_to_the_mix():
    model, mix = tiny("a", "b"), torch.randn(1, 1, 4000)
    stems = run(model, mix)
    rest = mix - stems.sum(dim=1)
    for stem in stems.unbind(1):
        assert abs((rest * stem).sum()) < 1e-4 * mix.norm() * stem.norm()


def test_masks_add_up_to_one():
    model = tiny("a", "b", "c")
    masks, stage = [], model.stages[0]
    stage.mask.register_forward_hook(lambda module, inputs, output: masks.append(output))
    run(model, torch.randn(1, 1, 4000))
    assert masks[0].shape[:3] == (1, 3, 8)
    assert torch.allclose(masks[0].sum(dim=1), torch.ones(()))


# --- checkpoints ---------------------------------------------------------------------------------------------


def test_the_published_file():
    listed = json.loads((TESTS / "keys" / "metatasnet" / "default.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, (_, shape) in listed.items()}
    checkpoint = Checkpoint(Path("best_model.pt"), {"state_dict": tensors}, format="torch")
    told = FAMILY.detect(checkpoint)
    with torch.device("meta"):
        model = MetaTasNet(make_config(ARCH, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert model.config == MetaTasNetConfig() and not told.missing
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 45545602


def test_a_file_with_the_settings_of_its_program(tmp_path):
    """They are a class of a foreign package, of which only the values are taken."""
    theirs = json.loads((GOLDEN["generated"] / "case.json").read_text())["config"]
    model = MetaTasNet(make_config(ARCH, settings(theirs)))
    file = {"args": argparse.Namespace(**theirs), "state_dict": model.state_dict()}
    torch.save(file, tmp_path / "best_model.pt")
    checkpoint = read_checkpoint(tmp_path / "best_model.pt", foreign=FAMILY.packages)
    said = FAMILY.describe(checkpoint)
    assert make_config(ARCH, said.config) == model.config and model.config.stack == 2
    assert FAMILY.convert(checkpoint, model).keys() == model.state_dict().keys()
