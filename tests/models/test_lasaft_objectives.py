"""How LaSAFT is trained: which target, told by what, compared where; and the latents kept for names."""

from dataclasses import replace

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.models.lasaft import LaSAFTQuery, LaSAFTQueryConfig, LaSAFTv2, LaSAFTv2Config
from sepcli.models.lasaft.objectives import MOMENTUM, Labelled, Queried
from sepcli.nn.losses import Criterion, Term, mse, negative_sdr

TINY = {
    "n_fft": 256,
    "hop_length": 128,
    "num_frame": 16,
    "margin": 128,
    "n_blocks": 3,
    "internal_channels": 4,
    "n_internal_layers": 2,
    "embedding_dim": 6,
    "num_tdfs": 3,
    "dk": 5,
}
QUERY = LaSAFTQueryConfig(**TINY, query_n_fft=256, query_channels=(4, 4, 4, 4, 4, 4, 4), query_hidden=8)
SAMPLES = 128 * 15


def label_model():
    torch.manual_seed(0)
    return LaSAFTv2(LaSAFTv2Config(**TINY)).train()


def query_model():
    torch.manual_seed(0)
    return LaSAFTQuery(QUERY).train()


def criterion(*weights, kind="mse"):
    return Criterion([Term(kind)], weights or (1.0, 1.0, 1.0, 1.0))


def batch(margin=0, rows=3):
    torch.manual_seed(1)
    return Batch(0.1 * torch.randn(rows, 4, 2, SAMPLES + 2 * margin), ["x"] * rows, [])


@pytest.mark.parametrize("source", range(4))
def test_the_loss_is_that_of_the_one_source_that_may_be_the_target(source):
    """On the spectrogram of the network, where the paper has it."""
    weights = [float(k == source) for k in range(4)]
    model, stems = label_model(), batch().stems
    loss = Labelled(model, criterion(*weights))(model, batch()).total
    estimate = model.estimate(model.spectrogram(stems.sum(1)), model.condition(torch.full((3,), source)))
    expected = mse(estimate[:, None], model.spectrogram(stems[:, source])[:, None]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


def test_on_the_waveform_the_mix_is_known_to_the_loss():
    model, stems = label_model(), batch().stems
    loss = Labelled(model, criterion(0, 1, 0, 0, kind="sdr"), domain="wave")(model, batch()).total
    mix = stems.sum(1)
    estimate = model.waveform(
        model.estimate(model.spectrogram(mix), model.condition(torch.full((3,), 1))), SAMPLES
    )
    pair = [torch.stack([wave, mix - wave], 1) for wave in (estimate, stems[:, 1])]
    torch.testing.assert_close(loss, negative_sdr(*pair)[:, 0].mean(), rtol=1e-4, atol=0)


@pytest.mark.slow
def test_weights_say_how_often_a_source_is_the_target():
    model, seen = label_model(), []
    objective = Labelled(model, criterion(0, 3, 1, 0))
    model.condition = lambda index: seen.append(index) or torch.zeros(len(index), 6)
    objective(model, batch(rows=400))
    assert set(seen[0].tolist()) == {1, 2} and 250 < int((seen[0] == 1).sum()) < 350


@pytest.mark.parametrize("query", ["target", "context"])
def test_the_query_is_the_target_or_what_is_around_it(query):
    model, asked = query_model().eval(), []
    objective = Queried(model, criterion(0, 0, 1, 0), query=query)
    assert objective.margin == (0 if query == "target" else SAMPLES // 2)
    own = model.query_spectrogram
    model.query_spectrogram = lambda wave: asked.append(wave) or own(wave)
    given = batch(objective.margin)
    objective(model, given)
    stem, m = given.stems[:, 2], objective.margin
    around = torch.cat([stem[..., :m], stem[..., -m:]], -1) if m else stem
    torch.testing.assert_close(asked[0], around, rtol=0, atol=0)


def test_a_silent_context_is_replaced_by_the_target_itself():
    model, asked = query_model().eval(), []
    objective = Queried(model, criterion(0, 0, 1, 0), query="context")
    own = model.query_spectrogram
    model.query_spectrogram = lambda wave: asked.append(wave) or own(wave)
    given, m = batch(objective.margin), objective.margin
    given.stems[1, 2, :, :m] = given.stems[1, 2, :, -m:] = 0
    objective(model, given)
    torch.testing.assert_close(asked[0][1], given.stems[1, 2, :, m:-m], rtol=0, atol=0)
    torch.testing.assert_close(asked[0][0], given.stems[0, 2][:, [*range(m), *range(-m, 0)]], rtol=0, atol=0)


def test_latents_of_names_follow_their_examples_in_training_alone():
    model = query_model()
    objective, given = Queried(model, criterion()), batch()
    given.stems[:, 3] = 0  # never heard: no latent
    expected = [model.query(model.query_spectrogram(given.stems[:, k])).mean(0).detach() for k in range(3)]
    objective(model, given)
    for k in range(3):
        torch.testing.assert_close(model.mean_latents[k], expected[k], rtol=1e-4, atol=1e-5)
    assert not model.mean_latents[3].any()
    louder = replace(given, stems=given.stems.flip(-1))
    after = model.query(model.query_spectrogram(louder.stems[:, 0])).mean(0).detach()
    objective(model, louder)
    torch.testing.assert_close(
        model.mean_latents[0], expected[0] + MOMENTUM * (after - expected[0]), rtol=1e-4, atol=1e-5
    )
    kept = model.mean_latents.clone()
    objective(model.eval(), given)
    assert torch.equal(model.mean_latents, kept)


def test_what_the_objectives_refuse():
    with pytest.raises(UsageError, match="made for waveforms"):
        Labelled(label_model(), criterion(kind="sdr"))
    with pytest.raises(UsageError, match=r"domain is 'time'"):
        Labelled(label_model(), criterion(), domain="time")
    with pytest.raises(UsageError, match=r"query is 'hum'"):
        Queried(query_model(), criterion(), query="hum")
