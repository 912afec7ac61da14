"""Files that do not say which network they are for: their tensors tell by names and shapes, or are refused.

Published key lists (tests/keys) stand for the published files: tensors without memory.
"""

import json
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.loading import files, load_model
from sepcli.models.config import make_config
from sepcli.models.detection import find_network, same_setting
from sepcli.models.family import Arch, Family, Told, all_families, get_family
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint
from tests.models import test_demucs_keys, test_dicose_checkpoint, test_lasaft_keys, test_ldm_codec_checkpoint

KEYS = Path(__file__).parent / "keys"


def bare(shapes, **more):
    with torch.device("meta"):
        return Checkpoint(
            Path("some.ckpt"), {name: torch.empty(shape) for name, shape in shapes.items()}, **more
        )


def demucs(name):
    said = json.loads((KEYS / f"{name}.json").read_text())
    return bare(test_demucs_keys.flat(said["state"]))


def lasaft(name):
    said = json.loads((KEYS / "lasaft" / f"{name}.json").read_text())
    shapes = {f"spec2spec.{key}": shape for key, shape in test_lasaft_keys.flat(said["state"]).items()}
    file = bare({**shapes, "stft.stft.window": (said["n_fft"],)})
    return replace(file, payload={"state_dict": file.payload, "epoch": 1}, format="torch")


# What each published list of names and shapes is found to be with the bundled catalogue: the network, and the
# entry whose settings are used, None where the catalogue has no such network.
FOUND = {
    "htdemucs": (demucs, "HTDemucs", "htdemucs"),
    "htdemucs_6s": (demucs, "HTDemucs", "htdemucs_6s"),
    "hdemucs": (demucs, "HDemucs", "hdemucs_mmi"),
    "mdx_hybrid_magnitudes": (demucs, "HDemucs", "mdx"),
    "mdx_hybrid_bands": (demucs, "HDemucs", "mdx"),
    "mdx_time": (demucs, "Demucs", "mdx"),
    "repro_mdx_a_time": (demucs, "Demucs", "repro_mdx_a"),
    "v1_small": (lasaft, "LaSAFTv1", None),
    "v1_large": (lasaft, "LaSAFTv1", "lasaft-v1-large"),
    "v1_1_lightsaft": (lasaft, "LaSAFTv1", "lightsaft-v1.1"),
    "v1_2_light": (lasaft, "LaSAFTv2", None),
    "v2_small_qk": (lasaft, "LaSAFTv2", None),
    "v2_small_q": (lasaft, "LaSAFTv2", None),
    "v2_small_k": (lasaft, "LaSAFTv2", None),
    "v2_small_none": (lasaft, "LaSAFTv2", None),
    "v2_large_qk": (lasaft, "LaSAFTv2", "lasaft-v2-large"),
    "v2_light_mdx": (lasaft, "LaSAFTv2", "lasaft-v2-light"),
    "aq_light_as_written": (lasaft, "LaSAFTQuery", None),
    "aq_light_flags_passed": (lasaft, "LaSAFTQuery", None),
    "aq_qk_listen_as_written": (lasaft, "LaSAFTQuery", None),
    "aq_qk_listen_flags_passed": (lasaft, "LaSAFTQuery", None),
    "Deterministic": (test_dicose_checkpoint.published, "Deterministic", "dicose-det"),
    "Diffusion": (test_dicose_checkpoint.published, "Diffusion", "dicose-diffusion"),
    "Consistency": (test_dicose_checkpoint.published, "Consistency", "dicose-cd"),
    "MSDM": (test_dicose_checkpoint.published, "MSDM", None),
    "encodec": (lambda name: bare(test_ldm_codec_checkpoint.published_shapes()), "Codec", "encodec-48k"),
}
NOT_FOUND = {"hdemucs_magnitudes"}  # see test_entries_that_differ_are_named


def test_no_list_of_keys_is_forgotten():
    """Those of Demucs and LaSAFT are found here; one of another family is read by a test of its own."""
    tests = "".join(path.read_text() for path in (KEYS.parent / "models").glob("test_*.py"))
    lists = {path.stem for folder in (KEYS, KEYS / "lasaft") for path in folder.glob("*.json")}
    assert lists == {name for name, (file, *_) in FOUND.items() if file in (demucs, lasaft)} | NOT_FOUND
    for folder in {path.parent for path in KEYS.glob("*/*.json")}:
        place = f'"keys" / "{folder.name}"'
        assert place in tests, folder.name
        whole = f'{place}).glob("*.json")' in tests  # all that lie there
        assert [path.name for path in folder.glob("*.json") if not whole and path.stem not in tests] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_published_files_are_found(name):
    file, arch, entry = FOUND[name]
    found = find_network(file(name), all_families(), load_catalog(()).values())
    assert found.arch.name == arch
    assert (f"'{entry}' of the catalogue" in found.notice) == (entry is not None)
    if entry is not None:
        catalogued = load_catalog(())[entry]
        assert found.segment == catalogued.segment
        assert getattr(found.config, "sources", (getattr(found.config, "source", ""),)) == catalogued.sources


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FOUND, *NOT_FOUND])
def test_what_shapes_tell_is_what_was_published(name):
    """Without a catalogue: a network that fits; settings that are not said to be assumed are the true ones."""
    file = FOUND.get(name, (demucs,))[0](name)
    (said,) = [json.loads(path.read_text()) for path in KEYS.rglob(f"{name}.json")] or [{}]
    found = find_network(file, all_families(), ())
    if name == "mdx_hybrid_bands":  # where bands end leaves no trace
        assert found is None
        return
    assert "taken to be as published" in found.notice and "of the catalogue" not in found.notice
    told = found.family.detect(file.shapes_only())
    configs = list(said["checkpoints"].values()) if "checkpoints" in said else [said.get("config", {})]
    for config in configs:
        true = make_config(found.arch, {**told.assumed, **config})
        for field in fields(true):
            ours, theirs = getattr(found.config, field.name), getattr(true, field.name)
            if field.name == "norm_starts":  # levels from the last one on do not exist
                theirs = min(theirs, true.depth)
            if field.name in told.config and field.name != "sources":
                assert same_setting(ours, theirs), field.name
            elif field.name not in found.family.training_only:
                assert f"{field.name} = " in found.notice or field.name == "sources"


@pytest.mark.slow
def test_entries_that_differ_are_named():
    """Two published networks have the same tensors and pad their spectrograms in different ways."""
    with pytest.raises(ModelError, match=r"HDemucs.*differ in hybrid_old: mdx_extra, mdx_extra_q") as error:
        find_network(demucs("hdemucs_magnitudes"), all_families(), load_catalog(()).values())
    assert error.value.code == "ambiguous" and "NAME=FILE" in error.value.remedy


def test_one_file_of_several_is_no_model():
    """ISDM has a file for each stem; names and shapes are those of a network of its own."""
    assert find_network(test_dicose_checkpoint.published("ISDM"), all_families(), ()) is None


# --- files -------------------------------------------------------------------------------------------------

SMALL = {"channels": 8, "depth": 2, "t_layers": 1, "nfft": 512, "t_heads": 8}


def small(sources=("drums", "bass", "other", "vocals"), **changes):
    arch = get_family("demucs").archs["HTDemucs"]
    torch.manual_seed(0)
    return arch.build(arch.config(sources, **{"segment": Fraction(1, 4), **SMALL, **changes})).eval()


@pytest.mark.parametrize("ending", ["th", "ckpt", "safetensors"])
def test_a_file_of_ones_own_is_loaded_and_said(tmp_path, ending):
    model, path = small(), tmp_path / f"mine.{ending}"
    if ending == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"state": model.state_dict()} if ending == "th" else model.state_dict(), path)
    notices = []
    loaded = load_model(str(path), targets=["vocals"], notice=notices.append)
    assert loaded.name == "mine" and loaded.sources == model.sources and loaded.model.sources == ("vocals",)
    (notice,) = notices
    assert "does not say" in notice and "HTDemucs" in notice
    assert (
        "sources = drums bass other vocals" in notice and "t_heads = 8" in notice and "segment = 10" in notice
    )
    assert "channels = " not in notice  # told, not assumed
    weights = small().select(["vocals"]).state_dict()
    assert all(torch.equal(weights[key], value) for key, value in loaded.model.state_dict().items())


def test_an_entry_of_the_users_own_gives_the_settings(tmp_path):
    model, path, catalog = (
        small(("voice", "rest"), samplerate=48000),
        tmp_path / "mine.th",
        tmp_path / "mine.toml",
    )
    torch.save(model.state_dict(), path)
    catalog.write_text(
        '[duo]\nfamily = "demucs"\narch = "HTDemucs"\nsources = ["voice", "rest"]\nsamplerate = 48000\n'
        "channels = 2\n"
        'files.model = { url = "https://x.invalid/m" }\n[duo.config]\nchannels = 8\ndepth = 2\nt_layers = 1\n'
        'nfft = 512\nsamplerate = 48000\nsegment = "1/4"\n'
    )
    notices = []
    loaded = load_model(str(path), catalog=load_catalog([catalog]), notice=notices.append)
    assert loaded.entry is None and loaded.sources == ("voice", "rest")
    assert (loaded.model.samplerate, loaded.model.segment.samples) == (48000, 12000)
    assert "as in 'duo' of the catalogue" in notices[0] and "voice, rest" in notices[0]


@pytest.mark.slow
def test_stems_without_names_are_numbered(tmp_path):
    path = tmp_path / "mine.th"
    torch.save(small(("a", "b", "c")).state_dict(), path)
    assert load_model(str(path)).sources == ("stem1", "stem2", "stem3")


def test_a_query_model_of_the_authors_takes_queries_alone():
    found = find_network(lasaft("aq_light_as_written"), all_families(), ())
    assert found.config.sources == ()


@pytest.mark.parametrize("lacks", ["encoder.0.conv.weight", "crosstransformer.norm_in.bias"])
def test_a_file_that_lacks_a_tensor_is_not_taken_for_anything(tmp_path, lacks):
    state = small().state_dict()
    del state[lacks]
    torch.save(state, tmp_path / "mine.th")
    with pytest.raises(ModelError, match=r"mine.th' does not say which network it is for\. Give"):
        load_model(str(tmp_path / "mine.th"))


@pytest.mark.parametrize(
    "state",
    [
        {"x": torch.zeros(2)},
        {"encoder.0.0.weight": torch.zeros(3)},
        {"state_dict": {"model.unet.x": torch.zeros(1)}},
    ],
)
def test_a_foreign_file_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="does not say which network it is for") as error:
        load_model(str(tmp_path / "x.ckpt"))
    assert "NAME=FILE" in error.value.remedy


# --- more than one claim -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    sources: tuple[str, ...] = ("a", "b")


class Plain(Separator):
    def __init__(self, config):
        super().__init__()
        self.sources, self.scale = config.sources, torch.nn.Parameter(torch.ones(2))


def family(name, **more):
    return Family(
        name,
        {"Plain": Arch("Plain", Config, Plain)},
        lambda checkpoint, model: dict(checkpoint.payload),
        **more,
    )


def test_two_families_that_claim_a_file_are_named():
    pair = [family(name, detect=lambda checkpoint: Told("Plain", {})) for name in ("one", "two")]
    with pytest.raises(ModelError, match="Plain of the family 'one' and Plain of the family 'two'"):
        find_network(bare({"scale": (2,)}), pair, ())
    assert find_network(bare({"scale": (2,)}), pair[:1], ()).family is pair[0]
    assert find_network(bare({"scale": (3,)}), pair, ()) is None  # the claims don't bear proof


def test_two_families_that_read_a_file_are_named(tmp_path, monkeypatch):
    from sepcli.models.family import Package

    pair = [family(name, describe=lambda checkpoint: Package("Plain", {})) for name in ("one", "two")]
    monkeypatch.setattr(files, "all_families", lambda notice: iter(pair))
    save_file({"scale": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="claimed by two model families, one and two"):
        load_model(str(tmp_path / "x.safetensors"))
