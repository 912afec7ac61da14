"""The YAML that the common training toolkit (MSST) writes for a checkpoint, as far as a separation needs it.

    audio       chunk_size, sample_rate           model       settings of the network, by the toolkit's names
    training    instruments, target_instrument    inference   chunk_size, which wins over that of audio

Knows no network: `model` is for the families. Only plain values are read, and one tag of Python's, the tuple;
an alias, a large file or any other tag is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepcli.errors import ModelError, first_line, from_os

SUFFIXES = (".yaml", ".yml")
_LARGEST = 1 << 20  # bytes
_OTHERS = {"vocals": "instrumental", "instrumental": "vocals"}  # where only the target is named


@dataclass(frozen=True)
class Toolkit:
    """What a YAML says."""

    path: Path
    model: Mapping[str, Any]
    sources: tuple[str, ...]  # what the network makes, in its order
    counterpart: str = ""  # the mix minus the one stem of a network
    samplerate: int | None = None  # Hz
    chunk: int | None = None  # samples of a call
    normalize: bool | None = None  # the track is standardised before; None: not said
    audio: Mapping[str, Any] = field(
        default_factory=dict
    )  # with the length of calls that `inference` says, if it does


def read_toolkit(path: Path) -> Toolkit:
    """Read a YAML; ModelError names what is missing or not understood."""
    values = _read(path)
    model, training = _part(values, "model", path), _part(values, "training", path)
    audio, inference = (
        _part(values, "audio", path, needed=False),
        _part(values, "inference", path, needed=False),
    )
    names = training.get("instruments")
    target = training.get("target_instrument")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise _wrong(path, "`training.instruments` is not a list of names")
    if target is not None and target not in names:
        raise _wrong(
            path, f"`training.target_instrument`, {target!r}, is none of the instruments {list(names)}"
        )
    stems = tuple(map(stem_name, names))
    if "" in stems or len(set(stems)) < len(stems):
        raise _wrong(path, f"the instruments {list(names)} are no different names of stems")
    counterpart = ""
    if target is not None:
        stem = stem_name(target)
        others = [name for name in stems if name != stem]
        counterpart = others[0] if len(others) == 1 else _OTHERS.get(stem, "")
        stems = (stem,)
    return Toolkit(
        path=path,
        model=model,
        sources=stems,
        counterpart=counterpart,
        samplerate=_count(audio, "sample_rate", path),
        chunk=_count(inference, "chunk_size", path) or _count(audio, "chunk_size", path),
        normalize=_switch(inference, "normalize", path),
        audio=_with_calls(audio, inference),
    )


def _with_calls(audio: Mapping[str, Any], inference: Mapping[str, Any]) -> dict[str, Any]:
    """The part `audio`, but with the length of calls from `inference` where that says it."""
    lengths = "chunk_size", "dim_t"
    given = {key: inference[key] for key in lengths if inference.get(key) is not None}
    return {**{key: value for key, value in audio.items() if not given or key not in lengths}, **given}


def training_part(stems: Sequence[str]) -> dict[str, Any]:
    """The part `training`: a network of one stem has a target, and a name for what is left of the mix."""
    rest = "other" if list(stems) != ["other"] else "rest"
    return {
        "instruments": [*stems] if len(stems) > 1 else [*stems, rest],
        "target_instrument": stems[0] if len(stems) == 1 else None,
        "use_amp": True,
        "batch_size": 1,
    }


def yaml_text(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """{part: settings} as the toolkit reads them: values in JSON's notation, and tuples as tuples."""
    lines = []
    for name, table in tables.items():
        lines += [f"{name}:", *(f"  {key}: {_yaml(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def _yaml(value: Any) -> str:
    return f"!!python/tuple {json.dumps(value)}" if isinstance(value, tuple) else json.dumps(value)


def stem_name(text: str) -> str:
    """A name as stems are called: "Lead Vocals" -> "lead_vocals"; "" where nothing is left."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.strip().lower()).strip("_-")


def beside(name: str) -> tuple[str, ...]:
    """Names under which the YAML of a checkpoint is found in its folder: its own, or the folder's."""
    stem = name.rpartition(".")[0] or name
    own = [f"{stem}{suffix}" for suffix in SUFFIXES]
    return (*own, f"config_{stem}.yaml", "config.yaml")


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values and tuples, each written out."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            """A value repeated by reference could be of any size once it is written out."""
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.constructor.ConstructorError(None, None, "aliases are not read here", mark)
            return super().compose_node(parent, index)

    def construct_tuple(loader: Loader, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", construct_tuple)
    try:
        if path.stat().st_size > _LARGEST:
            raise _wrong(path, "it is larger than 1 MB")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise from_os(error, path, reading=ModelError) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise _wrong(path, f"{getattr(error, 'problem', None) or first_line(error)}{where}") from error
    except RecursionError as error:
        raise _wrong(path, "it is nested too deeply") from error
    except ValueError as error:
        raise _wrong(path, first_line(error)) from error
    if not isinstance(values, Mapping):
        raise _wrong(path, "it is not a table of settings")
    return values


def _part(values: Mapping[str, Any], name: str, path: Path, *, needed: bool = True) -> Mapping[str, Any]:
    part = values.get(name, None if needed else {})
    if part is None and not needed:
        return {}
    if not isinstance(part, Mapping) or not all(isinstance(key, str) for key in part):
        raise _wrong(
            path, f"it has no part `{name}` with settings" if part is None else f"`{name}` is no table"
        )
    return part


def _count(part: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = part.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(path, f"`{key}` is {value!r}, but must be a whole number above 0")
    return value


def _switch(part: Mapping[str, Any], key: str, path: Path) -> bool | None:
    value = part.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(path, f"`{key}` is {value!r}, but must be true or false")
    return value


def _wrong(path: Path, fact: str) -> ModelError:
    return ModelError(
        f"'{path}' is no configuration of the training toolkit that sepcli understands: {fact}.",
        remedy="Give the YAML that belongs to the checkpoint; it has the parts audio, model and training.",
        code="bad_config",
    )
