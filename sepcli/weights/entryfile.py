"""One file of a catalogue, weights.toml or its like, read strictly: what is not understood is refused.

An entry that is `like` another one above it takes all that belongs to the network from there (`entry_tables`).

Two values are not what TOML says they are: an array becomes a tuple, and `segment` in a config may be a
fraction in quotes ("39/5", in seconds), because 7.8 has no exact binary float and a segment counts samples.

The tables as they are written are in entrytables.py and filetables.py; what their types don't say is checked
here.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from sepcli import __version__
from sepcli.errors import ModelError
from sepcli.system.remembered import recall, remember
from sepcli.system.tables import TableError, at_least, read_table
from sepcli.weights.composite import one_after_another, side_by_side
from sepcli.weights.entries import TASKS, Entry, Member, Mixer, Score, Step, WeightFile
from sepcli.weights.entrytables import (
    BlendTable,
    ChainTable,
    CompositeTable,
    EntryTable,
    MemberTable,
    MixerTable,
    ScoreTable,
    StepTable,
)
from sepcli.weights.filetables import weight_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")
_STEM = re.compile(r"[a-z0-9][a-z0-9_-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FRACTION = re.compile(r"\s*(\d+)\s*/\s*([1-9]\d*)\s*")


# What an entry takes from the one that it is `like`: all that belongs to the network, and nothing that belongs
# to its weights.
_OF_THE_NETWORK = (
    "family", "arch", "samplerate", "channels", "segment", "half", "half_note", "published_overlap", "paper",
    "origin", "cost", "task", "sources", "counterpart", "joined",
)  # fmt: skip


def entry_tables(text: str) -> dict[str, Any]:
    """The tables of a catalogue as they are written, but with each `like` replaced by what it stands for.

    ValueError (TableError, or tomllib's) where the text can't be understood.
    """
    import tomllib  # not where the tables are remembered

    tables = tomllib.loads(text)
    done: dict[str, Any] = {}
    for name, values in tables.items():
        if not isinstance(values, dict) or "like" not in values:
            done[name] = values
            continue
        model = values["like"]
        if not isinstance(model, str) or model not in done or not isinstance(done[model], dict):
            raise TableError(
                name, "like", f"is {model!r}, but must be a model that stands above it in the same file"
            )
        base = done[model]
        # Work follows from the config; the counterpart belongs to the sources.
        own = {"counterpart": "sources" in values, "cost": "sources" in values or "config" in values}
        done[name] = {
            **{key: base[key] for key in _OF_THE_NETWORK if key in base and not own.get(key)},
            **{key: value for key, value in values.items() if key not in ("like", "config")},
        }
        config = {**base.get("config", {}), **_table(values, "config", name)}
        done[name] |= {"config": config} if config else {}
    return done


def _table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise TableError(where, key, f"is {table!r}, but must be a table")
    return table


# --- from tables to entries ---


def read_entries(path: Path, mtime_ns: int, size: int, above: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries of a file as it was then.

    above: the models of other catalogues, which its own may be made of.
    OSError where it can't be read, ModelError where it is wrong.
    """
    with _faults_of(path):
        entries = dict[str, Entry]()
        known = ChainMap(entries, cast("dict[str, Entry]", above))  # is only read
        for name, values in _tables(path, mtime_ns, size).items():
            entries[name] = _entry(name, values, path, known)
        return entries


@lru_cache(maxsize=32)  # one command asks several times; a changed file has another key
def _tables(path: Path, mtime_ns: int, size: int) -> Mapping[str, Any]:
    return entry_tables(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def remembered_entries(path: Path, mtime_ns: int, size: int, memory: Path) -> Mapping[str, Entry]:
    """`read_entries` of a long file. memory: the file that keeps its tables once they were understood."""
    depends = [str(path), mtime_ns, size, Path(__file__).stat().st_mtime_ns, __version__]
    tables = recall(memory, depends)
    if isinstance(tables, dict):
        return _Remembered(tables, path)
    entries = read_entries(path, mtime_ns, size, {})
    remember(memory, depends, _tables(path, mtime_ns, size))
    return entries


class _Remembered(Mapping[str, Entry]):
    """The entries of tables that were understood before, each made when it is asked for first."""

    def __init__(self, tables: Mapping[str, Any], path: Path):
        self._tables, self._path, self._made = tables, path, dict[str, Entry]()

    def __getitem__(self, name: str) -> Entry:
        if name not in self._made:
            with _faults_of(self._path):
                self._made[name] = _entry(name, self._tables[name], self._path, self)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """What is wrong with the text of a catalogue, as the ModelError that names it."""
    try:
        yield
    except TableError as error:
        place = f"[{error.where}]" if error.where else "top level"
        raise ModelError(
            f"{path}, {place}, `{error.key}`: {error.fact}.", remedy=error.remedy, code="catalog"
        ) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise ModelError(
            f"The catalogue '{path}' is not TOML: {error}.",
            remedy="Correct it there (https://toml.io), or leave it out.",
            code="catalog",
        ) from error


def _entry(name: str, values: Any, path: Path, above: Mapping[str, Entry]) -> Entry:
    """One model from its table. Here and below, `where` is a table's place in the file, for errors.

    above: the models that one of several may name.
    """
    if not _NAME.fullmatch(name):
        raise TableError("", name, "is no model name", "Use letters, digits, '.', '_' and '-'.")
    if isinstance(values, dict) and "chain" in values:
        return _chain(name, read_table(ChainTable, values, key=name), path, above)
    if isinstance(values, dict) and "models" in values:
        return _blend(name, read_table(BlendTable, values, key=name), path, above)
    table = read_table(EntryTable, values, key=name)
    _check_words(table, name)
    _check_sources(table, name)
    at_least(1, table.samplerate, name, "samplerate")
    at_least(1, table.channels, name, "channels")
    overlap = table.published_overlap
    if overlap is not None and not 0 <= overlap < 1:
        raise TableError(name, "published_overlap", f"is {overlap:g}, but must be from 0 to below 1")
    members, mixer = _members(table, name)
    if table.min_query is not None and not table.min_query > 0:
        raise TableError(name, "min_query", f"is {table.min_query:g}, but must be seconds above 0")
    if table.min_query is not None and len(members) > 1:
        raise TableError(name, "min_query", "belongs to a model of one network, not to several members")
    if table.cost is not None and not table.cost > 0:
        raise TableError(name, "cost", f"is {table.cost:g}, but must be GFLOP above 0")
    if table.listed is not None and not 0 <= table.listed <= 6:
        raise TableError(name, "listed", f"is {table.listed}, but must be from 0 to 6")
    return Entry(
        name=name,
        family=table.family,
        sources=_all_sources(table),
        counterpart=table.counterpart,
        joined=table.joined,
        task=table.task,
        purpose=table.purpose,
        cost=table.cost,
        listed=table.listed,
        run=table.run,
        samplerate=table.samplerate,
        channels=table.channels,
        members=members,
        mixer=mixer,
        segment=_seconds(table.segment, name, "segment"),
        min_query=table.min_query,
        half=table.half,
        half_note=table.half_note,
        license=table.license,
        license_note=table.license_note,
        paper=table.paper,
        origin=table.origin,
        training_data=table.training_data,
        limits=table.limits,
        scores=_scores(table.scores, _all_sources(table), name),
        published_overlap=overlap,
        aliases=table.aliases,
        catalog_path=path,
    )


def _chain(name: str, table: ChainTable, path: Path, above: Mapping[str, Entry]) -> Entry:
    """Models one after another as one."""
    _check_words(table, name)
    steps = []
    for index, step in enumerate(table.chain):
        where = f"{name}.chain[{index}]"
        entry = _above(step.model, above, where)
        if bool(step.of) != bool(index):
            fact = (
                "is missing: the stem that the model takes apart"
                if index
                else "is not for the first step, which takes the mix"
            )
            raise TableError(where, "of", fact)
        steps.append(_step(step, entry, where))
    if len(steps) < 2:
        raise TableError(name, "chain", "needs two models or more")
    said = _said(table, path)
    return _composite(name, "chain", table, lambda: one_after_another(name, steps, table.sources, **said))


def _step(table: StepTable, entry: Entry, where: str) -> Step:
    step = Step(entry, table.of, table.stems)
    if len(set(table.stems).intersection(entry.sources)) < len(table.stems):
        raise TableError(where, "stems", f"must be some of {', '.join(entry.sources)}, each once")
    for stem, name in table.names.items():
        if stem not in step.made:
            raise TableError(where, "names", f"has '{stem}', but must name some of {', '.join(step.made)}")
        if not _STEM.fullmatch(name):
            raise TableError(
                where, "names", f"has '{name}', which is no stem name", "Use a-z, 0-9, '_' and '-'."
            )
    names = tuple(table.names.get(stem, stem) for stem in step.made)
    if len(set(names)) < len(names):
        raise TableError(where, "names", f"gives two stems one name: {', '.join(names)}")
    return replace(step, names=names)


def _blend(name: str, table: BlendTable, path: Path, above: Mapping[str, Entry]) -> Entry:
    """Models side by side as one."""
    _check_words(table, name)
    models = []
    for index, part in enumerate(table.models):
        entry = _above(part.model, above, f"{name}.models[{index}]")
        models.append((entry, {"": part.weight, **part.weights}))
    if len(models) < 2:
        raise TableError(name, "models", "needs two models or more")
    said = _said(table, path)
    return _composite(name, "models", table, lambda: side_by_side(name, models, table.blend, **said))


def _composite(name: str, key: str, table: CompositeTable, make: Callable[[], Entry]) -> Entry:
    """What `make` makes of the models under `key`, with the scores of the table, which are of its stems."""
    try:
        made = make()
    except ValueError as error:
        raise TableError(name, key, f"can't be: {error}") from error
    return replace(made, scores=_scores(table.scores, made.sources, name))


def _above(model: str, above: Mapping[str, Entry], where: str) -> Entry:
    """The model that one of several names."""
    if model not in above:
        raise TableError(
            where,
            "model",
            f"is {model!r}, but must be a model that stands above it, or in a catalogue that is read before",
        )
    return above[model]


def _said(table: CompositeTable, path: Path) -> dict[str, Any]:
    """What the table of several models says of itself, but its scores."""
    said: dict[str, Any] = {
        key: getattr(table, key)
        for key in ("purpose", "half_note", "license_note", "paper", "origin", "training_data", "limits", "run")
    }
    said |= {key: getattr(table, key) for key in ("task", "license") if getattr(table, key)}
    return said | {"aliases": table.aliases, "catalog_path": path}


def _check_words(table: EntryTable | CompositeTable, name: str) -> None:
    for alias in table.aliases:
        if not _ALIAS.fullmatch(alias):
            raise TableError(
                name, "aliases", f"has '{alias}', which is no name", "Use letters, digits, '.', '_', '-', ':'."
            )
    follows = isinstance(table, CompositeTable) and not table.task
    if table.task not in TASKS and not follows:
        raise TableError(name, "task", f"is '{table.task}', but must be one of {', '.join(TASKS)}")


def _all_sources(table: EntryTable) -> tuple[str, ...]:
    return (*table.sources, *([table.counterpart] if table.counterpart else []))


def _check_sources(table: EntryTable, where: str) -> None:
    """Stems have names that are legal in file names, each once."""
    if table.counterpart:
        if not _STEM.fullmatch(table.counterpart):
            raise TableError(
                where,
                "counterpart",
                f"is {table.counterpart!r}, which is no stem name",
                "Use a-z, 0-9, '_' and '-'.",
            )
        if len(table.sources) != 1 or table.members or table.counterpart in table.sources:
            raise TableError(
                where, "counterpart", "is the mix minus the one stem of a single network, so it needs one other"
            )
    for stem in table.sources:
        if not _STEM.fullmatch(stem):
            raise TableError(
                where, "sources", f"has {stem!r}, which is no stem name", "Use a-z, 0-9, '_' and '-'."
            )
        if table.sources.count(stem) > 1:
            raise TableError(where, "sources", f"has '{stem}' twice")
    if not table.sources and table.min_query is None:
        raise TableError(
            where,
            "sources",
            "is empty",
            "Name the stems in the order of the network's outputs; only a model of queries (`min_query`) may "
            "have none of its own.",
        )


def _members(table: EntryTable, name: str) -> tuple[tuple[Member, ...], Mixer | None]:
    """The networks of [[members]], the one network of `files.model`, or the parts of a joined one; what mixes
    their stems."""
    files = {key: weight_file(key, file, f"{name}.files.{key}") for key, file in table.files.items()}
    listed = {f"{name}.members[{i}]": member for i, member in enumerate(table.members)}
    if table.joined:
        if listed or table.mixer is not None:
            raise TableError(name, "members", "are several networks, but `joined` means one, of all `files`")
        listed = {f"{name}.files.{key}": MemberTable(key) for key in files}
    members = [
        _member(member, table, files, where)
        for where, member in (listed or {name: MemberTable("model")}).items()
    ]
    mixer = None if table.mixer is None else _mixer(table.mixer, table, files, f"{name}.mixer")
    used = [member.file for member in members] + ([mixer.file] if mixer is not None else [])
    for key, file in files.items():
        if all(each is not file for each in used):
            raise TableError(
                f"{name}.files", key, "is a file that no member uses", "Name it in [[members]] or remove it."
            )
    for index, stem in enumerate(table.sources):
        if not any(member.weights is None or member.weights[index] for member in members):
            raise TableError(name, "members", f"no member has a weight for the stem '{stem}'")
    return tuple(members), mixer


def _mixer(mixer: MixerTable, table: EntryTable, files: Mapping[str, WeightFile], where: str) -> Mixer:
    if sorted(mixer.stems or table.sources) != sorted(table.sources):
        raise TableError(where, "stems", f"must be {', '.join(table.sources)} in any order")
    if table.min_query is not None or table.counterpart:
        raise TableError(where, "file", "is not for a model of queries or with a counterpart")
    return Mixer(_file_of(mixer.file, files, where), mixer.stems or table.sources)


def _file_of(key: str, files: Mapping[str, WeightFile], where: str) -> WeightFile:
    if key not in files:
        raise TableError(where, "file", f"names '{key}', but `files` has {', '.join(files) or 'nothing'}")
    return files[key]


def _member(member: MemberTable, table: EntryTable, files: Mapping[str, WeightFile], where: str) -> Member:
    file = _file_of(member.file, files, where)
    arch = member.arch or table.arch
    if not arch:
        raise TableError(where, "arch", "is missing", "Add it here or to the entry: the name of the network.")
    weights = None
    if member.weights is not None:
        for stem, value in member.weights.items():
            if stem not in table.sources:
                stems = ", ".join(table.sources)
                raise TableError(where, "weights", f"names '{stem}', but the model's stems are {stems}")
            if not value >= 0:
                raise TableError(f"{where}.weights", stem, f"is {value:g}, but must be a number of at least 0")
        weights = tuple(member.weights.get(stem, 0.0) for stem in table.sources)
    config = {key: _setting(key, value, where) for key, value in {**table.config, **member.config}.items()}
    return Member(file, arch, MappingProxyType(config), weights)


def _setting(key: str, value: Any, where: str) -> Any:
    """A value of [config] as the network's Config takes it."""
    return _seconds(value, where, "config.segment") if key == "segment" else _frozen(value)


def _frozen(value: Any) -> Any:
    """`value` with tuples in the place of lists, so that nobody changes it."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _seconds(value: Any, where: str, key: str) -> float | Fraction | None:
    """A number of seconds, or "39/5" as the exact fraction."""
    if value is None:
        return None
    if isinstance(value, str) and (match := _FRACTION.fullmatch(value)):
        value = Fraction(int(match[1]), int(match[2]))
    if isinstance(value, str | bool) or not isinstance(value, int | float | Fraction) or not value > 0:
        fact = f'is {value!r}, but must be seconds above 0, or a fraction such as "39/5"'
        raise TableError(where, key, fact)
    return value


def _scores(scores: Sequence[ScoreTable], sources: Sequence[str], name: str) -> tuple[Score, ...]:
    return tuple(_score(score, sources, f"{name}.scores[{i}]") for i, score in enumerate(scores))


def _score(score: ScoreTable, sources: Sequence[str], where: str) -> Score:
    for stem in score.stems:
        if stem not in sources:
            stems = ", ".join(sources)
            raise TableError(where, "stems", f"names '{stem}', but the model's stems are {stems}")
    if score.by not in ("published", "ours"):
        raise TableError(where, "by", f"is '{score.by}', but must be 'published' or 'ours'")
    if score.value is None and not score.stems:
        raise TableError(where, "value", "is missing", "Give it, or the figures of `stems`.")
    stems = MappingProxyType(score.stems)
    return Score(score.metric, score.set, score.value, score.by, stems, score.note)
