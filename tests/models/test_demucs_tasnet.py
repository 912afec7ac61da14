"""Conv-TasNet as Demucs v1 and v2 have it: equality with the original, and published files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.demucs import FAMILY
from sepcli.models.demucs.checkpoint import describe
from sepcli.models.demucs.detect import detect
from sepcli.models.demucs.tasnet import ConvTasNet, ConvTasNetConfig
from sepcli.models.family import Package
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.unpickling import Inert
from tests.contracts import Case, check_reduced, run

TESTS = Path(__file__).parents[1]
GOLDEN = {path.parent.name: path.parent for path in sorted(TESTS.glob("golden/demucs_v2/tasnet*/case.json"))}
STEMS = ("drums", "bass", "other", "vocals")


def tiny(**changes):
    """With every norm and activation off its trivial value."""
    torch.manual_seed(0)
    small = dict(N=12, L=8, B=6, H=10, X=3, R=2, samplerate=8000, segment_length=2000)
    model = ConvTasNet(ConvTasNetConfig(**{"sources": STEMS[:3], **small, **changes}))
    for name, parameter in model.named_parameters():
        if "norm" in name or "activation" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


LENGTHS = [1, 8, 1003]
CASES = {
    "masks": Case(tiny, LENGTHS),
    "softmax, frame by frame": Case(partial(tiny, norm_type="cLN", mask_nonlinear="softmax"), LENGTHS),
    "mono": Case(partial(tiny, audio_channels=1), LENGTHS),
}


def read_case(name):
    folder = GOLDEN[name]
    case = json.loads((folder / "case.json").read_text())
    model = ConvTasNet(ConvTasNetConfig(**case["config"]))
    checkpoint = Checkpoint(folder, load_file(folder / "weights.safetensors"))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return model.eval(), load_file(folder / "io.safetensors"), case["tolerance"]


@pytest.mark.parametrize("name", GOLDEN)
def test_calls_and_tracks_are_the_originals(name):
    model, tensors, tolerance = read_case(name)
    mix, model.normalize = tensors["input"][None], False
    assert (run(model, mix) - tensors["forward"]).abs().max() <= tolerance
    engine = Engine(model, Settings(overlap=0.25), torch.device("cpu"), torch.float32)
    result = torch.cat(list(engine.separate(iter(mix.split(997, dim=-1)))), dim=-1)[:, 0]
    assert (result - tensors["apply_split"]).abs().max() <= tolerance


def test_the_end_is_silent_where_no_frame_reaches():
    """As in the original: a frame every L / 2 samples, and no frame beyond the end."""
    stems = run(tiny(), torch.randn(1, 2, 1003))
    assert not stems[..., 1000:].any() and stems[..., 999].any()


def test_reduced_precision_is_close():
    check_reduced(tiny(), torch.randn(1, 2, 2000), torch.bfloat16, decibels=25)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"norm_type": "BN"}, "norm_type is 'BN', but must be gLN or cLN"),
        ({"mask_nonlinear": "sigmoid"}, "must be relu or softmax"),
        ({"L": 9}, "L must be even"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny(**config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(ConvTasNetConfig(STEMS)) == dict(
        sources=STEMS,
        N=256,
        L=20,
        B=256,
        H=512,
        P=3,
        X=8,
        R=4,
        audio_channels=2,
        norm_type="gLN",
        mask_nonlinear="relu",
        samplerate=44100,
        segment_length=352800,
    )


@pytest.mark.slow
def test_published_files():
    listed = json.loads((TESTS / "keys" / "demucs_early" / "tasnet.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, (_, shape) in listed.items()}
    checkpoint = Checkpoint(Path("tasnet"), tensors, format="torch")
    told = detect(checkpoint)
    assert told is not None
    with torch.device("meta"):
        model = ConvTasNet(make_config(FAMILY.archs["ConvTasNet"], {**told.assumed, **told.config}))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    assert len(listed) == 366 and sum(p.numel() for p in model.parameters()) == 10_977_872
    assert model.config == ConvTasNetConfig(STEMS, X=10)


def test_a_file_of_its_own(tmp_path):
    """Without a name of the network in it; what the tensors don't tell is said."""
    torch.save(load_file(GOLDEN["tasnet"] / "weights.safetensors"), tmp_path / "mine.th")
    notices = []
    loaded = load_model(str(tmp_path / "mine.th"), notice=notices.append)
    expected, _, _ = read_case("tasnet")
    assert loaded.sources == STEMS and "tensors are those of ConvTasNet" in notices[0]
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.network.state_dict().items())


def v1(args=(), **kwargs):
    """A file of v1."""
    return Checkpoint(Path("a.th"), (Inert("demucs.tasnet.ConvTasNet"), args, kwargs, {}), format="torch")


def test_what_a_file_of_v1_says():
    """Sources are a number, or not named; a network that is not causal is what there is."""
    expected = Package("ConvTasNet", {"sources": STEMS, "segment_length": 441000, "X": 10})
    for settings in ({}, {"sources": 4}, {"C": 4}, {"causal": False}):
        assert describe(v1(X=10, **settings)) == expected
    two = describe(v1(sources=2))
    assert two is not None and two.config["sources"] == ("stem1", "stem2")
    for settings, words in (
        ({"args": (4,)}, "not those of Demucs v1"),
        ({"sources": "four"}, "not those of Demucs v1"),
        ({"causal": True}, "unknown settings: causal"),
    ):
        with pytest.raises(ModelError, match=words):
            describe(v1(**settings))
