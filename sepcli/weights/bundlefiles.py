"""Find the files of a TensorFlow checkpoint, beside its index or in an archive, and read them (`bundle.py`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sepcli.errors import ModelError
from sepcli.weights.archive import members
from sepcli.weights.bundle import read_bundle, shard_count, shard_name
from sepcli.weights.memory import mapped
from sepcli.weights.modelspec import INDEX

_PART = re.compile(r"(?P<stem>.+?)(\.index|\.data-(?P<shard>\d{5})-of-\d{5})")


def bundle_files(path: Path) -> list[Path]:
    """All files of the checkpoint whose index is `path`; those that are missing too."""
    shards = shard_count(path.read_bytes())
    stem = path.name.removesuffix(INDEX)
    return [path, *(path.with_name(shard_name(stem, shard, shards)) for shard in range(shards))]


def read_index(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of the checkpoint whose index is `path`; its data files must lie beside it."""
    index, *shards = bundle_files(path)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"The checkpoint '{path}' is not complete: {missing[0]} is missing beside it.",
            remedy="Put all files of the checkpoint into one folder.",
            code="checkpoint_damaged",
        )
    return read_bundle(index.read_bytes(), {number: mapped(shard) for number, shard in enumerate(shards)})


def read_archive(path: Path, member: str | None = None) -> dict[str, Tensor]:
    """{name: tensor} of a checkpoint in an archive, all in memory.

    member: the path of its index in the archive; None: there is only one. ModelError where it isn't so.
    """
    indices: dict[str, bytes] = {}
    shards: dict[str, dict[int, Any]] = {}
    with members(path) as found:
        for name, read in found:
            part = _PART.fullmatch(name)
            if part is None or (member is not None and part["stem"] + INDEX != member):
                continue
            if part["shard"] is None:
                indices[name] = bytes(read())
            else:
                shards.setdefault(part["stem"], {})[int(part["shard"])] = read()
    if not indices:
        what = "no checkpoint of TensorFlow" if member is None else f"no {member}"
        raise ModelError(
            f"The archive '{path}' holds {what}.",
            remedy="Unpack it and name the checkpoint in it, or check that it is the file you meant.",
            code="not_a_checkpoint",
        )
    if len(indices) > 1:
        raise ModelError(
            f"The archive '{path}' holds several checkpoints: {', '.join(sorted(indices))}.",
            remedy="Unpack it, and name the .index file of one of them.",
            code="ambiguous",
        )
    ((name, index),) = indices.items()
    return read_bundle(index, shards.get(name.removesuffix(INDEX), {}))
