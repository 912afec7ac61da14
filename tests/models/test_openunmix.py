"""Open-Unmix and X-UMX: tiny networks for the contract, what couples their stems, and their checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model, save_model
from sepcli.models.config import make_config
from sepcli.models.detection import entry_config, find_network
from sepcli.models.family import all_families
from sepcli.models.openunmix import FAMILY, XUMX, OpenUnmix, OpenUnmixConfig, UnmixOptions, XUMXConfig
from sepcli.models.openunmix.core import Target
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, peak_error, run

KEYS = Path(__file__).parents[1] / "keys" / "openunmix"
TINY = dict(nfft=128, hop=32, max_bin=40, hidden=12, layers=2)
CONSTANTS = {"stft.window": [4096], "transform.0.window": [4096], "sample_rate": []}  # in published files too


def randomised(model):
    """Statistics and scales that all do something, and estimates of which few are cut off at 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, Target):
            for name in ("input_mean", "input_scale", "output_mean", "output_scale"):
                getattr(module, name).data.uniform_(0.1, 1)
    return model.eval()


def tiny(build=OpenUnmix, options=None, **other):
    torch.manual_seed(0)
    kind = XUMXConfig if build is XUMX else OpenUnmixConfig
    model = randomised(build(kind(**{"sources": ("vocals", "drums", "rest"), **TINY, **other})))
    model.options = options or UnmixOptions()
    return model


LENGTHS = [1, 64, 1501]
NO_FILTER = UnmixOptions(iterations=0)
NETWORKS = {
    "OpenUnmix": {
        "filter": Case(
            partial(tiny, options=UnmixOptions(frames=20)), LENGTHS, tolerance=3e-5
        ),  # single precision
        "no filter, mono, forwards": Case(
            partial(tiny, options=NO_FILTER, mono=True, unidirectional=True), LENGTHS
        ),
        "one stem": Case(partial(tiny, sources=("vocals",)), LENGTHS),
    },
    "XUMX": {
        "filter": Case(partial(tiny, XUMX), LENGTHS),
        "no filter": Case(partial(tiny, XUMX, NO_FILTER), LENGTHS),
        "softmask, residual": Case(partial(tiny, XUMX, UnmixOptions(softmask=True, residual=True)), LENGTHS),
        "one channel": Case(partial(tiny, XUMX, channels=1, layers=1), LENGTHS),
    },
}


# --- the networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [OpenUnmix, XUMX])
def test_the_stems_of_the_filter_and_its_residual_are_the_mix(build):
    """A mix with a position for each source: two channels, two sources and what they leave."""
    mix = torch.randn(1, 2, 6000)
    model = tiny(build, UnmixOptions(residual=True), sources=("a", "b"))
    spec = model.spectrogram(mix)
    with torch.inference_mode():
        estimates = model.magnitudes(spec.abs(), model.known)
    left = spec - torch.polar(estimates, spec.angle()[:, None].expand_as(estimates)).sum(dim=1)
    assert left.abs().max() > 0.1 * spec.abs().max()  # there is something left
    both, alone = run(model, mix).sum(dim=1), run(tiny(build, sources=("a", "b")), mix).sum(dim=1)
    assert peak_error(both, alone) > 1e-2  # the residual takes its part


@pytest.mark.parametrize(
    "build, options, layers",
    [
        (OpenUnmix, UnmixOptions(), (3, 3, 3)),
        (OpenUnmix, NO_FILTER, (1, 1, 1)),
        (OpenUnmix, UnmixOptions(iterations=0, softmask=True), (3, 3, 3)),
        (XUMX, UnmixOptions(), (3, 3, 3)),
        (XUMX, NO_FILTER, (3, 3, 1)),
    ],
)
def test_one_stem_runs_what_it_is_coupled_to(build, options, layers, monkeypatch):
    counts = dict(encode=0, recur=0, decode=0)
    for name in counts:
        method = getattr(Target, name)

        def counted(*arguments, name=name, method=method):
            counts[name] += 1
            return method(*arguments)

        monkeypatch.setattr(Target, name, counted)
    run(tiny(build, options).select(["drums"]), torch.randn(1, 2, 3000))
    assert tuple(counts.values()) == layers


def test_a_bridge_reaches_all_stems():
    """Another encoder of one stem changes every stem of X-UMX, and of Open-Unmix that one."""
    mix = torch.randn(1, 2, 3000)
    for build, reached in ((OpenUnmix, [True, False, False]), (XUMX, [True, True, True])):
        model = tiny(build, NO_FILTER)
        before = run(model, mix)
        model.targets[0].fc1.weight.data.mul_(-1)
        after = run(model, mix)
        assert [peak_error(a, b) > 1e-3 for a, b in zip(after[0], before[0], strict=True)] == reached


def test_nothing_above_the_bins_that_are_heard_changes_a_share():
    """The networks hear bins below max_bin: a tone above is only scaled by what they make of the rest."""
    model = tiny(options=NO_FILTER)
    mix = 0.1 * torch.randn(1, 2, 40, 65)
    louder = mix.clone()
    louder[..., 40:] *= 10
    with torch.inference_mode():
        quiet, loud = (model.magnitudes(each.abs(), model.known) for each in (mix, louder))
    assert peak_error(loud[..., :40], quiet[..., :40]) < 1e-6
    assert peak_error(loud[..., 40:], 10 * quiet[..., 40:]) < 1e-6


def test_a_window_of_the_filter_is_one_call_or_300_frames():
    assert tiny().used() == dict(iterations=1, softmask=False, exponent=1.0, residual=False, frames=300)
    assert tiny(XUMX).used()["frames"] == 0
    mix = torch.randn(1, 2, 12000)
    whole, parts = run(tiny(options=UnmixOptions(frames=0)), mix), run(tiny(), mix)
    assert peak_error(whole, parts) > 1e-3
    assert peak_error(run(tiny(options=UnmixOptions(frames=1000)), mix), whole) < 1e-6


def test_one_stem_has_no_filter_but_with_a_residual():
    mix, one = torch.randn(1, 2, 3000), dict(sources=("vocals",))
    plain = tiny(**one)
    assert plain.used()["iterations"] == 0
    assert peak_error(run(plain, mix), run(tiny(options=NO_FILTER, **one), mix)) < 1e-6
    filtered = tiny(options=UnmixOptions(residual=True), **one)
    assert filtered.used()["iterations"] == 1
    assert peak_error(run(filtered, mix), run(plain, mix)) > 1e-3
    with pytest.raises(UsageError, match="one stem, vocals, and the filter needs another"):
        run(tiny(options=UnmixOptions(iterations=2), **one), mix)


def test_mono_networks_hear_the_mean_of_the_channels():
    model = tiny(mono=True, options=NO_FILTER)
    left, right = torch.rand(2, 1, 20, 65)
    with torch.inference_mode():
        both = model.magnitudes(torch.cat([left, right])[None], model.known)
        mean = model.magnitudes(((left + right) / 2)[None], model.known)
    assert both.shape == (1, 3, 1, 20, 65) and peak_error(both, mean) < 1e-6


@pytest.mark.parametrize(
    "options, words",
    [
        ({"iterations": -1}, "iterations is -1"),
        ({"exponent": 0}, "exponent is 0"),
        ({"frames": -1}, "frames is -1"),
    ],
)
def test_options_out_of_bounds(options, words):
    with pytest.raises(UsageError, match=words):
        UnmixOptions(**options)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"max_bin": 66}, "can't hear 66"),
        ({"max_bin": 0}, "can't hear 0"),
        ({"hidden": 13}, "even number"),
        ({"channels": 3}, "channels is 3"),
        ({"hop": 65}, "hop is 65"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        OpenUnmix(OpenUnmixConfig(**{**TINY, **config}))


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    expected = dict(
        sources=("vocals", "drums", "bass", "other"),
        samplerate=44100,
        channels=2,
        mono=False,
        nfft=4096,
        hop=1024,
        max_bin=None,
        hidden=512,
        layers=3,
        unidirectional=False,
    )
    assert vars(OpenUnmixConfig()) == expected
    assert vars(XUMXConfig()) == {**expected, "sources": ("bass", "drums", "vocals", "other")}


@pytest.mark.parametrize(
    "build, settings, count",
    [
        (OpenUnmix, dict(max_bin=1487), 4 * 8_893_348),
        (OpenUnmix, dict(max_bin=1487, hidden=1024), 4 * 28_257_188),
        (
            OpenUnmix,
            dict(sources=("speech", "noise"), mono=True, nfft=1024, hop=512, hidden=256),
            2 * 1_583_622,
        ),
        (XUMX, dict(max_bin=1487), 35_573_392),
    ],
)
def test_sizes_of_the_published_networks(build, settings, count):
    with torch.device("meta"):
        model = build((XUMXConfig if build is XUMX else OpenUnmixConfig)(**settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


# --- checkpoints --------------------------------------------------------------------------------------------


def published(name):
    """The tensors of a published file, without memory."""
    listed = json.loads((KEYS / f"{name}.json").read_text())
    return {
        key: torch.empty(shape, dtype=getattr(torch, kind), device="meta")
        for key, (kind, shape) in listed.items()
    }


def loaded(checkpoint, model):
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    return model


@pytest.mark.parametrize(
    "name, layout", [("xumx_asteroid", "torch"), ("xumx_nnabla", "nnabla"), ("xumx_danna", "torch")]
)
def test_published_files_of_xumx(name, layout):
    """All names, through our conversion into the network; and found out by the tensors alone."""
    checkpoint = Checkpoint(Path("model"), published(name), format=layout)
    with torch.device("meta"):
        model = XUMX(XUMXConfig(max_bin=1487))
    loaded(checkpoint, model)
    found = find_network(checkpoint, all_families(), ())
    assert (found.family.name, found.config) == ("openunmix", model.config)


@pytest.mark.parametrize(
    "name, listed", [("umxhq", "umxhq"), ("umx", "umxhq"), ("umxl", "umxl"), ("umxse", "umxse")]
)
def test_published_files_of_open_unmix(name, listed):
    """A file for each stem, with the constants of early versions, as the catalogue's one network."""
    entry = load_catalog()[name]
    constants = {key: torch.empty(shape, device="meta") for key, shape in CONSTANTS.items()}
    parts = {member.file.name: published(listed) | constants for member in entry.members}
    assert entry.joined and tuple(parts) == entry.sources
    config = entry_config(FAMILY.archs["OpenUnmix"], entry, entry.members[0])
    with torch.device("meta"):
        model = OpenUnmix(config)
    loaded(Checkpoint(Path("model"), parts, format="torch"), model)
    assert (model.samplerate, model.channels) == (entry.samplerate, entry.channels)


def danna(channels=2, bins=33, heard=20, hidden=8, layers=2):
    """A small file in the layout of danna-sep, with the magnitudes it gives of a mix [1, C, bins, 12].

    Four stems side by side: convolutions of four groups, and one norm over all.
    """
    torch.manual_seed(0)
    width, given, made = 4 * hidden, channels * heard, channels * bins
    first = nn.Conv1d(4 * given, width, 1, bias=False, groups=4), nn.BatchNorm1d(width)
    last = nn.Conv1d(width, 4 * made, 1, bias=False, groups=4), nn.BatchNorm1d(4 * made)
    middle = nn.Conv1d(2 * hidden, width, 1, bias=False), nn.BatchNorm1d(width)
    lstms = {
        f"{stem}_lstm": nn.LSTM(hidden, hidden // 2, layers, bidirectional=True, batch_first=True)
        for stem in ("drums", "bass", "other", "vocals")
    }
    affine1, affine2 = nn.Sequential(*first), nn.Sequential(*middle, nn.ReLU(), *last)
    network = randomised(nn.ModuleDict({"affine1": affine1, "affine2": affine2, **lstms}))
    means, scales = torch.rand(2, 4 * heard)
    shifts, gains = torch.rand(2, 4 * bins)
    own = {"input_means": means, "input_scale": scales, "output_means": shifts, "output_scale": gains}

    def per_stem(values):
        return values.view(4, 1, -1, 1)

    mix = torch.rand(1, channels, bins, 12)
    with torch.inference_mode():
        x = (mix[:, None, :, :heard] + per_stem(means)) * per_stem(scales)
        e = affine1(x.reshape(1, -1, 12)).tanh().view(1, 4, hidden, 12).mean(1)
        recurred = torch.stack([lstm(e.mT)[0].mT for lstm in lstms.values()]).mean(0)
        y = affine2(torch.cat([e, recurred], 1)).view(1, 4, channels, bins, 12)
        made = (y * per_stem(gains) + per_stem(shifts)).relu() * mix[:, None]
    return {**network.state_dict(), **own}, mix, made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_danna_sep(tmp_path):
    """The tensors of a TorchScript program, in tensors of all four stems."""
    state, mix, made = danna()

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    holder = Holder()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        inside = holder
        for part in path:
            if not hasattr(inside, part):
                inside.add_module(part, Holder())
            inside = getattr(inside, part)
        inside.register_buffer(leaf, tensor)
    torch.jit.script(holder).save(str(tmp_path / "xumx_mwf.pth"))
    checkpoint = read_checkpoint(tmp_path / "xumx_mwf.pth")
    told = FAMILY.detect(checkpoint)
    assert told.arch == "XUMX" and told.config["max_bin"] == 20
    model = loaded(checkpoint, XUMX(XUMXConfig(**told.assumed, **told.config))).eval()
    assert model.sources == ("bass", "drums", "vocals", "other")
    with torch.inference_mode():
        found = model.magnitudes(mix.mT, ("drums", "bass", "other", "vocals")).mT
    assert made.std() > 0.05 and (found - made).abs().max() < 1e-5


def as_published(model, number, *, constants=True):
    """The state of one stem as a file of open-unmix has it. constants: early versions stored them."""
    state = dict(model.targets[number].state_dict())
    return state | ({name: torch.zeros(shape) for name, shape in CONSTANTS.items()} if constants else {})


def test_a_file_of_its_own(tmp_path):
    """One stem, whose name is that of the file."""
    torch.manual_seed(0)
    model = randomised(
        OpenUnmix(OpenUnmixConfig(("vocals",), nfft=1024, hop=512, mono=True, hidden=8, layers=1))
    )
    torch.save(as_published(model, 0), tmp_path / "vocals-0123.pth")
    notices = []
    found = load_model(str(tmp_path / "vocals-0123.pth"), notice=notices.append)
    assert found.sources == ("vocals",) and found.model.config.samplerate == 16000
    assert found.model.config.hidden == 8 and "samplerate = 16000" in notices[0]
    # A state of training, under a name that says nothing.
    torch.save({"epoch": 3, "state_dict": as_published(model, 0, constants=False)}, tmp_path / "best.chkpnt")
    again = load_model(str(tmp_path / "best.chkpnt"))
    assert again.sources == ("stem1",)
    mix = torch.randn(1, 2, 3000)
    assert torch.equal(run(again.model, mix), run(model, mix))


def test_a_spectrogram_that_nothing_published_has(tmp_path):
    torch.save(as_published(tiny(), 0), tmp_path / "vocals.pth")
    with pytest.raises(ModelError, match="do not tell samplerate and hop"):
        load_model(str(tmp_path / "vocals.pth"))


PARTS = """
[mine]
family = "openunmix"
arch = "OpenUnmix"
sources = ["vocals", "drums", "rest"]
samplerate = 44100
channels = 2
joined = true
config = { nfft = 128, hop = 32, max_bin = 40, hidden = 12, layers = 2 }
files.vocals = { url = "https://x.invalid/vocals.pth" }
files.drums = { url = "https://x.invalid/drums.pth" }
files.rest = { url = "https://x.invalid/rest.pth" }
"""


def entry(tmp_path, text=PARTS):
    (tmp_path / "catalog.toml").write_text(text)
    return load_catalog([tmp_path / "catalog.toml"])


def test_several_files_are_one_network(tmp_path, monkeypatch):
    """Whatever their order: each has its stem's name in the catalogue."""
    from sepcli.weights import download

    model = tiny()
    for number, stem in enumerate(model.sources):
        torch.save(as_published(model, number), tmp_path / f"{stem}.pth")
    fetched = []

    def fetch(file, **_):
        fetched.append(file.name)
        return download.Fetched(tmp_path / f"{file.name}.pth", "0" * 64, "none", file.source)

    monkeypatch.setattr(download, "fetch", fetch)
    mix = torch.randn(1, 2, 3000)
    for text in (PARTS, PARTS.replace('"vocals", "drums", "rest"', '"rest", "vocals", "drums"')):
        fetched.clear()
        found = load_model("mine", catalog=entry(tmp_path, text), targets=["drums"])
        assert sorted(fetched) == ["drums", "rest", "vocals"]  # the filter needs all
        assert len(found.hashes) == 3
        assert peak_error(run(found.model, mix), run(model.select(["drums"]), mix)) < 1e-5
    with pytest.raises(UsageError, match="made of 3 files") as refused:
        load_model(f"mine={tmp_path / 'drums.pth'}", catalog=entry(tmp_path), targets=["drums"])
    assert refused.value.remedy.startswith("Name its files in a catalogue")  # one stem alone is none
    with pytest.raises(
        ModelError, match="has the stems vocals, drums, rest, but the model vocals, drums, piano"
    ):
        load_model("mine", catalog=entry(tmp_path, PARTS.replace('"rest"]', '"piano"]')))


def test_our_own_file_of_all_stems(tmp_path):
    model = tiny(XUMX)
    save_model(
        model.state_dict(), tmp_path / "x.safetensors", family="openunmix", arch="XUMX", config=model.config
    )
    found = load_model(str(tmp_path / "x.safetensors")).model
    mix = torch.randn(1, 2, 3000)
    assert torch.equal(run(found, mix), run(model, mix))


ARGUMENTS = dict(
    window_length=128, in_chan=128, n_hop=32, sample_rate=44100, sources=["a", "b"], hidden_size=8,
    nb_channels=2, max_bin=40, nb_layers=2, bidirectional=True, spec_power=1,
)  # fmt: skip


@pytest.mark.parametrize("arguments", [{"spec_power": 2}, {"window_length": 64}])
def test_spectrograms_that_we_do_not_make(arguments):
    payload = {"model_name": "XUMX", "model_args": {**ARGUMENTS, **arguments}, "state_dict": {}}
    with pytest.raises(ModelError, match="spectrograms that sepcli does not make"):
        FAMILY.describe(Checkpoint(Path("x.pth"), payload, format="torch"))


def test_what_asteroid_says_of_a_network():
    payload = {"model_name": "XUMX", "model_args": ARGUMENTS, "state_dict": {}}
    package = FAMILY.describe(Checkpoint(Path("x.pth"), payload, format="torch"))
    config = make_config(FAMILY.archs["XUMX"], package.config)
    assert config == XUMXConfig(("a", "b"), nfft=128, hop=32, max_bin=40, hidden=8, layers=2)
    assert FAMILY.describe(Checkpoint(Path("x.pth"), {"model_name": "ConvTasNet"}, format="torch")) is None


def test_other_files_are_not_ours(tmp_path):
    for number, payload in enumerate(
        (
            {"a": torch.ones(1)},
            {"fc1/affine/W": torch.ones(2, 2)},
            {"x": {"y": torch.ones(1)}},
            {"a/b/c": torch.ones(1)},
        )
    ):
        torch.save(payload, tmp_path / f"{number}.pth")
        with pytest.raises(ModelError, match="does not say which network"):
            load_model(str(tmp_path / f"{number}.pth"))
