"""Demucs v1 and v2: equality with the original programs, lengths and margins, and published files."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.demucs import FAMILY
from sepcli.models.demucs.detect import detect
from sepcli.models.demucs.early import (
    EarlyDemucs,
    EarlyDemucsConfig,
    lost_samples,
    valid_length,
    whole_length,
)
from sepcli.models.shapes import PUBLISHED_STEMS
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, run

TESTS = Path(__file__).parents[1]
KEYS = TESTS / "keys" / "demucs_early"
GOLDEN = {
    f"{path.parts[-3][-2:]} {path.parts[-2]}": path.parent
    for path in sorted(TESTS.glob("golden/demucs_v[12]/demucs*/case.json"))
}
V1 = {"resample": False, "epsilon": 0.0}
STEMS = ("drums", "bass", "other", "vocals")
VALUES = {  # of the published networks
    "demucs_v1_100": 648_548_208,
    "demucs_v1_64_light": 265_679_496,
    "demucs_v2_48": 149_462_504,
    "demucs_v2_64": 265_679_496,
    "demucs_v2_unittest": 1_043_376,
}


def tiny(**changes):
    torch.manual_seed(0)
    small = {"sources": STEMS[:3], "channels": 6, "depth": 3, "samplerate": 8000, "segment_length": 3000}
    return EarlyDemucs(EarlyDemucsConfig(**{**small, **changes})).eval()


CASES = {  # longer than two margins
    "v2": Case(tiny, [1, 777, 2001]),
    "v1": Case(partial(tiny, **V1), [1, 2001]),
    "v1, interpolated": Case(partial(tiny, **V1, upsample=True, lstm_layers=1), [1, 2001]),
    "mono, standardised": Case(partial(tiny, audio_channels=1, normalize=True, context=1), [1, 2001]),
    "no rewrite": Case(partial(tiny, rewrite=False, lstm_layers=0), [1, 777]),
    "no gates": Case(partial(tiny, glu=False), [777]),
}


# --- equality with the original programs ---------------------------------------------------------------------


def read_json(name):
    return json.loads((GOLDEN[name] / "case.json").read_text())


def read_case(name):
    """(the network of a golden case with its weights, its tensors, its tolerance)."""
    folder = GOLDEN[name]
    case = read_json(name)
    settings = {**case["config"], "sources": STEMS}
    if folder.parent.name == "demucs_v1":
        settings |= V1 | {"segment_length": 3000}
    model = EarlyDemucs(EarlyDemucsConfig(**settings))
    checkpoint = read_checkpoint(folder / "weights.safetensors")
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return model.eval(), load_file(folder / "io.safetensors"), case["tolerance"]


def through_engine(model, track, *, whole):
    """A track [C, T] as `separate` does it, without its standardisation -> [S, C, T]. whole: in one call."""
    seconds = 2 * (track.shape[-1] + model.segment.margin) / model.samplerate if whole else None
    settings = Settings(overlap=0.25, segment=seconds)
    model.normalize = False
    engine = Engine(model, settings, torch.device("cpu"), torch.float32)
    return torch.cat(list(engine.separate(iter(track[None].split(997, dim=-1)))), dim=-1)[:, 0]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_call_is_the_originals(name):
    model, tensors, tolerance = read_case(name)
    result, theirs, margin = run(model, tensors["valid_input"]), tensors["forward"], model.segment.margin
    assert theirs.shape[-1] == result.shape[-1] - 2 * margin
    assert (result[..., margin : result.shape[-1] - margin] - theirs).abs().max() <= tolerance
    assert not result[..., :margin].any() and not result[..., result.shape[-1] - margin :].any()


@pytest.mark.parametrize("name", [name for name in GOLDEN if "quantized" not in name])
def test_tracks_are_the_originals(name):
    """In one call; in calls that overlap, with real audio around them; v1 cuts hard and puts silence around."""
    for before in (lambda model: None, lambda model: model.prepare(1, torch.device("cpu"), torch.float32)):
        model, tensors, tolerance = read_case(name)
        before(model)
        track = tensors["input"]
        whole = through_engine(model, track, whole=True)
        assert (whole - tensors["apply_whole"]).abs().max() <= tolerance
        if GOLDEN[name].parent.name == "demucs_v1":
            pieces = [through_engine(model, piece, whole=True) for piece in track.split(3000, dim=-1)]
            result = torch.cat(pieces, dim=-1)
        else:
            result = through_engine(model, track, whole=False)
        assert (result - tensors["apply_split"]).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["v2 demucs", "v2 demucs_plain"])
def test_shifts_are_the_originals(name):
    """Silence in front of the track, half a second at most, in the lengths that the case names."""
    model, tensors, tolerance = read_case(name)
    (note,) = (note for note in read_json(name)["notes"] if "shifts2" in note)
    results = []
    for offset in json.loads(note[note.index("[") : note.index("]") + 1]):
        lead = 22050 - offset
        track = torch.nn.functional.pad(tensors["input"], (lead, 0))
        results.append(through_engine(model, track, whole=True)[..., lead:])
    assert (torch.stack(results).mean(0) - tensors["apply_shifts2"]).abs().max() <= tolerance


# --- lengths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_lengths_and_margins(name):
    """A valid length is taken as it is; the margin is what the network says nothing of."""
    model = CASES[name].make()
    margin, config = model.segment.margin, model.config
    for length in (1, 2, 77, 1003):
        valid = valid_length(length, config)
        assert valid - lost_samples(config) >= length and whole_length(valid, config) == valid
        assert model.segment.valid_length(length) + 2 * margin in (valid, valid - 1)
        result = run(model, torch.randn(1, model.channels, valid))
        assert not result[..., :margin].any() and not result[..., valid - margin :].any()
        assert result[..., margin].all() and result[..., valid - margin - 1].all()


def test_published_lengths():
    v2, v1 = EarlyDemucsConfig(STEMS), EarlyDemucsConfig(STEMS, resample=False)
    assert valid_length(1_764_000, v2) == 1_770_154 and valid_length(441_000, v1) == 451_924
    assert lost_samples(v2) == 5460 and lost_samples(v1) == 10_920


def test_a_call_of_another_length_has_silence_around_it():
    model = tiny()
    whole, mix = whole_length(2000, model.config), torch.randn(1, 2, 2000)
    before = (whole - 2000) // 2
    padded = torch.nn.functional.pad(mix, (before, whole - 2000 - before))
    margin = model.segment.margin
    inner = slice(margin, 2000 - margin)
    assert torch.equal(
        run(model, mix)[..., inner], run(model, padded)[..., before + margin : before + 2000 - margin]
    )


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(EarlyDemucsConfig(STEMS)) == dict(
        sources=STEMS,
        audio_channels=2,
        channels=64,
        depth=6,
        rewrite=True,
        glu=True,
        rescale=0.1,
        resample=True,
        kernel_size=8,
        stride=4,
        growth=2.0,
        lstm_layers=2,
        context=3,
        normalize=False,
        samplerate=44100,
        segment_length=1764000,
        epsilon=1e-5,
        upsample=False,
    )


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.th", "model.th.gz"])
def test_a_file_of_v1_says_what_it_is(file):
    """A tuple with a class, also behind gzip; the latter's values are on few levels."""
    loaded = load_model(str(GOLDEN["v1 demucs"] / file))
    expected, *_ = read_case("v1 demucs")
    assert loaded.sources == STEMS
    assert loaded.network.config == replace(expected.config, segment_length=441000)
    if file.endswith("th"):
        state = expected.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in loaded.network.state_dict().items())


def test_a_state_of_diffq_01():
    folder = GOLDEN["v2 demucs_quantized"]
    checkpoint = read_checkpoint(folder / "model.th", foreign=FAMILY.packages)
    model, _, _ = read_case("v2 demucs_quantized")
    decoded, expected = FAMILY.convert(checkpoint, model), load_file(folder / "weights.safetensors")
    assert decoded.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in decoded.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in sorted(KEYS.glob("demucs*.json"))])
def test_published_files(name):
    """All names and shapes, through our conversion, into the network that the tensors alone tell."""
    listed = json.loads((KEYS / f"{name}.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, (_, shape) in listed.items()}
    checkpoint = Checkpoint(Path(name), tensors, format="torch")
    told = detect(checkpoint)
    assert told is not None and told.arch == "EarlyDemucs"
    with torch.device("meta"):
        model = EarlyDemucs(make_config(FAMILY.archs["EarlyDemucs"], {**told.assumed, **told.config}))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    assert sum(p.numel() for p in model.parameters()) == VALUES[name]
    assert [key for key, _ in model.named_parameters()] == list(listed)  # quantised states have only the order
    assert model.config == EarlyDemucsConfig(PUBLISHED_STEMS[4], channels=model.config.channels)


def test_the_catalogue_has_their_settings():
    """Channels as in the published lists of names; the rest is v1's, v2's or Conv-TasNet's."""
    v1 = {"resample": False, "epsilon": 0, "segment_length": 441000}
    for entry in load_catalog().values():
        (member, *_) = entry.members or (None,)
        if member is None or member.arch not in ("EarlyDemucs", "ConvTasNet"):
            continue
        generation = v1 if "-v1" in entry.name else {}
        if member.arch == "ConvTasNet":
            expected = {"X": 10, **({"segment_length": 441000} if generation else {})}
        else:
            small = 48 if entry.name.endswith("-hq") else 64
            channels = 100 if generation and "light" not in entry.name else small
            expected = {**generation, **({"channels": channels} if generation or channels != 64 else {})}
        assert member.config == expected and entry.sources == STEMS, entry.name
        assert entry.published_overlap == (0 if generation else None), entry.name
