"""Each network of the catalogue can have its file's size: elements x bytes + names and shapes.

Built without memory. That a config fits says dim, depth, stems and layers; hop, names of stems and the length
of calls are in no tensor.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sepcli.models.detection import entry_config
from sepcli.models.family import get_family
from sepcli.models.roformer.bands import mel as layout
from sepcli.models.roformer.config import BSRoformerConfig, MelBandRoformerConfig, RoformerConfig
from sepcli.weights.catalog import bundled_catalog, read_catalog
from sepcli.weights.entries import Entry, Member, WeightFile
from tests.bench.cost import cost

ENTRIES = read_catalog(bundled_catalog())
HEADER = 0.01  # of a file: names, shapes and alignment
BYTES = range(290, 491)  # the same for a tensor of a RoFormer, in files of torch.save

# RoFormers with more than the usual parts.
EXTENDED = {
    "bs-roformer-hyperace-v2",
    "bs-roformer-hyperace-v2-inst",
    "bs-roformer-large-v2-inst",
    "bs-roformer-vrl-inst",
}

# Files that hold something else besides, or hold it in another way.
OTHERWISE = {
    "mdx_q": "quantised",
    "mdx_extra_q": "quantised",
    "lasaft-v1-large": "the state of an optimiser",
    "lightsaft-v1.1": "the state of an optimiser",
    "spleeter-2stems": "compressed",
    "bsrnn-simo-opt": "compressed, with the state of an optimiser",
    "bsrnn-opt": "four networks, compressed, with the state of an optimiser",
    "bsrnn-large": "four networks, compressed, with the state of an optimiser",
    "encodec-48k": "statistics of its training",
    "duo-band": "int8",
    "duo-vocals": "int8",
    "mobilenet-subband": "Fourier matrices, which are larger than the network",
    "umxhq": "one file for each stem",
}


def elements(entry: Entry, member: Member, known: dict) -> int:
    arch = get_family(entry.family).arch(member.arch)
    config = entry_config(arch, entry, member)
    key = member.arch, repr(config)
    if key not in known:
        with torch.device("meta"):
            known[key] = sum(tensor.numel() for tensor in arch.build(config).state_dict().values())
    return known[key]


@pytest.mark.slow
def test_every_config_can_have_its_files_size():
    known: dict = {}
    checked = 0
    for entry in ENTRIES.values():
        for member in () if entry.models else entry.members:
            files: list[WeightFile] = [file for file in member.file.sources if file.bytes is not None]
            if entry.name in OTHERWISE or not files:
                continue
            count = elements(entry, member, known)
            for file in files:
                assert file.bytes is not None
                over = [(file.bytes - count * width) / file.bytes for width in (2, 4)]
                assert any(0 < share < HEADER for share in over), (entry.name, file.filename, over)
                checked += 1
    assert checked > 100 and len(known) > 40


# --- RoFormer: to the tensor, by the published layout (no network is built) ---


def published(config: RoformerConfig) -> tuple[int, int]:
    """Elements and tensors of a file: those of a band each by itself, and the constants of rotary positions."""
    mel = isinstance(config, MelBandRoformerConfig)
    bins = layout(config.bands, config.nfft, config.samplerate).widths if mel else config.bands
    widths = [2 * config.channels * width for width in bins]
    dim, inner, hidden = config.dim, config.heads * config.dim_head, config.dim * config.mask_expansion
    split = [width + dim * width + dim for width in widths]
    layer = config.dim_head // 2 + dim + 3 * inner * dim + config.heads * (dim + 1) + dim * inner
    layer += dim + 4 * dim * dim + 4 * dim + 4 * dim * dim + dim
    blocks = 2 * config.depth
    sizes = [dim, *[hidden] * config.mask_hidden]
    mask = sum((one + 1) * other for one, other in pairwise(sizes))
    masks = [mask + (sizes[-1] + 1) * 2 * width for width in widths]
    stems, norms = len(config.sources), blocks if mel else 1
    count = sum(split) + blocks * config.layers * layer + norms * dim + stems * sum(masks)
    each = 3 * len(widths) + blocks * config.layers * 11 + norms
    return count, each + stems * len(widths) * 2 * (config.mask_hidden + 1)


@pytest.mark.parametrize(
    ("kind", "more", "elements", "tensors"),
    [
        (BSRoformerConfig, {}, 51_050_188, 699),
        (BSRoformerConfig, {"depth": 16}, 59_469_836, 787),
        (MelBandRoformerConfig, {}, 228_203_172, 684),
        (MelBandRoformerConfig, {"mask_hidden": 3}, 369_853_092, 804),
        (MelBandRoformerConfig, {"dim": 256, "depth": 12, "sources": ("a", "b")}, 217_302_620, 1188),
    ],
)
def test_the_count_is_that_of_public_files(kind, more, elements, tensors):
    assert published(kind(**more)) == (elements, tensors)


ROFORMERS = [name for name, entry in ENTRIES.items() if entry.family == "roformer" and name not in EXTENDED]


def fits(config: RoformerConfig, size: int) -> bool:
    count, tensors = published(config)
    return any((size - count * width) // tensors in BYTES for width in (2, 4))


@pytest.mark.slow
def test_every_roformer_has_its_files_size_and_no_other():
    """One block, one stem or one layer of the masks more or less would have another."""
    for name in ROFORMERS:
        entry = ENTRIES[name]
        (member,) = entry.members
        config = entry_config(get_family("roformer").arch(member.arch), entry, member)
        assert member.file.bytes is not None and fits(config, member.file.bytes), name
        for change in (
            {"depth": config.depth - 1},
            {"depth": config.depth + 1},
            {"mask_hidden": config.mask_hidden + 1},
            {"dim": config.dim + 64},
            {"sources": (*config.sources, "more")},
        ):
            assert not fits(replace(config, **change), member.file.bytes), (name, change)
    assert len(ROFORMERS) > 70


def test_what_identifies_a_model_belongs_to_one():
    """Names, aliases and hashes; stems of one vocabulary."""
    names = [name for entry in ENTRIES.values() for name in (entry.name, *entry.aliases)]
    assert len({name.casefold() for name in names}) == len(names)
    files = {file.source: file for entry in ENTRIES.values() for each in entry.files for file in each.sources}
    # The mixer stands upon the files of another entry.
    models = [entry for entry in ENTRIES.values() if not entry.models and not entry.name.endswith("-mixer")]
    hashes = [each.sha256 for entry in models for each in entry.files if each.sha256]
    assert len(set(hashes)) == len(hashes) and len(files) > 150
    assert {stem for entry in ENTRIES.values() for stem in entry.sources} <= VOCABULARY


VOCABULARY = set(
    "vocals instrumental accompaniment drums bass guitar piano other lead karaoke backing male female "
    "dry reverb noise crowd aspiration drums_bass kick snare toms hh ride crash cymbals "
    "speech music effects similarity difference reconstruction".split()
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "mel-roformer-kim", "guitar-becruily", "dereverb-anvuew-room"])
def test_the_work_is_what_the_counter_says(name):
    assert cost(ENTRIES[name]) == pytest.approx(ENTRIES[name].cost, rel=0.01)
