"""Families that installed packages bring, by entry points: found, used, refused with the package's name."""

from importlib.metadata import entry_points
from itertools import count

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from sepcli.models.family import all_families, family_names, get_family, hidden_family

GAIN = """
from dataclasses import dataclass

import torch

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.family import Arch, Family


@dataclass(frozen=True)
class GainConfig:
    sources: tuple = ("quiet", "loud")


class Gain(Separator):
    samplerate, channels, segment = 44100, 2, Segment(samples=None)

    def __init__(self, config):
        super().__init__()
        self.sources = tuple(config.sources)
        self.share = torch.nn.Parameter(torch.rand(len(config.sources)))

    def forward(self, mix, *, noise=None):
        return mix[:, None] * self.share[:, None, None]

    def select(self, sources):
        narrowed = Gain(GainConfig(tuple(sources)))
        narrowed.share.data = self.share.data[source_indices(self.sources, sources)]
        return narrowed


def convert(checkpoint, model):
    return dict(checkpoint.payload)


FAMILY = Family("{name}", {{"Gain": Arch("Gain", GainConfig, Gain)}}, convert)
"""


NUMBERS = count()  # an imported module's name is not free again


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package on the path that offers one family."""

    def install(name, family, source=GAIN, version="1.0", value="{module}:FAMILY"):
        number = next(NUMBERS)
        module, folder = f"families_{number}", tmp_path / f"site{number}"
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source.format(name=family))
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        value = value.format(module=module)
        (information / "entry_points.txt").write_text(f"[sepcli.families]\n{family} = {value}\n")
        monkeypatch.syspath_prepend(folder)

    return install


def test_a_packages_family_is_one_of_them(install, tmp_path):
    before = family_names()
    assert "gain" not in before
    install("sepcli-gain", "gain")
    assert family_names() == sorted([*before, "gain"])
    assert "gain" in [family.name for family in all_families()]
    arch = get_family("gain").archs["Gain"]
    config = arch.config(("a", "b"))
    model = arch.build(config)
    save_model(model.state_dict(), tmp_path / "m.safetensors", family="gain", arch="Gain", config=config)
    loaded = load_model(str(tmp_path / "m.safetensors"))
    assert loaded.sources == ("a", "b") and torch.equal(loaded.model.share, model.share)


def test_its_models_may_be_in_a_catalogue(install, tmp_path):
    from sepcli.weights.catalog import load_catalog

    install("sepcli-gain", "gain")
    arch = get_family("gain").archs["Gain"]
    model = arch.build(arch.config(("a", "b")))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    (tmp_path / "catalog.toml").write_text(
        '[mine]\nfamily = "gain"\narch = "Gain"\nsources = ["a", "b"]\nsamplerate = 44100\nchannels = 2\n'
        'files.model = { url = "https://x.invalid/m" }\n'
    )
    loaded = load_model(f"mine={tmp_path / 'm.pt'}", catalog=load_catalog([tmp_path / "catalog.toml"]))
    assert torch.equal(loaded.model.share, model.share)


@pytest.mark.parametrize(
    ("source", "value", "fact"),
    [
        ("import no_such_module", "{module}:FAMILY", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "{module}:FAMILY", "ZeroDivisionError"),
        ("FAMILY = 1", "{module}:FAMILY", "is no Family"),
        (GAIN, "{module}:FAMILIES", "AttributeError"),
        (GAIN.replace("{name}", "another"), "{module}:FAMILY", "is no Family of that name"),
    ],
)
def test_a_broken_one_matters_only_where_it_is_asked_for(install, tmp_path, source, value, fact):
    install("sepcli-gain", "gain", source, value=value)
    assert "gain" in family_names()
    with pytest.raises(ModelError, match=f"'gain' of the package sepcli-gain 1.0 can't be used: .*{fact}"):
        get_family("gain")
    notices = []
    assert "gain" not in [family.name for family in all_families(notices.append)]
    assert len(notices) == 1 and "sepcli-gain 1.0" in notices[0]
    own = get_family("demucs").archs["Demucs"]
    config = own.config(("a", "b"), channels=8, depth=1, dconv_mode=0)
    path = tmp_path / "m.safetensors"
    save_model(own.build(config).state_dict(), path, family="demucs", arch="Demucs", config=config)
    assert load_model(str(path)).sources == ("a", "b")


def test_two_packages_with_one_name_are_both_named(install):
    install("first", "gain")
    install("second", "gain", version="2.3")
    with pytest.raises(ModelError, match=r"second 2\.3 and first 1\.0 both have a model family 'gain'"):
        get_family("gain")


def test_sepclis_own_family_wins_and_that_is_said(install, tmp_path):
    from sepcli.models.demucs import FAMILY

    assert hidden_family("demucs") is None
    install("sepcli-gain", "demucs")
    assert get_family("demucs") is FAMILY and family_names().count("demucs") == 1
    assert hidden_family("demucs") == "sepcli-gain 1.0"
    config = FAMILY.archs["Demucs"].config(("a", "b"), channels=8, depth=1, dconv_mode=0)
    model, path = FAMILY.archs["Demucs"].build(config), tmp_path / "m.safetensors"
    save_model(model.state_dict(), path, family="demucs", arch="Demucs", config=config)
    notices = []
    load_model(str(path), notice=notices.append)
    assert notices == [
        "The model family 'demucs' is sepcli's own; the one in the package sepcli-gain 1.0 is not used."
    ]


def test_a_file_of_a_family_that_is_not_installed_names_it(install, tmp_path, monkeypatch):
    with monkeypatch.context():
        install("sepcli-gain", "gain")
        arch = get_family("gain").archs["Gain"]
        config = arch.config(("a", "b"))
        path = tmp_path / "m.safetensors"
        save_model(arch.build(config).state_dict(), path, family="nowhere", arch="Gain", config=config)
    with pytest.raises(
        ModelError, match="There is no model family 'nowhere'; there is bandsplit, bsrnn, bytesep"
    ) as error:
        load_model(str(path))
    assert error.value.code == "unknown_family" and "install" in error.value.remedy


def test_the_fake_packages_are_gone():
    assert not [point for point in entry_points(group="sepcli.families") if point.name == "gain"]
