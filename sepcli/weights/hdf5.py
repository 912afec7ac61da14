"""Read the HDF5 file of NNabla's parameters as inert data: its datasets by name. Needs h5py (extra `nnabla`).

Knows no network. Groups are folders in a name: "fc1/affine/W". Attributes (the order of parameters, whether
they are trained) are not looked at. Nothing outside the file is opened: a dataset or group that lies elsewhere,
one that is made of others, and one that is packed by a filter beside HDF5's own are refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sepcli.errors import require

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of a file
_FILTERS = frozenset((1, 2, 3))  # built into HDF5: deflate, shuffle, fletcher32
_KINDS = "fiu"  # floating point and whole numbers, as numpy calls them
_DEEPEST = 20  # groups in groups


def read_hdf5(source: Path | io.BytesIO, take: Callable[[int], None]) -> dict[str, Tensor]:
    """{name: tensor} of all datasets. source: the file, or its content.

    take: called with the bytes of each dataset before it is read; it raises ValueError where they are too many.
    DeviceError names the extra where h5py is missing. A damaged file ends in a ValueError or what h5py raises.
    """
    require("h5py")
    import h5py

    with h5py.File(source, "r", locking=False) as file:
        return {name: _values(dataset, name, take) for name, dataset in _datasets(file, "")}


def _datasets(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """All datasets below a group, with their whole names."""
    import h5py

    if prefix.count("/") > _DEEPEST:
        raise ValueError("groups that are too deep")
    for key in group:
        name = prefix + key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} lies elsewhere")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{name}/")
        elif isinstance(item, h5py.Dataset):
            yield name, item
        else:
            raise ValueError(f"{name} is no dataset")


def _values(dataset: Any, name: str, take: Callable[[int], None]) -> Tensor:
    layout = dataset.id.get_create_plist()
    filters = {layout.get_filter(index)[0] for index in range(layout.get_nfilters())}
    if dataset.external or dataset.is_virtual or not filters <= _FILTERS:
        raise ValueError(f"{name} lies elsewhere, or is packed by a foreign filter")
    if dataset.dtype.kind not in _KINDS or dataset.shape is None:
        raise ValueError(f"{name} holds no numbers")
    take(dataset.size * dataset.dtype.itemsize + 1)  # an empty one costs something too
    values = numpy.empty(dataset.shape, dataset.dtype.newbyteorder("="))
    if values.size:
        dataset.read_direct(values)
    return torch.from_numpy(values)
