"""A file's channels on their way through a model: which go together, and that they come back."""

import numpy as np
import pytest

from sepcli.errors import InputError
from sepcli.sound.channels import ChannelMap
from tests.sounds import music


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("model", [1, 2])
def test_join_undoes_split(channels, model):
    x = music(100, channels)
    channel_map = ChannelMap(channels, model)
    split = channel_map.split(x)
    assert split.shape == (channel_map.groups, model, 100) and split.dtype == np.float32
    stems = np.stack([split, 2 * split])
    joined = channel_map.join(stems)
    assert joined.shape == (2, channels, 100)
    assert np.array_equal(joined, np.stack([x, 2 * x]))  # the mean of two equal floats is exact


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (7, 5), (8, 5)]
)
def test_the_groups_of_a_stereo_model(channels, groups):
    assert ChannelMap(channels, 2).groups == groups
    assert ChannelMap(channels, 1).groups == channels


def test_the_pairs_of_5_1():
    x = np.arange(6, dtype=np.float32)[:, None]
    assert ChannelMap(6, 2).split(x)[..., 0].tolist() == [[0, 1], [2, 2], [3, 3], [4, 5]]


def test_mono_through_a_stereo_model_is_the_mean_of_both_sides():
    stems = np.array([[[[1.0], [3.0]]]], np.float32)
    assert ChannelMap(1, 2).join(stems).tolist() == [[[2.0]]]


def test_the_plain_cases_cost_no_copy():
    x = music(10)
    assert np.shares_memory(ChannelMap(2, 2).split(x), x)
    stems = np.zeros((4, 1, 2, 10), np.float32)
    assert np.shares_memory(ChannelMap(2, 2).join(stems), stems)


@pytest.mark.parametrize("channels", [9, 16])
def test_more_than_eight_channels_are_refused(channels):
    with pytest.raises(InputError, match="up to 8") as caught:
        ChannelMap(channels, 2)
    assert caught.value.code == "channels" and caught.value.remedy
