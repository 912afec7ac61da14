"""BandSplit: its parts' laws, and that a stored network comes back."""

from functools import partial

import pytest
import torch

from sepcli.loading import load_model, save_model
from sepcli.models.bandsplit import BandSplit, BandSplitConfig
from tests.contracts import Case, check_reduced, peak_error

SMALL = dict(
    sources=("vocals", "drums", "rest"),
    nfft=512,
    hop=128,
    dim=16,
    blocks=2,
    squeeze=4,
    bottleneck=32,
    mask_dim=16,
    zones=((8, 4, 1), (8, 12, 2), (4, 32, 8)),
    segment=0.5,
)


def small(**other):
    torch.manual_seed(0)
    model = BandSplit(BandSplitConfig(**{**SMALL, **other})).eval()
    for block in model.blocks:  # blocks begin as the identity; these shall do something
        for weight in (block.near_out.weight, block.expand.weight):
            torch.nn.init.normal_(weight, std=0.1)
    return model


LENGTHS = [1, 255, 256, 257, 5000, 22050]
NETWORKS = {
    "BandSplit": {
        "mono": Case(partial(small, channels=1), LENGTHS),
        "stereo": Case(partial(small, channels=2), LENGTHS),
    }
}


def test_reduced_precision():
    check_reduced(small(), torch.randn(2, 2, 22050), torch.bfloat16, 30)


def test_masks_of_an_equal_share_give_equal_shares():
    """With masks of nothing but the share every stem is a third of the mix, below the Nyquist bin."""
    model = small()
    for weight in model.mask_out:
        torch.nn.init.zeros_(weight)
    mix = torch.sin(torch.arange(20000) * 0.05).expand(1, 2, -1).contiguous()
    stems = model(mix)
    assert peak_error(stems, (mix / 3)[:, None].expand_as(stems)) < 1e-4


def test_a_block_begins_as_the_identity():
    torch.manual_seed(0)
    model = BandSplit(BandSplitConfig(**SMALL))
    grid = torch.randn(2, 7, model.bands, 16)
    model.blocks[0].near_out.bias.data.zero_()
    model.blocks[0].expand.bias.data.zero_()
    assert torch.equal(model.blocks[0](grid), grid)


def test_zones_must_cover_the_spectrum():
    with pytest.raises(ValueError, match="255 of 256|zones cover"):
        BandSplit(BandSplitConfig(**{**SMALL, "zones": ((8, 4, 1),)}))
    with pytest.raises(ValueError, match="multiple"):
        BandSplit(BandSplitConfig(**{**SMALL, "zones": ((8, 4, 1), (8, 12, 5), (4, 32, 8))}))


def test_the_published_size():
    config = BandSplitConfig(sources=("vocals", "drums", "bass", "other"))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in BandSplit(config).parameters())
    assert parameters * 2 < 10_000_000  # bytes, stored as float16


def test_a_stored_network_comes_back(tmp_path):
    model = small()
    path = tmp_path / "model.safetensors"
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_model(half, path, family="bandsplit", arch="BandSplit", config=model.config)
    loaded = load_model(str(path), targets=["drums"])
    assert loaded.sources == SMALL["sources"] and loaded.model.sources == ("drums",)
    mix = torch.randn(1, 2, 8000)
    assert peak_error(loaded.model(mix), model(mix)[:, 1:2]) < 2e-2


def test_it_learns():
    """A few steps on one example bring the loss down: every part has a gradient."""
    model = small().train()
    stems = 0.3 * torch.randn(2, 3, 2, 4000)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (model(stems.sum(1)) - stems).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    config = BandSplitConfig(("a",))
    assert {name: value for name, value in vars(config).items() if name != "sources"} == dict(
        samplerate=44100,
        channels=2,
        nfft=4096,
        hop=1024,
        zones=((24, 4, 1), (24, 12, 1), (12, 48, 4), (4, 272, 8)),
        dim=64,
        blocks=5,
        squeeze=8,
        bottleneck=192,
        mask_dim=128,
        segment=8.0,
    )
