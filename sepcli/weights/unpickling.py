"""Read a pickle safely: a pickle is a program, and here it can call next to nothing.

It may call the constructors in the short table `_LISTED`, which were written for it. Classes of the packages
that the caller names become markers, which remember the class's name and nothing else. Any other name stops the
reading. Knows no file layout: `checkpoint.py` reads the file and gives the bytes of the tensors.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sepcli.errors import ModelError

CONVERT = "Use a .safetensors version of these weights, or a file of only tensors and plain settings."


class Inert(type):
    """A marker in the place of a foreign class or function that a pickle names.

    It is a class itself, because a pickle may make instances of it (NEWOBJ wants a type). Its instances are
    `InertObject`s: they keep what they were given and do nothing with it.
    """

    dotted: str  # "demucs.htdemucs.HTDemucs"

    def __new__(cls, dotted: str) -> Inert:
        return super().__new__(cls, dotted.rpartition(".")[2], (InertObject,), {"dotted": dotted})

    def __init__(cls, dotted: str) -> None:
        super().__init__(cls.__name__, cls.__bases__, {})

    def __repr__(cls) -> str:
        return f"<inert {cls.dotted}>"


class InertObject:
    """The arguments and state of an instance of a foreign class, without any of that class's code."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any
    items: list[Any]  # what was appended, and (key, value) of what was set by key

    def __new__(cls, *args: Any, **kwargs: Any) -> InertObject:
        self = object.__new__(cls)
        self.args, self.kwargs, self.state, self.items = args, kwargs, None, []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def __repr__(self) -> str:
        return f"<inert instance of {type(self).__name__}>"


# --- the constructors ---


class _Call:
    """A constructor that a pickle may call. It has no attributes that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"attempt to change '{name}' of a listed function")


class _StorageType(NamedTuple):  # a tuple: a pickle can't change it
    dtype: torch.dtype | None  # None: bytes; the tensor itself names their type


class _OrderedDict(OrderedDict):
    """An OrderedDict whose attributes are dropped: a state dict may carry the versions of its modules."""

    def __setstate__(self, state: Any) -> None:
        pass


def _fraction(value: Any, denominator: int = 1) -> Fraction:
    """A Fraction, but not of every text: the one of '1e999999999' would take hours."""
    if isinstance(value, str):
        numerator, _, below = value.partition("/")
        return Fraction(int(numerator), int(below or 1))
    return Fraction(int(value), int(denominator))


class _Dtype:
    """In the place of numpy.dtype, for plain numbers only."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and code[:1] in "biufc" and code[1:].isdigit()):
            raise ValueError(f"a number of numpy type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """A scalar of numpy, as a number of Python."""
    import numpy

    return numpy.frombuffer(data, dtype=numpy.dtype(dtype.order + dtype.code), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """The bytes of a text: pickles of protocol 2 write bytes this way."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor without its gradients and hooks. as_strided checks the bounds of the storage."""
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _tensor_of_type(
    storage: Tensor, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: torch.dtype, *_: Any
) -> Tensor:
    return _tensor(storage.view(dtype), offset, size, stride)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is no tensor")
    return data


def _list(values: Any, *_: Any) -> Any:
    """A list of TorchScript, which says what it holds; nothing reads them."""
    return values


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_LISTED: dict[str, Any] = {
    "collections.OrderedDict": _Call(_OrderedDict),
    "fractions.Fraction": _Call(_fraction),
    "_codecs.encode": _Call(_encode),
    "numpy.dtype": _Call(_Dtype),
    "numpy.core.multiarray.scalar": _Call(_scalar),
    "numpy._core.multiarray.scalar": _Call(_scalar),
    "torch.Size": _Call(tuple),
    "torch._utils._rebuild_tensor": _Call(_tensor),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_tensor_v3": _Call(_tensor_of_type),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "torch.storage.UntypedStorage": _StorageType(None),
}
for _module in ("builtins", "__builtin__"):
    # The last ones as values: in Lightning's files, settings name the types of their fields.
    _plain = (set, frozenset, complex, dict, list, tuple, str, int, float, bool)
    _LISTED |= {f"{_module}.{kind.__name__}": _Call(kind) for kind in _plain}
_LISTED |= {"__builtin__.long": _Call(int), "__builtin__.unicode": _Call(str)}  # protocol 2 calls them so
for _name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"):
    _LISTED[f"torch.jit._pickle.{_name}"] = _Call(_list)
for _name, _kind in _STORAGES.items():
    _LISTED[f"torch.{_name}"] = _LISTED[f"torch.storage.{_name}"] = _StorageType(_kind)
_MARKED = ("torch.torch_version.TorchVersion",)  # of no package of the caller's; in asteroid's files


# --- the reader ---


class Unpickler(pickle.Unpickler):
    """Reads one pickle, with the names of `_LISTED` and of the `foreign` packages only.

    file: the pickle. path: the checkpoint, for messages. foreign: packages whose classes become markers.
    storage(dtype, key, elements, view): gives the values of a tensor, [elements] or a part of them.
    """

    def __init__(
        self,
        file: Any,
        path: Path,
        foreign: Collection[str],
        storage: Callable[..., Tensor],
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._path, self._foreign, self._storage = path, foreign, storage
        self._inert: dict[str, Inert] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for `module.name`; ModelError if it is not on the list."""
        dotted = f"{module}.{name}"
        if dotted in _LISTED:
            return _LISTED[dotted]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.partition(".")[0] in self._foreign or dotted in _MARKED:
            return self._inert.setdefault(dotted, Inert(dotted))
        raise ModelError(
            f"The checkpoint '{self._path}' wants to use {dotted}, which is not on the list of what a"
            " checkpoint may contain; nothing of it was run.",
            remedy=CONVERT,
            code="checkpoint_unsafe",
        )

    def persistent_load(self, pid: Any) -> Tensor | Inert:
        """The values of a tensor, which the pickle names by type, key and size."""
        if pid[0] == "module" and isinstance(pid[1], Inert):  # the legacy layout adds a class's source text
            return pid[1]
        kind, storage_type, key, _location, elements, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ValueError(f"a persistent object of kind {kind!r}")
        dtype = storage_type.dtype or torch.uint8
        return self._storage(dtype, str(key), int(elements), view[0] if view else None)
