"""TensorFlow checkpoints: what is written comes back, from a folder or an archive, and damage is refused."""

from __future__ import annotations

import hashlib
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sepcli.errors import ModelError
from sepcli.weights.archive import member_sha256
from sepcli.weights.bundle import read_bundle
from sepcli.weights.checkpoint import read_checkpoint
from sepcli.weights.download import checkpoint_sha256
from tests import bundles

TENSORS = {
    "layer/kernel": torch.randn(3, 2, 5),
    "layer/bias": torch.arange(3, dtype=torch.float64),
    "layer_10/kernel": torch.randn(2, 2).half(),
    "layer_2/kernel": torch.randn(2, 2).bfloat16(),
    "empty": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
    "global_step": torch.tensor(7),
}


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def refused(path, **more):
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path, **more)
    return caught.value


names = st.text("abcdef/_0123456789", min_size=1, max_size=12)


@given(st.dictionaries(names, st.lists(st.integers(0, 4), max_size=3), max_size=40), st.integers(1, 3))
def test_what_is_written_comes_back(shapes, shards):
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    index, *data = bundles.bundle(tensors, shards, per_block=7).values()
    same(read_bundle(index, dict(enumerate(map(bytearray, data)))), tensors)


@pytest.mark.parametrize("shards", [1, 3])
def test_in_a_folder(tmp_path, shards):
    path = bundles.write(tmp_path, bundles.bundle(TENSORS, shards))
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "tensorflow" and checkpoint.path == path
    same(checkpoint.payload, TENSORS)
    before = path.with_name(f"model.data-00000-of-0000{shards}").read_bytes()
    for tensor in checkpoint.payload.values():
        tensor.zero_()  # mapped: writes stay in memory
    assert path.with_name(f"model.data-00000-of-0000{shards}").read_bytes() == before
    assert {t.device.type for t in checkpoint.shapes_only().payload.values()} == {"meta"}


def test_an_index_is_small_beside_its_data(tmp_path):
    tensors = {"x": torch.randn(100, 1000)}
    path = bundles.write(tmp_path, bundles.bundle(tensors))
    assert path.stat().st_size < 300
    same(read_checkpoint(path).payload, tensors)


def test_a_file_out_of_proportion_is_not_read(tmp_path):
    files = bundles.bundle({"x": torch.zeros(4_000_000)})
    for path in (tmp_path / "a.tar.gz", tmp_path / "a.zip"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            bundles.write_tar(path, files, level=9)
        assert "16000000 bytes in the archive is out of proportion" in refused(path).message


def test_in_archives(tmp_path):
    files = bundles.bundle(TENSORS, 2)
    same(read_checkpoint(bundles.write_tar(tmp_path / "a.tar.gz", files)).payload, TENSORS)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"deep/one/{name}", content)
    same(read_checkpoint(tmp_path / "a.whl").payload, TENSORS)
    with zipfile.ZipFile(tmp_path / "a.whl", "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in bundles.bundle({"x": torch.ones(2)}).items():
            archive.writestr(f"deep/two/{name}", content)
    assert "several checkpoints: deep/one/model.index, deep/two" in refused(tmp_path / "a.whl").message
    found = read_checkpoint(tmp_path / "a.whl", member="deep/two/model.index").payload
    same(found, {"x": torch.ones(2)})
    assert "holds no three.index" in refused(tmp_path / "a.whl", member="three.index").message


def test_an_archive_without_one(tmp_path):
    path = bundles.write_tar(tmp_path / "a.tar.gz", {"song.wav": b"RIFF"})
    error = refused(path)
    assert (error.code, "no checkpoint of TensorFlow" in error.message) == ("not_a_checkpoint", True)


def test_strings_are_left_out():
    """Keras keeps its graph of objects in one."""
    text = bundles.field(1, 7) + bundles.field(5, 3)
    index = bundles.table({b"": bundles.field(1, 1), b"_CHECKPOINTABLE_OBJECT_GRAPH": text})
    assert read_bundle(index, {0: bytearray(b"abc")}) == {}


def test_hashes(tmp_path):
    files = bundles.bundle(TENSORS)
    path = bundles.write(tmp_path / "one", files)
    other = bundles.write(tmp_path / "two", bundles.bundle({**TENSORS, "flag": torch.tensor([True, True])}))
    assert checkpoint_sha256(path) != checkpoint_sha256(other)  # the index alone has no values
    assert checkpoint_sha256(path) == checkpoint_sha256(bundles.write(tmp_path / "three", files))
    archive = bundles.write_tar(tmp_path / "a.tar.gz", files)
    for name, content in files.items():
        assert member_sha256(archive, name) == hashlib.sha256(content).hexdigest()
    assert member_sha256(archive, "nothing") == ""
    assert len(checkpoint_sha256(archive)) == 64


# --- damage -------------------------------------------------------------------------------------------------


def test_every_cut_and_every_byte_of_the_index_is_noticed(tmp_path):
    """By the checksum of a block, or by what the bytes say."""
    files = bundles.bundle({"a/kernel": torch.ones(2, 3), "b": torch.ones(1)})
    path = bundles.write(tmp_path, files)
    index = files["model.index"]
    meta = index.index(bundles.block([]))  # the block that nobody reads, and the footer's padding
    unread = {*range(meta, meta + 13), *range(len(index) - 48, len(index) - 8)}
    for at in range(len(index)):
        path.write_bytes(index[:at])
        assert refused(path).code in ("checkpoint_damaged", "not_a_checkpoint"), at
        if at not in unread:
            path.write_bytes(index[:at] + bytes([index[at] ^ 0x55]) + index[at + 1 :])
            assert refused(path).code in ("checkpoint_damaged", "not_a_checkpoint"), at


def entry(dtype=1, shape=(2,), shard=0, offset=0, size=8, more=b""):
    dimensions = b"".join(bundles.field(2, bundles.field(1, n)) for n in shape)
    numbers = ((1, dtype), (3, shard), (4, offset), (5, size))
    return bundles.field(2, dimensions) + b"".join(bundles.field(*pair) for pair in numbers) + more


@pytest.mark.parametrize(
    "value, words",
    [
        (entry(dtype=20), "type 20"),
        (entry(size=4), "4 bytes for the shape"),
        (entry(shape=(2, 2)), "8 bytes for the shape"),
        (entry(shard=1), "for the shape"),
        (entry(offset=4), "does not fit"),
        (entry(offset=1 << 60), "does not fit"),
        (entry(shape=(1 << 62, 1 << 62), size=8), "for the shape"),
        (entry(more=bundles.field(7, b"\x0a\x00")), "in slices"),
        (b"\x0b", "field of the kind 3"),
    ],
)
def test_what_an_entry_can_not_be(tmp_path, value, words):
    files = {"model.index": bundles.table({b"": bundles.field(1, 1), b"x": value})}
    path = bundles.write(tmp_path, {**files, "model.data-00000-of-00001": bytes(8)})
    assert words in refused(path).message


def test_what_a_bundle_can_not_be(tmp_path):
    data = {"model.data-00000-of-00001": bytes(8)}
    big_endian = bundles.table({b"": bundles.field(1, 1) + bundles.field(2, 1), b"x": entry()})
    assert "big-endian" in refused(bundles.write(tmp_path, {"model.index": big_endian, **data})).message
    no_header = bundles.table({b"x": entry()})
    assert "no header" in refused(bundles.write(tmp_path, {"model.index": no_header, **data})).message
    compressed = bytearray(bundles.block([(b"", b"")]))
    compressed[-5] = 1
    struct.pack_into("<I", compressed, len(compressed) - 4, bundles.crc32c(bytes(compressed[:-4])))
    handle = bundles.varint(0) + bundles.varint(len(compressed) - 5)
    index = bundles.table({b"": bundles.field(1, 1)})
    broken = bytes(compressed) + bundles.block([(b"x", handle)])
    footer = bundles.varint(0) * 2 + bundles.varint(len(compressed))
    footer += bundles.varint(len(broken) - len(compressed) - 5)
    path = bundles.write(tmp_path, {"model.index": broken + footer.ljust(40, b"\0") + index[-8:], **data})
    assert "compressed" in refused(path).message


def test_a_missing_data_file_is_named(tmp_path):
    path = bundles.write(tmp_path, bundles.bundle(TENSORS, 2))
    (tmp_path / "model.data-00001-of-00002").unlink()
    assert "model.data-00001-of-00002 is missing" in refused(path).message
    files = bundles.bundle(TENSORS, 2)
    del files["model.data-00001-of-00002"]
    assert "1 of 2 data files" in refused(bundles.write_tar(tmp_path / "a.tar.gz", files)).message
