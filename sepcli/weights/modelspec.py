"""What the user means by a model's name, told without opening a file; loads no torch.

htdemucs                         a name in the catalogue
my/run  my/model.safetensors     a run folder, or a checkpoint that says what it is
htdemucs=my/weights.th           a local file with a catalogue entry's family and config
spleeter:2stems=my/2stems        the same with a folder that holds one checkpoint of TensorFlow
hf://owner/repo[@revision]/file  a checkpoint on the hub that says what it is, or with a YAML beside it
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sepcli.errors import ModelError, UsageError
from sepcli.weights.entries import Catalog, Entry

HUB_SCHEME = "hf://"
RUN_FILE = "model.safetensors"  # what a run folder holds
INDEX = ".index"  # the suffix of a TensorFlow checkpoint's first file
_SUFFIXES = frozenset(
    {".safetensors", ".th", ".pt", ".pth", ".ckpt", ".onnx", INDEX, ".gz", ".tgz", ".tar", ".zip"}
)
_COMMON = (RUN_FILE, f"model{INDEX}")  # names of files that say less than their folder's


@dataclass(frozen=True)
class HubFile:
    """A file on the hub. repo: owner/name. revision: a branch, a tag or a commit; None for the newest."""

    repo: str
    revision: str | None
    path: str


@dataclass(frozen=True)
class ModelSpec:
    """A model as it was asked for.

    Either a catalogue's entry, or an entry with a local file in the place of its own, or a file, or a hub file.
    """

    text: str  # as it was given
    entry: Entry | None = None
    file: Path | None = None
    hub: HubFile | None = None

    @property
    def name(self) -> str:
        """A name for people and for {model} in paths: the entry's, the file's or folder's, the repository's."""
        if self.entry is not None:
            return self.entry.name
        if self.hub is not None:
            return self.hub.repo.rpartition("/")[2]
        assert self.file is not None
        if self.file.name not in _COMMON:
            return self.file.stem.removesuffix(".tar")
        return self.file.parent.resolve().name


def read_model(text: str, catalog: Catalog) -> ModelSpec:
    """What `text` names. ModelError if there is no such entry or file, UsageError for a bad hub address."""
    here = Path(text).is_file()  # a file of the user's goes before an alias, which may be its name
    if text in catalog and (catalog[text].name == text or not here):
        return ModelSpec(text, catalog[text])
    if text.startswith(HUB_SCHEME):
        return ModelSpec(text, hub=hub_file(text))
    name, equals, file = text.partition("=")
    if equals and name in catalog:
        path = _file_in(Path(os.path.expanduser(file)))
        if not path.is_file():
            raise ModelError(f"There is no file '{path}'.", remedy="Correct the path after '='.")
        return ModelSpec(text, catalog[name], path)
    path = _file_in(Path(os.path.expanduser(text)))
    if path.exists():
        return ModelSpec(text, file=path)
    if "/" in name or os.sep in name or (not equals and path.suffix.lower() in _SUFFIXES):
        raise ModelError(
            f"There is no model file or run folder '{text}'.",
            code="unknown_model",
            remedy="Correct the path, or choose a model of `sepcli models list`.",
        )
    return ModelSpec(text, catalog.find(name))  # raises, with the near names


def _file_in(path: Path) -> Path:
    """The checkpoint's file in a folder; any other path as it is. ModelError where there is not one."""
    if not path.is_dir():
        return path
    if (path / RUN_FILE).is_file():
        return path / RUN_FILE
    found = sorted(file for file in path.glob(f"*{INDEX}") if not file.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise ModelError(
            f"The folder '{path}' holds several checkpoints: {names}."
            if found
            else f"The folder '{path}' is no run: it has no {RUN_FILE}, and no *{INDEX} of TensorFlow either.",
            remedy="Name a run folder, a checkpoint file or a model of `sepcli models list`.",
        )
    return found[0]


def hub_file(text: str) -> HubFile:
    """hf://owner/repo[@revision]/path/to/file"""
    parts = text.removeprefix(HUB_SCHEME).split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise UsageError(
            f"'{text}' does not name a file on the hub.",
            remedy="Write hf://owner/repo/file or hf://owner/repo@revision/file.",
        )
    owner, repo, path = parts
    repo, _, revision = repo.partition("@")
    return HubFile(f"{owner}/{repo}", revision or None, path)
