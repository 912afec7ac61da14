"""Losses: laws of the distances, equality with formulas written out, weights of sources."""

import numpy as np
import pytest
import torch

from sepcli.errors import UsageError
from sepcli.nn.losses import (
    Criterion,
    Term,
    complex_spec,
    l1,
    mse,
    multi_resolution_stft,
    negative_sdr,
    negative_si_sdr,
)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    reference = torch.randn(2, 3, 2, 4000)
    return reference + 0.1 * torch.randn(2, 3, 2, 4000), reference


@pytest.mark.parametrize("distance", [l1, mse, multi_resolution_stft])
def test_a_distance_is_zero_only_for_the_reference(distance, pair):
    estimate, reference = pair
    assert distance(reference, reference).abs().max() < 1e-6
    assert (distance(estimate, reference) > 1e-3).all()
    assert (distance(reference + 2 * (estimate - reference), reference) > distance(estimate, reference)).all()


@pytest.mark.parametrize("distance", [l1, mse, multi_resolution_stft, negative_si_sdr])
def test_items_and_sources_do_not_see_each_other(distance, pair):
    estimate, reference = pair
    alone = distance(estimate[1:, 2:], reference[1:, 2:])
    torch.testing.assert_close(distance(estimate, reference)[1:, 2:], alone, rtol=1e-4, atol=1e-5)


def test_l1_and_mse_are_means(pair):
    estimate, reference = pair
    error = (estimate - reference).numpy()
    np.testing.assert_allclose(l1(estimate, reference), np.abs(error).mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(mse(estimate, reference), (error**2).mean((2, 3)), rtol=1e-5)


def test_the_spectrogram_keeps_the_level_of_white_noise():
    noise = torch.randn(1, 44100)
    for nfft in (512, 2048):
        level = complex_spec(noise, nfft, nfft // 4).abs().square().mean()
        assert level.item() == pytest.approx(0.375, rel=0.05)  # the mean square of a Hann window


def test_si_sdr_against_its_definition(pair):
    estimate, reference = (x.double().numpy()[0, 0].ravel() for x in pair)
    alpha = (estimate @ reference) / (reference @ reference)
    target = alpha * reference
    expected = 10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target)))
    for scale in (1, 7):  # the ceiling costs a little
        ours = negative_si_sdr(scale * pair[0], pair[1])[0, 0].item()
        assert ours == pytest.approx(-expected, abs=0.5)


def test_si_sdr_of_silence_asks_for_silence():
    silence, loud = torch.zeros(1, 1, 1, 1000), 0.5 * torch.ones(1, 1, 1, 1000)
    loud.requires_grad_(True)
    value = negative_si_sdr(loud, silence)
    assert value.item() == pytest.approx(-6.02, abs=0.01)
    value.sum().backward()
    assert loud.grad.isfinite().all() and (loud.grad > 0).all()


def test_a_perfect_estimate_pulls_no_more(pair):
    estimate = pair[1].clone().requires_grad_(True)
    negative_si_sdr(estimate, pair[1]).sum().backward()
    assert estimate.grad.abs().max() < 1e-3
    assert negative_si_sdr(pair[1], pair[1]).min() > -31


def test_weights_of_sources_are_relative(pair):
    estimate, reference = pair
    one = Criterion([Term("l1")], [0, 1, 0])(estimate, reference).total
    assert one.item() == pytest.approx(l1(estimate, reference)[:, 1].mean().item(), rel=1e-6)
    twice = Criterion([Term("l1")], [2, 4, 2])(estimate, reference).total
    assert twice.item() == pytest.approx(Criterion([Term("l1")], [1, 2, 1])(estimate, reference).total.item())


def test_terms_add_up_and_are_named(pair):
    terms = [Term("l1", weight=2.0), Term("mse", "spectrogram", 0.5, 512, 128), Term("sisdr", weight=0.1)]
    loss = Criterion(terms, [1, 1, 1])(*pair)
    assert set(loss.parts) == {"l1", "mse_spectrogram", "sisdr"}
    expected = 2 * loss.parts["l1"] + 0.5 * loss.parts["mse_spectrogram"] + 0.1 * loss.parts["sisdr"]
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_descending_brings_the_estimate_closer(pair):
    estimate, reference = pair[0].clone().requires_grad_(True), pair[1]
    for kind, on in (
        ("l1", "wave"),
        ("mse", "spectrogram"),
        ("rmse", "spectrogram"),
        ("mrstft", "wave"),
        ("sdr", "wave"),
        ("sisdr", "wave"),
    ):
        loss = Criterion([Term(kind, on)], [1, 1, 1])(estimate, reference).total
        (gradient,) = torch.autograd.grad(loss, estimate)
        better = estimate.detach() - 1e-2 * gradient / gradient.abs().max()
        assert Criterion([Term(kind, on)], [1, 1, 1])(better, reference).total < loss, kind


def test_negative_sdr_of_a_known_error():
    reference = torch.ones(1, 1, 1, 1000)
    assert negative_sdr(0.9 * reference, reference).item() == pytest.approx(-20 + 0.8, abs=0.05)
    assert negative_sdr(reference, reference).min() > -31


def test_negative_sdr_does_not_care_how_loud_the_whole_is(pair):
    estimate, reference = pair
    torch.testing.assert_close(negative_sdr(5 * estimate, 5 * reference), negative_sdr(estimate, reference))


def test_negative_sdr_pulls_at_a_quiet_source_as_at_a_loud_one():
    torch.manual_seed(0)
    reference = torch.randn(1, 2, 2, 4000) * torch.tensor([1.0, 0.1])[:, None, None]
    estimate = (0.5 * reference).requires_grad_(True)
    (gradient,) = torch.autograd.grad(negative_sdr(estimate, reference).sum(), estimate)
    loud, quiet = (gradient * reference).flatten(2).sum(-1)[0].abs()  # dB a relative change
    assert quiet == pytest.approx(loud.item(), rel=0.5)


def test_negative_sdr_of_silence_counts_what_is_left_beside_the_mix():
    torch.manual_seed(0)
    reference = torch.randn(1, 2, 2, 4000)
    reference[:, 1] = 0
    values = [
        negative_sdr(reference + leak * torch.tensor([0.0, 1.0])[:, None, None], reference)[0, 1].item()
        for leak in (0.0, 0.01, 0.1, 1.0)
    ]
    assert values == sorted(values) and values[0] == pytest.approx(0, abs=1e-4)
    assert values[3] == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("fields", [{"kind": "l3"}, {"on": "cepstrum"}])
def test_an_unknown_term_names_the_known(fields):
    with pytest.raises(UsageError, match="l1|wave"):
        Term(**fields)


def test_weights_must_be_of_use():
    for weights in ([0, 0], [1, -1]):
        with pytest.raises(UsageError):
            Criterion([Term()], weights)
