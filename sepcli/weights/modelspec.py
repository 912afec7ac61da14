"""What the user means by a model's name, told without opening a file; loads no torch.

htdemucs                         a name in the catalogue
my/run  my/model.safetensors     a run folder, or a checkpoint that says what it is
htdemucs=my/weights.th           a local file with a catalogue entry's family and config
spleeter:2stems=my/2stems        the same with a folder that holds one checkpoint of TensorFlow
hf://owner/repo[@revision]/file  a checkpoint on the hub that says what it is, or with a YAML beside it
a+b  a:2+b                       several of these side by side, with weights; a file or model of that very name
                                 goes first

And then, as "STEM: MODEL", models of any of these kinds, each of which takes a stem of those before it apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sepcli.errors import ModelError, UsageError, parameter
from sepcli.stems import BLENDS, WEIGHTED
from sepcli.weights.composite import one_after_another, side_by_side
from sepcli.weights.entries import Catalog, Entry, Step

HUB_SCHEME = "hf://"
RUN_FILE = "model.safetensors"  # what a run folder holds
INDEX = ".index"  # the suffix of a TensorFlow checkpoint's first file
_SUFFIXES = frozenset(
    {".safetensors", ".th", ".pt", ".pth", ".ckpt", ".onnx", INDEX, ".gz", ".tgz", ".tar", ".zip"}
)
STEP = '"STEM: MODEL"'  # how a step is written
_WEIGHT = re.compile(r"(.+):(\d+(?:\.\d+)?|\.\d+)")
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

    Either a catalogue's entry, or an entry with a local file in the place of its own, or a file, or a hub
    file; or several of these side by side or one after another. If the catalogue has all of several models,
    they are an entry as well.
    """

    text: str  # as it was given
    entry: Entry | None = None
    file: Path | None = None
    hub: HubFile | None = None
    parts: tuple[tuple[ModelSpec, float], ...] = ()  # models side by side, each with its weight
    blend: str = ""  # how the stems of those become one: one of stems.BLENDS
    steps: tuple[tuple[str, ModelSpec], ...] = ()  # models one after another, each with the stem it takes

    @property
    def is_remote(self) -> bool:
        """Whether only a download tells which stems it has: a file on the hub."""
        several = [*(part for part, _ in self.parts), *(step for _, step in self.steps)]
        return self.hub is not None or (self.entry is None and any(each.is_remote for each in several))

    @property
    def name(self) -> str:
        """A name for people and for {model} in paths: the entry's, the file's or folder's, the repository's."""
        if self.parts:
            return "+".join(part.name for part, _ in self.parts)
        if self.steps:
            return "-then-".join(step.name for _, step in self.steps)
        if self.entry is not None:
            return self.entry.name
        if self.hub is not None:
            return self.hub.repo.rpartition("/")[2]
        assert self.file is not None
        if self.file.name not in _COMMON:
            return self.file.stem.removesuffix(".tar")
        return self.file.parent.resolve().name


def read_model(text: str, catalog: Catalog, *, blend: str = "", then: Sequence[str] = ()) -> ModelSpec:
    """What `text` names. blend: how the stems of several models become one, if the user has said it.

    then: models that come after it, "STEM: MODEL" each.
    ModelError if there is no such entry or file, UsageError for a bad hub address, and for models that can't be
    side by side or one after another like that.
    """
    first = _first(text, catalog, blend)
    return _chain(first, then, catalog) if then else first


def _first(text: str, catalog: Catalog, blend: str) -> ModelSpec:
    """`read_model` for what the mix is given to."""
    if blend and blend not in BLENDS:
        raise UsageError(
            f"{parameter('blend')} is '{blend}', but must be one of {', '.join(BLENDS)}.",
            remedy="Leave it out, or choose one of these.",
        )
    pieces = _pieces(text, catalog)
    if len(pieces) > 1:
        return _several(text, pieces, catalog, blend or BLENDS[0])
    found = _one(text, catalog)
    if not blend:
        return found
    if found.entry is None or not found.entry.parts:
        raise UsageError(
            f"{parameter('blend')} is for several models, but '{text}' is one.",
            remedy=f"Name several with {parameter('model', 'A+B')}, or leave {parameter('blend')} out.",
        )
    entry = found.entry
    weights = [dict(zip(entry.sources, part.weights, strict=True)) for part in entry.parts]
    given = [{stem: row[stem] for stem in row if row[stem]} for row in weights]
    models = [(part.entry, row) for part, row in zip(entry.parts, given, strict=True)]
    try:
        changed = side_by_side(entry.name, models, blend)
    except ValueError as error:
        raise UsageError(
            f"'{text}' can't be blended by {blend}: {error}.", remedy=f"Leave {parameter('blend')} out."
        ) from error
    return replace(found, entry=replace(entry, parts=changed.parts, blend=blend), blend=blend)


def _one(text: str, catalog: Catalog) -> ModelSpec:
    """`read_model` for a text that names one model."""
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


# --- several models ---


def _several(text: str, pieces: list[tuple[str, float]], catalog: Catalog, blend: str) -> ModelSpec:
    parts = tuple((_one(piece, catalog), weight) for piece, weight in pieces)
    if blend not in WEIGHTED and any(weight != 1 for _, weight in parts):
        raise UsageError(
            f"Weights have no meaning with {parameter('blend', blend)}: '{text}' gives some.",
            remedy=f"Leave them out, or choose {' or '.join(WEIGHTED)}.",
        )
    for part, weight in parts:
        if weight <= 0:
            raise UsageError(
                f"'{part.text}' has the weight {weight:g} in '{text}', but a weight is above 0.",
                remedy="Leave the model out, or correct its weight.",
            )
    texts = [part.text for part, _ in parts]
    twice = next((each for each in texts if texts.count(each) > 1), None)
    if twice is not None:
        raise UsageError(
            f"'{text}' names '{twice}' twice.", remedy="Name each model once; A:2+B counts A twice."
        )
    spec = ModelSpec(text, parts=parts, blend=blend)
    entries = [part.entry for part, _ in parts if part.entry is not None and part.file is None]
    if len(entries) < len(parts):
        return spec
    models = [(entry, {"": weight}) for entry, (_, weight) in zip(entries, parts, strict=True)]
    try:
        return replace(spec, entry=side_by_side(spec.name, models, blend))
    except ValueError as error:
        raise cannot_be(spec, error) from error


def _chain(first: ModelSpec, then: Sequence[str], catalog: Catalog) -> ModelSpec:
    """That model, and those after it."""
    steps = [("", first)]
    for text in then:
        stem, colon, model = (part.strip() for part in text.partition(":"))
        if not (stem and colon and model):
            raise UsageError(
                f"'{text}' does not say which model takes which stem apart.",
                remedy=f'Write it as {parameter("then", "STEM: MODEL")}, as in "vocals: karaoke-becruily".',
                code="step",
            )
        steps.append((stem, _first(model, catalog, "")))
    spec = ModelSpec(" then ".join([first.text, *then]), steps=tuple(steps))
    entries = [Step(step.entry, of) for of, step in steps if step.entry is not None]
    if len(entries) < len(steps):  # only the file tells its stems
        return spec
    try:
        entry = one_after_another(spec.name, entries)
    except ValueError as error:
        raise cannot_be(spec, error) from error
    own = all(step.file is None for _, step in steps)
    return replace(spec, entry=entry) if own else spec


def cannot_be(spec: ModelSpec, error: ValueError) -> UsageError:
    """The error of several models that can't be together. error: why, as the end of a sentence."""
    if not spec.steps:
        return UsageError(f"'{spec.text}' can't be: {error}.", remedy="Correct it, or name one model.")
    return UsageError(
        f"'{spec.text}' can't be: {error}.",
        remedy=f"Correct the stem in {parameter('then', STEP)}, or leave that step out.",
        code="step",
    )


def _pieces(text: str, catalog: Catalog) -> list[tuple[str, float]]:
    """The models that `text` names, with their weights. A "+" may be part of a name: the longest wins."""
    tokens = text.split("+")
    if len(tokens) == 1 or _is_known(text, catalog):
        return [(text, 1.0)]
    pieces, at = [], 0
    while at < len(tokens):
        ends = range(len(tokens), at, -1)
        if tokens[at].startswith(
            HUB_SCHEME
        ):  # any address may exist: up to the first file name of a checkpoint
            ends = range(at + 1, len(tokens) + 1)
        for end in ends:
            piece = "+".join(tokens[at:end])
            weighted = _WEIGHT.fullmatch(piece)
            if _is_known(piece, catalog):
                pieces.append((piece, 1.0))
            elif weighted is not None and _is_known(weighted[1], catalog):
                pieces.append((weighted[1], float(weighted[2])))
            else:
                continue
            at = end
            break
        else:
            weighted = _WEIGHT.fullmatch(tokens[at])
            pieces.append((tokens[at], 1.0) if weighted is None else (weighted[1], float(weighted[2])))
            at += 1
    return pieces


def _is_known(text: str, catalog: Catalog) -> bool:
    """Whether something of that very name is there, as far as that can be told without the network."""
    if text.startswith(HUB_SCHEME):
        return Path(text).suffix.lower() in _SUFFIXES
    name, equals, file = text.partition("=")
    if equals and name in catalog:
        return os.path.exists(os.path.expanduser(file))
    return text in catalog or os.path.exists(os.path.expanduser(text))


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
