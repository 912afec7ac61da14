"""Write a model as other programs read it: tensors under the names of published files, settings beside them.

Knows files, no family: each family says how (`Family.export`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError, Notice, UsageError, from_os, parameter
from sepcli.loading import load_model
from sepcli.models.family import Family, all_families
from sepcli.system.files import atomic_write


def export_model(
    spec: str, path: Path, *, force: bool = False, notice: Notice = lambda text: None
) -> Sequence[Path]:
    """Write the model as `path`, a checkpoint of torch.save, and its settings with another suffix.

    spec: a model as `separate` takes it, such as the folder of a run. force: files that are there are replaced.
    Returns the files. UsageError: a file is there, or the suffix is none of a checkpoint. ModelError: other
    programs have no such network. OutputError: the disk refuses.
    """
    if path.suffix not in (".ckpt", ".pt", ".pth", ".th"):
        raise UsageError(
            f"'{path.name}' has no suffix of a checkpoint.",
            remedy=f"Give {parameter('out')} a name that ends in .ckpt.",
        )
    model = load_model(spec, notice=notice).network
    family = next((each for each in all_families() if _makes(each, model)), None)
    if family is None or family.export is None:
        raise ModelError(
            f"sepcli does not know how other programs store a {type(model).__name__}.",
            remedy="Its own file can be shared: `sepcli models push`.",
            code="no_such_format",
        )
    exported = family.export(model)
    files = [path, *(path.with_suffix(suffix) for suffix in exported.texts)]
    there = [file for file in files if file.exists()]
    if there and not force:
        raise UsageError(
            f"'{there[0]}' is there already.",
            remedy=f"Choose another name, or replace it with {parameter('force')}.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save({key: tensor.contiguous() for key, tensor in exported.tensors.items()}, temporary)
        for suffix, text in exported.texts.items():
            with atomic_write(path.with_suffix(suffix)) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise from_os(error, path) from error
    return files


def _makes(family: Family, model: Separator) -> bool:
    return any(type(model) is arch.build for arch in family.archs.values())
