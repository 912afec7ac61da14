"""The default model by its sound: the stems of a real clip are as in tests/golden/duo, name by name."""

import numpy as np
import pytest
import soundfile

from tests.golden.duo.make import HERE, separated

STEMS = ("drums", "bass", "other", "vocals")


def snr(reference, estimate):
    """dB, over both channels."""
    return 10 * np.log10(np.sum(reference**2) / np.sum((reference - estimate) ** 2))


@pytest.fixture(scope="module")
def golden():
    return {name: soundfile.read(HERE / f"{name}.flac", dtype="float32", always_2d=True)[0].T for name in STEMS}


@pytest.fixture(scope="module")
def stems():
    return separated()


@pytest.mark.slow
def test_every_stem_is_what_it_was(golden, stems):
    """The files are rounded, which leaves 66 dB for the quietest stem; processors differ by less."""
    assert tuple(stems) == STEMS
    for name in STEMS:
        assert stems[name].shape == golden[name].shape == (2, 88200)
        assert snr(golden[name], stems[name]) > 60, name


def test_no_stem_passes_for_another_nor_left_for_right(golden, stems):
    """So a permutation of the stems, or of the channels, fails the test above."""
    taken_for = {(a, b): snr(golden[a], stems[b]) for a in STEMS for b in STEMS if a != b}
    assert max(taken_for.values()) < 10, taken_for
    swapped = {name: snr(golden[name], stems[name][::-1]) for name in STEMS}
    assert max(swapped.values()) < 20, swapped
    assert max(np.abs(stem).max() for stem in stems.values()) > 0.1  # and there is something to compare
