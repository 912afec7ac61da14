"""Spleeter: tiny networks for the contract, the laws of its masks, and its checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.detection import find_network
from sepcli.models.family import all_families
from sepcli.models.spleeter import FAMILY, Spleeter, SpleeterConfig, SpleeterOptions
from sepcli.models.spleeter.unet import keras_norm
from sepcli.nn.norm import Norm
from sepcli.nn.stft import spleeter_istft, spleeter_stft
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint
from tests import bundles
from tests.contracts import Case, peak_error, run

KEYS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "keys" / "spleeter").glob("*.json"))}
TINY = dict(frame_length=512, frames=64, bins=128, filters=(2, 3, 4, 5, 6, 8))
STEMS = ("vocals", "drums", "rest")


def tiny(options=None, **other):
    torch.manual_seed(0)
    model = Spleeter(SpleeterConfig(**{"sources": STEMS, **TINY, **other})).eval()
    for module in model.modules():
        if isinstance(module, Norm):
            module.mean.uniform_(-0.5, 0.5)
            module.variance.uniform_(0.5, 2)
    for unet in model.unets:
        torch.nn.init.normal_(unet.last.bias)
    model.options = options or SpleeterOptions()
    return model


LENGTHS = [1, 128, 5000, 12000]
NETWORKS = {
    "Spleeter": {
        "ratio": Case(tiny, LENGTHS),
        "softmax, average": Case(
            partial(tiny, SpleeterOptions(extension="average", exponent=1), output="softmax"), LENGTHS
        ),
        "network": Case(partial(tiny, SpleeterOptions(masks="network")), LENGTHS),
        "network, softmax": Case(partial(tiny, SpleeterOptions(masks="network"), output="softmax"), LENGTHS),
        "wiener": Case(partial(tiny, SpleeterOptions(mwf=True)), LENGTHS),
        "wiener, network": Case(partial(tiny, SpleeterOptions(mwf=True, masks="network")), LENGTHS),
        "mono, ELU": Case(partial(tiny, channels=1, conv_activation="ELU", deconv_activation="ELU"), LENGTHS),
    }
}


# --- the signal's way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", LENGTHS)
def test_the_spectrogram_can_be_inverted(samples):
    wave, window = torch.randn(2, 3, samples), torch.hann_window(512)
    spec = spleeter_stft(wave, window)
    assert spec.shape == (2, 3, -(-(samples + 512) // 128), 257)
    assert not spec[..., 0, :].any()  # the silence in front
    assert peak_error(spleeter_istft(spec, samples, window), wave) < 1e-5


def test_ratio_masks_share_the_mix():
    """With the average above the networks' bins, the stems add up to the mix, silence included."""
    model = tiny(SpleeterOptions(extension="average"))
    mix = torch.randn(1, 2, 12345)
    mix[..., 4000:8000] = 0
    assert peak_error(run(model, mix).sum(dim=1), mix) < 1e-4


def test_by_default_nothing_is_above_the_networks_bins():
    mix = torch.sin(torch.arange(8000) * torch.pi * 0.8).expand(1, 2, -1)  # 128 of 257 bins are seen
    middle = slice(1000, 7000)
    assert run(tiny(), mix)[..., middle].abs().max() < 1e-3
    whole = run(tiny(SpleeterOptions(bins=256)), mix)[..., middle]
    assert peak_error(whole.sum(dim=1), mix[..., middle]) < 1e-2


def test_blocks_know_nothing_of_each_other():
    """What comes after the end of a block does not change it, but where its last windows reach."""
    model, mix = tiny(), torch.randn(1, 2, 30000)
    last = 63 * 128  # where the block's last window ends, and the one after it is the first to reach
    alone, both = run(model, mix[..., :last]), run(model, mix)
    begins = last - 384
    assert peak_error(both[..., :begins], alone[..., :begins]) < 1e-5
    assert peak_error(both[..., begins:last], alone[..., begins:last]) > 1e-2


def test_network_masks_run_one_network_a_stem(monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch.nn.Module, "__call__", lambda self, *x: calls.append(type(self).__name__) or self.forward(*x)
    )
    mix = torch.randn(1, 2, 5000)
    for masks, output, networks in (
        ("network", "sigmoid", 1),
        ("ratio", "sigmoid", 3),
        ("network", "softmax", 3),
    ):
        model = tiny(SpleeterOptions(masks=masks), output=output).select(["drums"])
        calls.clear()
        with torch.inference_mode():
            model.forward(mix)
        assert calls.count("UNet") == networks


def test_the_options_a_model_ran_with():
    assert tiny().used() == dict(masks="ratio", exponent=2.0, extension="zeros", bins=128, mwf=False)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"masks": "soft"}, "masks is 'soft', but must be ratio or network"),
        ({"extension": "mirror"}, "extension is 'mirror', but must be zeros or average"),
        ({"exponent": 0}, "exponent is 0"),
        ({"bins": 0}, "bins is 0"),
    ],
)
def test_options_out_of_bounds(options, words):
    with pytest.raises(UsageError, match=words):
        SpleeterOptions(**options)


@pytest.mark.parametrize("bins", [100, 320])
def test_bins_the_networks_can_not_see(bins):
    with pytest.raises(UsageError, match=f"bins is {bins}, but must be a multiple of 64 up to 256"):
        run(tiny(SpleeterOptions(bins=bins)), torch.randn(1, 2, 5000))


@pytest.mark.parametrize(
    "config, words",
    [
        ({"frames": 100}, "multiples of 64"),
        ({"bins": 320}, "can't see 320"),
        ({"output": "tanh"}, "'tanh'"),
        ({"filters": (1, 2)}, "must have 6"),
        ({"conv_activation": "GELU"}, "'GELU'"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        Spleeter(SpleeterConfig(**{**TINY, **config}))


@pytest.mark.slow
def test_it_learns():
    """Two tones and silence are told apart in a few steps; every part has a gradient."""
    model, time = tiny().train(), torch.arange(4000)
    stems = (
        torch.stack([torch.sin(0.2 * time), torch.sin(0.9 * time), 0 * time])
        .expand(2, 2, 3, -1)
        .transpose(1, 2)
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (model(stems.sum(1)) - stems).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(SpleeterConfig()) == dict(
        sources=("vocals", "accompaniment"),
        samplerate=44100,
        channels=2,
        frame_length=4096,
        frames=512,
        bins=1024,
        filters=(16, 32, 64, 128, 256, 512),
        conv_activation="LeakyReLU",
        deconv_activation="ReLU",
        output="sigmoid",
        extension="zeros",
    )


# --- checkpoints --------------------------------------------------------------------------------------------


def published(name):
    """The tensors of a published file, without memory."""
    listed = json.loads(KEYS[name].read_text())
    return {
        key: torch.empty(shape, dtype=getattr(torch, kind), device="meta")
        for key, (kind, shape) in listed.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_published_files(name):
    """All names, through our conversion into the catalogue's network; and found out by the tensors alone."""
    checkpoint = Checkpoint(Path(name), published(name), format="tensorflow")
    entry = load_catalog()[f"spleeter:{name}"]
    (member,) = entry.members
    arch = FAMILY.archs[member.arch]
    with torch.device("meta"):
        model = arch.build(make_config(arch, {"sources": entry.sources, **member.config}))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert (
        sum(p.numel() for p in model.unets[0].parameters()) == 9_823_749 - 2 * 512
    )  # the norm that feeds nothing
    found = find_network(checkpoint, all_families(), load_catalog().values())
    assert (found.family.name, found.config, entry.name in found.notice) == ("spleeter", model.config, True)


def as_tensorflow(model, *, slots=True):
    """A checkpoint of TensorFlow with this model's weights; slots: and what an optimiser leaves in one."""
    tensors = {"global_step": torch.tensor(3)}
    if slots:
        tensors |= {"beta1_power": torch.tensor(0.9), "beta2_power": torch.tensor(0.9)}
    for u, unet in enumerate(model.unets):
        convs = [*(down.conv for down in unet.down), unet.last]
        ups, width = [up.conv for up in unet.up], unet.down[-1].conv.out_channels
        norms = [*unet.down_norms, keras_norm(width), *unet.up_norms]
        for kind, layers in (("conv2d", convs), ("conv2d_transpose", ups), ("batch_normalization", norms)):
            for k, layer in enumerate(layers):
                number = u * len(layers) + k
                name = f"{kind}_{number}" if number else kind
                if kind == "batch_normalization":
                    parts = {"gamma": layer.weight, "beta": layer.bias}
                    tensors |= {f"{name}/moving_mean": layer.mean, f"{name}/moving_variance": layer.variance}
                else:
                    parts = {"kernel": layer.weight.permute(2, 3, 1, 0), "bias": layer.bias}
                for part, tensor in parts.items():
                    tensors[f"{name}/{part}"] = tensor.detach()
                    for slot in ("Adam", "Adam_1") if slots else ():
                        tensors[f"{name}/{part}/{slot}"] = torch.ones(tensor.shape)
    return tensors


def test_a_file_of_its_own(tmp_path):
    """From an archive, with the optimiser's leavings in it; what the tensors don't tell is said."""
    model = tiny(sources=("vocals", "accompaniment"))
    path = bundles.write_tar(tmp_path / "mine.tar.gz", bundles.bundle(as_tensorflow(model)))
    notices = []
    loaded = load_model(str(path), options={"masks": "network"}, notice=notices.append)
    assert (loaded.name, loaded.sources) == ("mine", ("vocals", "accompaniment"))
    assert loaded.model.options == SpleeterOptions(masks="network")
    assert "frame_length = 4096" in notices[0]
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())


def test_other_files_of_tensorflow_are_not_ours(tmp_path):
    for tensors in ({"a": torch.ones(1)}, {f"conv2d_{k}/kernel": torch.ones(1) for k in range(1, 13)}):
        path = bundles.write(tmp_path, bundles.bundle(tensors))
        with pytest.raises(ModelError, match="does not say which network"):
            load_model(str(path))
    with pytest.raises(ModelError, match="dense/kernel"):
        FAMILY.convert(Checkpoint(path, {"dense/kernel": torch.ones(1)}, format="tensorflow"), tiny())


def test_one_network_has_nothing_to_share_with():
    """Its share would be 1 everywhere; what is above its bins is as its config has it."""
    torch.manual_seed(0)
    small = dict(frame_length=256, frames=64, bins=64, filters=(2, 2, 2, 2, 2, 2))
    one = Spleeter(SpleeterConfig(("vocals",), extension="average", **small)).eval()
    assert one.used()["masks"] == "network" and one.used()["extension"] == "average"
    mix = torch.randn(1, 2, 2000)
    with torch.inference_mode():
        stem = one(mix)[:, 0]
        one.options = SpleeterOptions(masks="ratio", extension="zeros")
        share = one(mix)[:, 0]
    spectra = {
        name: torch.fft.rfft(wave)[..., 600:].abs().mean() for name, wave in (("stem", stem), ("share", share))
    }
    assert spectra["stem"] > 20 * spectra["share"]  # the share is silent up there
    assert Spleeter(SpleeterConfig(**small)).used()["masks"] == "ratio"
    with pytest.raises(ValueError, match="extension is 'noise', but must be zeros or average"):
        Spleeter(SpleeterConfig(extension="noise", **small))
