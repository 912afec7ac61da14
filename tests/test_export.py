"""`sepcli models export`: a model as other programs read it."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from sepcli.cli.models import app
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model, save_model
from sepcli.training.export import export_model
from tests.contracts import peak_error, run
from tests.models.test_roformer import tiny, tiny_mel


@pytest.fixture
def write(tmp_path):
    """Writes a network in sepcli's own form."""

    def write(model, arch="BSRoformer", family="roformer"):
        path = tmp_path / "own.safetensors"
        save_model(model.state_dict(), path, family=family, arch=arch, config=model.config)
        return str(path)

    return write


@pytest.mark.parametrize("make, arch", [(tiny, "BSRoformer"), (tiny_mel, "MelBandRoformer")])
def test_the_toolkit_runs_it(make, arch, write, tmp_path):
    yaml = pytest.importorskip("yaml")
    from tests.parity.test_roformer import THEIRS

    model = make("guitar", "other")
    out = tmp_path / "there" / "model.ckpt"
    done = CliRunner().invoke(app, ["export", write(model, arch), "-o", str(out)])
    assert done.exit_code == 0 and done.stdout.splitlines() == [str(out), str(out.with_suffix(".yaml"))]
    settings = yaml.load(out.with_suffix(".yaml").read_text(), Loader=yaml.FullLoader)
    theirs = THEIRS[arch](**settings["model"]).eval()
    theirs.load_state_dict(torch.load(out), strict=True)
    mix = torch.randn(1, 2, settings["audio"]["chunk_size"])
    assert peak_error(run(theirs, mix), run(model, mix)) < 2e-5
    assert settings["training"]["instruments"] == ["guitar", "other"]
    assert settings["training"]["target_instrument"] is None


def test_a_network_of_one_stem_is_a_target(write, tmp_path):
    yaml = pytest.importorskip("yaml")
    export_model(write(tiny("vocals")), tmp_path / "m.ckpt")
    settings = yaml.load((tmp_path / "m.yaml").read_text(), Loader=yaml.FullLoader)
    assert settings["training"]["target_instrument"] == "vocals"
    assert settings["training"]["instruments"] == ["vocals", "other"]


@pytest.mark.slow
def test_sepcli_reads_it_back(write, tmp_path):
    """The tensors tell all but the stems' names and the hop."""
    model = tiny("a", "b")
    export_model(write(model), tmp_path / "m.ckpt")
    state = load_model(str(tmp_path / "m.ckpt")).model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_what_is_refused(write, tmp_path):
    from sepcli.models.spleeter import FAMILY as SPLEETER
    from tests.models.test_spleeter import tiny as tiny_spleeter

    spec = write(tiny("a"))
    with pytest.raises(UsageError, match="no suffix of a checkpoint"):
        export_model(spec, tmp_path / "m.wav")
    (tmp_path / "m.yaml").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_model(spec, tmp_path / "m.ckpt")
    assert not (tmp_path / "m.ckpt").exists() and (tmp_path / "m.yaml").read_text() == "mine"
    export_model(spec, tmp_path / "m.ckpt", force=True)
    with pytest.raises(ModelError, match="toolkit has no network with refiner"):
        export_model(write(tiny("a", refiner=1)), tmp_path / "r.ckpt")
    assert SPLEETER.export is None
    with pytest.raises(ModelError, match="how other programs store a Spleeter"):
        export_model(write(tiny_spleeter(), "Spleeter", "spleeter"), tmp_path / "s.ckpt")
