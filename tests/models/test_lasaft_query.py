"""LaSAFT with an audio query: windows of long queries, latents by name, refusals."""

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from tests.contracts import peak_error, run
from tests.models.test_lasaft import TINY, tiny

SEGMENT = TINY["hop_length"] * (TINY["num_frame"] - 1)


@pytest.fixture
def model():
    return tiny("query")


def test_a_model_without_names():
    """It makes nothing before it is bound."""
    model = tiny("query", sources=("a",))
    nameless = type(model)(type(model.config)(**{**vars(model.config), "sources": ()})).eval()
    assert nameless.sources == ()
    bound = nameless.bind({"hum": torch.randn(2, SEGMENT)})
    assert bound.sources == ("hum",) and run(bound, torch.randn(1, 2, SEGMENT)).shape == (1, 1, 2, SEGMENT)


def test_the_whole_way_of_a_query(model):
    """Bound to the sound it is asked with, the stem is that of the Query-net's latent."""
    wave, mix = torch.randn(1, 2, SEGMENT), torch.randn(1, 2, SEGMENT)
    with torch.inference_mode():
        z = model.query(model.query_spectrogram(wave))
        expected = model.waveform(model.estimate(model.spectrogram(mix), z), SEGMENT)
    assert peak_error(run(model.bind({"x": wave[0]}).select(["x"]), mix)[:, 0], expected) < 1e-5


def test_a_long_query_is_the_mean_of_its_windows(model):
    parts = torch.randn(3, 2, SEGMENT)
    with torch.inference_mode():
        latents = model.query(model.query_spectrogram(parts))
    joined = model.bind({"x": torch.cat(list(parts), dim=-1)})
    assert torch.allclose(joined.bound[0], latents.mean(0), atol=1e-5)
    # Silence between changes nothing.
    gaps = torch.cat([parts[0], torch.zeros(2, SEGMENT), parts[1], parts[2]], dim=-1)
    assert torch.allclose(model.bind({"x": gaps}).bound[0], latents.mean(0), atol=1e-5)


@pytest.mark.parametrize("rest", [1, 40, SEGMENT // 2])
def test_the_end_of_a_query_is_heard(model, rest):
    """The last window is whole, however little is left for it."""
    wave = torch.cat([torch.zeros(2, SEGMENT), torch.randn(2, rest)], dim=-1)
    with torch.inference_mode():
        latent = model.query(model.query_spectrogram(wave[None, :, -SEGMENT:]))
    assert torch.allclose(model.bind({"x": wave}).bound, latent, atol=1e-5)


@pytest.mark.parametrize("window", [256, 1024])
def test_the_shortest_query(window):
    """One of `min_query` is long enough for the Query-net and its STFT."""
    model = tiny("query", query_n_fft=window)
    least = max(8 * TINY["hop_length"], window // 2 + 1)  # samples
    assert model.min_query == least / model.samplerate
    wave = torch.randn(2, least)
    with torch.inference_mode():
        latent = model.query(model.query_spectrogram(wave[None]))
    assert torch.allclose(model.bind({"x": wave}).bound, latent, atol=1e-5)


def test_latents_by_name_are_rows(model):
    """`condition` gives the stored ones; replacing one by a query leaves the others."""
    assert torch.equal(model.condition(torch.tensor([2, 0])), model.mean_latents[[2, 0]])
    bound = model.bind({"drums": torch.randn(2, SEGMENT), "hum": torch.randn(2, SEGMENT)})
    assert bound.sources == ("vocals", "drums", "bass", "other", "hum")
    mix = torch.randn(1, 2, SEGMENT)
    ours, theirs = run(bound, mix), run(model, mix)
    assert peak_error(ours[:, [0, 2, 3]], theirs[:, [0, 2, 3]]) < 1e-5
    assert peak_error(ours[:, 1], theirs[:, 1]) > 1e-3


@pytest.mark.slow
def test_a_stem_without_a_latent_is_refused(model):
    model.mean_latents[1] = 0
    with pytest.raises(ModelError, match="no latent for drums"):
        run(model, torch.randn(1, 2, SEGMENT))
    run(model.select(["vocals"]), torch.randn(1, 2, SEGMENT))
    run(model.bind({"drums": torch.randn(2, SEGMENT)}), torch.randn(1, 2, SEGMENT))


def test_a_stored_model_keeps_its_latents(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(model.state_dict(), path, family="lasaft", arch="LaSAFTQuery", config=model.config)
    loaded = load_model(str(path), targets=["bass"])
    assert loaded.sources == model.sources and loaded.model.sources == ("bass",)
    mix = torch.randn(1, 2, SEGMENT)
    assert torch.equal(run(loaded.model, mix), run(model.select(["bass"]), mix))
