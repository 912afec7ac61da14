"""What a checkpoint file can and can't do: tensors and plain data come out, code never runs."""

from __future__ import annotations

import collections
import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sepcli.errors import ModelError
from sepcli.weights import checkpoint as reading
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.unpickling import Inert, InertObject


def read_checkpoint(path: Path) -> Checkpoint:
    return reading.read_checkpoint(path, foreign={"demucs", "diffq"})


class Payload:
    """Pickles as a call of `function`: what a hostile file does."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def foreign(dotted: str) -> bytes:
    """A protocol 0 reference to a class that need not exist here."""
    module, _, name = dotted.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def zip_of(path: Path, data_pkl: bytes, **entries: bytes) -> Path:
    """A file laid out as torch.save does, around a handmade pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for name, data in entries.items():
            archive.writestr(f"archive/data/{name.removeprefix('key')}", data)
    return path


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy.endswith(".")
    return caught.value


# --- what comes out ---

PLAIN = {
    "fraction": Fraction(39, 5),
    "ordered": collections.OrderedDict(a=1, b=2.5),
    "bytes": b"\x00\xff",
    "double": numpy.float64(1.25),
    "float": numpy.float32(0.5),
    "int": numpy.int64(-7),
    "set": {1, 2},
    "nested": [(), None, True, "x", {"y": (1, 2)}],
    "size": torch.Size([2, 3]),
    "dtype": torch.float16,
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8]
DTYPES += [torch.bool, torch.complex64, torch.int16, torch.int32, torch.uint16]


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    out = {str(dtype): (torch.arange(6) % 2).to(dtype).view(2, 3) for dtype in DTYPES}
    return out | {
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "shared": base,
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }


def hide(path: Path, layout: str) -> Path:
    """The file at `path`, "behind gzip" or "inside" another one."""
    data = path.read_bytes()
    if "gzip" in layout:
        path.write_bytes(gzip.compress(data))
    elif "inside" in layout:
        torch.save({"compressed": zlib.compress(data)}, path)
    return path


@pytest.mark.parametrize("layout", ["zip", "legacy", "zip behind gzip", "legacy behind gzip", "zip inside"])
def test_reads_what_torch_saved(tmp_path, layout):
    saved = {"plain": PLAIN, "tensors": tensors()}
    torch.save(saved, tmp_path / "a.th", _use_new_zipfile_serialization="zip" in layout.split())
    hide(tmp_path / "a.th", layout)
    checkpoint = read_checkpoint(tmp_path / "a.th")
    assert checkpoint.format == "torch" and checkpoint.metadata == {}
    assert {**checkpoint.payload["plain"], "ordered": PLAIN["ordered"]} == {
        **PLAIN,
        "ordered": checkpoint.payload["plain"]["ordered"],
    }
    assert type(checkpoint.payload["plain"]["double"]) is float
    read = checkpoint.payload["tensors"]
    assert list(read) == list(saved["tensors"])
    for name, tensor in saved["tensors"].items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor.detach()), name
        assert not read[name].requires_grad


def test_reads_state_dict_of_a_module(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other.load_state_dict(read_checkpoint(tmp_path / "a.pt").payload)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_writing_to_a_tensor_does_not_change_the_file(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    read_checkpoint(tmp_path / "a.pt").payload["a"].zero_()
    assert (tmp_path / "a.pt").read_bytes() == before


def test_reads_compressed_and_misaligned_archives(tmp_path):
    """Other tools rewrite the zip: deflated, or without the padding that aligns tensors."""
    torch.save({"a": torch.arange(100.0), "b": torch.arange(7)}, tmp_path / "a.pt")
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with (
            zipfile.ZipFile(tmp_path / "a.pt") as source,
            zipfile.ZipFile(tmp_path / "b.pt", "w", method) as to,
        ):
            for info in source.infolist():
                to.writestr(info.filename, source.read(info.filename))
        payload = read_checkpoint(tmp_path / "b.pt").payload
        assert torch.equal(payload["a"], torch.arange(100.0)) and torch.equal(payload["b"], torch.arange(7))


def test_a_safetensors_header_of_any_length_is_no_pickle(tmp_path):
    """Its length comes first: one in 32 begins with the byte that a pickle begins with."""
    path = tmp_path / "model.safetensors"
    begins = set()
    for length in range(0, 264, 8):
        save_file({"x": torch.ones(2)}, path, metadata={"text": "a" * length})
        begins.add(path.read_bytes()[0])
        assert torch.equal(read_checkpoint(path).payload["x"], torch.ones(2))
    assert 0x80 in begins


def test_reads_safetensors_with_metadata(tmp_path):
    save_file({"w": torch.arange(4, dtype=torch.float16)}, tmp_path / "a.bin", metadata={"klass": "a.B"})
    checkpoint = read_checkpoint(tmp_path / "a.bin")  # by content: the suffix says nothing
    assert checkpoint.format == "safetensors" and checkpoint.metadata == {"klass": "a.B"}
    assert torch.equal(checkpoint.payload["w"], torch.arange(4, dtype=torch.float16))


def test_foreign_classes_become_markers(tmp_path):
    path = zip_of(
        tmp_path / "a.th", b"\x80\x02}(X\x05\x00\x00\x00klass" + foreign("demucs.nowhere.Net") + b"u."
    )
    klass = read_checkpoint(path).payload["klass"]
    assert isinstance(klass, Inert) and klass.dotted == "demucs.nowhere.Net"


def test_foreign_instances_keep_only_what_they_were_given(tmp_path):
    made = foreign("demucs.x.Y") + b"(K\x01K\x02tR}X\x01\x00\x00\x00aK\x03sb."  # REDUCE, then BUILD
    new = foreign("diffq.x.Y") + b"(K\x01K\x02t\x81}X\x01\x00\x00\x00aK\x03sb."  # NEWOBJ, then BUILD
    for data in (made, new):
        value = read_checkpoint(zip_of(tmp_path / "a.th", b"\x80\x02" + data)).payload
        assert isinstance(value, InertObject) and value.args == (1, 2) and value.state == {"a": 3}


def test_foreign_roots_are_the_callers_choice(tmp_path):
    path = zip_of(tmp_path / "a.th", b"\x80\x02" + foreign("demucs.x.Y") + b".")
    with pytest.raises(ModelError, match="demucs.x.Y"):
        reading.read_checkpoint(path)


# --- what is refused ---

HOSTILE = {
    "os.system": Payload(os.system, "touch MARK"),
    "builtins.eval": Payload(eval, "open('MARK', 'w')"),
    "builtins.exec": Payload(exec, "open('MARK', 'w')"),
    "builtins.getattr": Payload(getattr, "", "join"),
    "builtins.open": Payload(open, "MARK", "w"),
    "builtins.__import__": Payload(__import__, "antigravity"),
    "torch.hub.load": Payload(torch.hub.load, "a/b", "c"),
    "torch.load": Payload(torch.load, "MARK"),
    "subprocess.Popen": None,
    "importlib.import_module": None,
    "pickle.loads": Payload(pickle.loads, b"cos\nsystem\n(S'touch MARK'\ntR."),
    "numpy.load": None,
    "torch._utils._rebuild_sparse_tensor": None,
    "operator.attrgetter": None,
    "functools.partial": None,
    "sepcli.weights.checkpoint.read_checkpoint": None,
    "demucsx.evil.Class": None,
    "torch.nn.modules.linear.Linear": None,
}


@pytest.mark.parametrize(
    "name, legacy",
    [(name, False) for name in HOSTILE] + [(name, True) for name in HOSTILE if HOSTILE[name] is not None],
)
def test_refuses_hostile_pickles(tmp_path, monkeypatch, name, legacy):
    monkeypatch.chdir(tmp_path)
    payload = HOSTILE[name]
    if legacy:
        torch.save({"state": payload}, tmp_path / "a.th", _use_new_zipfile_serialization=False)
    else:
        data = foreign(name) + b"(tR." if payload is None else pickle.dumps({"state": payload}, 2)
        zip_of(tmp_path / "a.th", data)
    error = refused(tmp_path / "a.th")
    assert error.code == "checkpoint_unsafe"
    assert name.rpartition(".")[2] in error.message
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_dotted_name_is_no_way_around(tmp_path, protocol):
    """Protocol 4 allows 'a.b.c' as a name: attributes of something listed are not listed."""
    for module, name in [("collections", "OrderedDict.fromkeys"), ("torch", "serialization.os.system")]:
        data = b"\x80" + bytes([protocol]) + pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode()
        data += pickle.SHORT_BINUNICODE + bytes([len(name)]) + name.encode() + pickle.STACK_GLOBAL + b")R."
        assert name in refused(zip_of(tmp_path / "a.th", data)).message


@pytest.mark.parametrize(
    "listed",
    ["collections.OrderedDict", "fractions.Fraction", "torch._utils._rebuild_tensor_v2", "demucs.a.B"],
)
@pytest.mark.parametrize("name", ["_function", "__call__", "__code__", "__defaults__", "__setstate__"])
def test_a_listed_name_can_not_be_changed(tmp_path, listed, name):
    """BUILD sets attributes on whatever is on the stack, also on a function or class it named."""
    text = b"X" + struct.pack("<I", len(name)) + name.encode()
    for state in (b"}" + text + b"K\x01s", b"(N}" + text + b"K\x01st"):
        refused(zip_of(tmp_path / "a.th", b"\x80\x02" + foreign(listed) + state + b"b."))
    torch.save({"a": torch.ones(2), "b": Fraction(1, 2), "c": collections.OrderedDict(d=1)}, tmp_path / "b.th")
    assert read_checkpoint(tmp_path / "b.th").payload["b"] == Fraction(1, 2)


def test_storage_types_can_not_be_changed(tmp_path):
    refused(zip_of(tmp_path / "a.th", b"\x80\x02ctorch\nFloatStorage\n(Nltb."))
    refused(zip_of(tmp_path / "a.th", b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb."))
    torch.save({"a": torch.ones(2)}, tmp_path / "b.th")
    assert read_checkpoint(tmp_path / "b.th").payload["a"].dtype is torch.float32


def tensor_pickle(elements: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", elements) if value == "STORAGE" else None

    target = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    call = Payload(rebuild, "STORAGE", offset, size, stride, False, collections.OrderedDict())
    Pickler(target, 2).dump(call)
    return target.getvalue()


@pytest.mark.parametrize(
    "elements, offset, size, stride",
    [
        (5, 0, (4,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 3), (3, 1)),
        (4, 0, (2,), (1 << 40,)),
        (-1, 0, (1,), (1,)),
        (4, -1, (1,), (1,)),
        (1 << 60, 0, (1,), (1,)),
        (4, 3, (2,), (-1,)),
    ],
)
def test_refuses_tensors_outside_their_storage(tmp_path, elements, offset, size, stride):
    data = tensor_pickle(elements, offset, size, stride)
    error = refused(zip_of(tmp_path / "a.th", data, key0=bytes(16)))
    assert error.code == "checkpoint_damaged"


def test_the_handmade_tensor_would_be_read(tmp_path):
    data = tensor_pickle(4, 1, (3,), (1,))
    path = zip_of(tmp_path / "a.th", data, key0=struct.pack("<4f", 1, 2, 3, 4))
    assert read_checkpoint(path).payload.tolist() == [2, 3, 4]


class Inner(torch.nn.Module):
    """With all kinds of attributes that TorchScript keeps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.arange(3.0))
        self.sizes, self.words, self.shares = [1, 2], ["a"], {"a": 0.5}
        self.several = [torch.ones(2)]

    def forward(self, x):
        return x * self.kernel.sum() * self.sizes[0] * self.shares[self.words[0]] * self.several[0].sum()


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        norm = torch.nn.BatchNorm1d(1)
        self.layers = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3), norm)])
        self.lstm = torch.nn.LSTM(2, 2, 2, bidirectional=True)
        self.inner = Inner()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.inner(self.lstm(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_read_for_its_tensors(tmp_path):
    """Its program is not looked at: what is written in its place changes nothing."""
    network = Outer().eval()
    torch.jit.script(network).save(str(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.startswith("a/code/") for name in parts)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name, data in parts.items():
            kept = name.startswith(("a/data", "a/byteorder"))
            archive.writestr(name, data if kept else b"import os; os.abort()")
    state = network.state_dict()
    for name in ("a.pt", "b.pt"):
        read = read_checkpoint(tmp_path / name).payload
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("data", [b"}.", b"c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."])
def test_torchscript_without_an_end_or_a_network(tmp_path, data):
    """A dict; and a module that is its own child."""
    path = zip_of(tmp_path / "a.pt", b"\x80\x02" + data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "")
    assert refused(path).code == "checkpoint_damaged"


def test_refuses_whole_modules(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "a.pt").message


def test_no_expensive_numbers(tmp_path):
    data = b"\x80\x02" + foreign("fractions.Fraction") + b"X\x0b\x00\x00\x001e999999999\x85R."
    refused(zip_of(tmp_path / "a.th", data))


# --- what is damaged ---


def samples(folder: Path) -> dict[str, bytes]:
    torch.save({"a": torch.ones(50), "b": [1, "x"]}, folder / "zip.th")
    torch.save({"a": torch.ones(50)}, folder / "legacy.th", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(50)}, folder / "safe.th")
    return {file.stem: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("kind", [pytest.param("zip", marks=pytest.mark.slow), "legacy", "safe"])
def test_truncated_at_every_length(tmp_path, kind):
    data = samples(tmp_path)[kind]
    path = tmp_path / "cut.th"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        error = refused(path)
        assert error.code in ("checkpoint_damaged", "not_a_checkpoint"), length


@pytest.mark.parametrize("kind", ["zip", "legacy", "safe"])
def test_flipped_bytes_give_a_value_or_a_model_error(tmp_path, kind):
    data = bytearray(samples(tmp_path)[kind])
    path = tmp_path / "flipped.th"
    generator = torch.Generator().manual_seed(0)
    refusals = 0
    for _ in range(400):
        at = int(torch.randint(len(data), (), generator=generator))
        changed = data.copy()
        changed[at] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except ModelError:
            refusals += 1
    assert refusals > 10


@settings(max_examples=200)
@given(data=st.binary(max_size=600), start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_garbage_is_a_model_error(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "garbage.th"
    path.write_bytes(start + data)
    refused(path)


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_garbage_pickles_give_a_value_or_a_model_error(tmp_path_factory, data):
    path = zip_of(tmp_path_factory.getbasetemp() / "garbage_pickle.th", b"\x80\x02" + data)
    try:
        read_checkpoint(path)
    except ModelError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"RIFF....WAVE", "unknown format"),
    ],
)
def test_names_what_the_file_is_instead(tmp_path, data, word):
    (tmp_path / "a.th").write_bytes(data)
    error = refused(tmp_path / "a.th")
    assert word in error.message and "again" in error.remedy


def test_missing_file_and_folder(tmp_path):
    assert refused(tmp_path / "nothing.th").code == "missing"
    assert refused(tmp_path).code == "unreadable"


def test_legacy_sources_of_classes_are_ignored(tmp_path):
    """Before 1.6 the source text of a module's class stood beside it; it is dropped unread."""
    target = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, target, 2)
    for klass, allowed in ((foreign("demucs.a.B"), True), (foreign("collections.OrderedDict"), False)):
        content = target.getvalue() + b"\x80\x02}X\x05\x00\x00\x00klass(X\x06\x00\x00\x00module"
        content += klass + b"X\x04\x00\x00\x00a.pyX\x09\x00\x00\x00import ostQs." + pickle.dumps([], 2)
        (tmp_path / "a.th").write_bytes(content)
        if allowed:
            assert read_checkpoint(tmp_path / "a.th").payload["klass"].dotted == "demucs.a.B"
        else:
            refused(tmp_path / "a.th")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_numpy_scalars_of_both_generations(tmp_path, module, order):
    """As numpy 1 and 2 write them, whichever is installed."""
    state = f"(K\x03X\x01\x00\x00\x00{order}NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb".encode("latin1")
    data = (
        b"\x80\x02" + foreign(f"{module}.scalar") + b"(cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR" + state
    )
    data += b"c_codecs\nencode\n(X"
    text = struct.pack(f"{order}d", 1.25).decode("latin1").encode()
    data += struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1tRtR."
    value = read_checkpoint(zip_of(tmp_path / "a.th", data)).payload
    assert type(value) is float and value == 1.25


# --- what would take memory or stack out of proportion ---

PROTO = b"\x80\x02"


def legacy_of(path: Path, body: bytes, keys: bytes = PROTO + b"].", after: bytes = b"") -> Path:
    """A file laid out as torch.save did before 1.6, around a handmade pickle."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*head, body, keys, after]))
    return path


def deep_tuples() -> bytes:
    """A key of tuples in tuples: its hash would be computed by recursion in C."""
    return PROTO + b"}" + b")" + b"\x85" * 1_000_000 + b"Ns."


def in_turns() -> bytes:
    """The same through the memo, so that no two of these stand together."""
    return PROTO + b"})" + b"q\x000h\x00\x85" * 300_000 + b"Ns."


def huge_memo() -> bytes:
    return PROTO + b"}r\xff\xff\xff\x7f."


def itself() -> bytes:
    return PROTO + b"]q\x00h\x00a."


def deep_lists() -> bytes:
    return PROTO + b"]" * 50_000 + b"a" * 49_999 + b"."


@pytest.mark.parametrize("pickled", [deep_tuples, in_turns, huge_memo, itself, deep_lists])
@pytest.mark.parametrize("layout", [zip_of, legacy_of])
def test_refuses_a_pickle_that_costs_more_than_its_size(tmp_path, pickled, layout):
    assert refused(layout(tmp_path / "x.th", pickled())).code == "checkpoint_damaged"


def test_lists_that_share_their_parts_cost_what_their_parts_cost(tmp_path):
    """Doubled 100 times: a list of 2 ** 100 if each was looked at by itself."""
    body = PROTO + b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (k + 1, k, k) for k in range(100)) + b"."
    found = read_checkpoint(zip_of(tmp_path / "x.th", body)).shapes_only().payload
    assert len(found) == 2 and found[0] is found[1]


def test_refuses_a_tensor_that_repeats_its_storage_without_end(tmp_path):
    path = tmp_path / "x.th"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    assert "do not fit in the file" in refused(path).message
    torch.save({"a": torch.zeros(8).expand(2, 8)}, path)
    assert read_checkpoint(path).payload["a"].shape == (2, 8)


def test_refuses_storages_that_expand_without_end(tmp_path):
    path = tmp_path / "x.th"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    packed = tmp_path / "packed.th"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    assert packed.stat().st_size * 100 < 4 << 20
    assert "do not fit in the file" in refused(packed).message


@pytest.mark.parametrize("layout", ["zip behind gzip", "legacy behind gzip", "zip inside"])
def test_refuses_what_is_damaged_or_hostile_inside(tmp_path, layout):
    path = tmp_path / "x.th"
    for value, word in (({"a": torch.ones(999)}, "damaged"), (Payload(print, "hello"), "print")):
        torch.save(value, path, _use_new_zipfile_serialization="zip" in layout.split())
        data = hide(path, layout).read_bytes()
        if word != "damaged":
            assert word in refused(path).message
            continue
        for end in (20, len(data) // 2, len(data) - 9):
            path.write_bytes(data[:end])
            assert word in refused(path).message or end == 20
    torch.save({"a": torch.zeros(1 << 20)}, path, _use_new_zipfile_serialization="zip" in layout.split())
    assert hide(path, layout).stat().st_size * 100 < 4 << 20
    assert refused(path).code == "checkpoint_damaged"
    torch.save({"compressed": "text"}, path)
    assert refused(path).code == "checkpoint_damaged"


def test_refuses_storages_that_are_announced_again_and_again(tmp_path):
    """Each is no larger than the file, but all together are."""
    reference = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x03\x00\x00\x00%03dX\x03\x00\x00\x00cpuJ"
    one = reference + struct.pack("<i", 1000) + b"NtQ"
    body = PROTO + b"](" + b"".join(one % k for k in range(200)) + b"e."
    assert "do not fit in the file" in refused(legacy_of(tmp_path / "x.th", body)).message
