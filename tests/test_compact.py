"""Weights as int8: what comes back is near, zeros stay zeros, and a file is loaded as any other."""

from __future__ import annotations

import pytest
import torch

from sepcli.weights.compact import LEVELS, SCALE, compact, expand


def weights(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_has_its_scale(axis):
    channels = torch.logspace(-3, 3, 32)
    tensor = weights(32, 32, 3, 3) * channels.reshape([32 if k == axis else 1 for k in range(4)])
    stored = compact({"weight": tensor})
    assert stored["weight"].dtype == torch.int8 and stored["weight" + SCALE].numel() == 32
    back = expand(stored)["weight"]
    step = tensor.abs().amax([k for k in range(4) if k != axis], keepdim=True) / LEVELS
    assert ((back - tensor).abs() <= 0.501 * step).all()


def test_zeros_and_small_tensors_stay_as_they_are():
    tensors = {
        "a": torch.zeros(64, 64),
        "bias": weights(4096),
        "norm": weights(8, 8),
        "steps": torch.arange(2000),
    }
    stored = compact(tensors)
    assert {name: tensor.dtype for name, tensor in stored.items() if name != "a" + SCALE} == {
        "a": torch.int8,
        "bias": torch.float32,
        "norm": torch.float32,
        "steps": torch.int64,
    }
    back = expand(stored)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_other_files_are_left_alone():
    """A tensor may be called scale, and one of int8 may have none."""
    tensors = {"layer.scale": weights(3), "layer": weights(3), "codes": torch.ones(2, 2, dtype=torch.int8)}
    assert all(expand(tensors)[name] is tensor for name, tensor in tensors.items())
