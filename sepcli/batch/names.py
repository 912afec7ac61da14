"""Which stems a run writes, and under which paths: decided for all inputs together, before any work.

Knows names, templates and what collides; no audio, no manifest and no weights.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.batch.inputs import Originals, Source
from sepcli.batch.outputs import (
    check_pages,
    check_template,
    collision_key,
    folds_case,
    name_key,
    name_limit,
    output_path,
    rest_name,
)
from sepcli.batch.packing import PACKED, Pack, make_pack
from sepcli.batch.queries import Query, needs_one, refuse_overwriting
from sepcli.batch.request import Batch
from sepcli.batch.words import unknown_stem
from sepcli.errors import UsageError, parameter
from sepcli.sound.formats import FORMATS
from sepcli.sound.submix import Submix
from sepcli.sound.video import container_of
from sepcli.weights.entries import Catalog

if TYPE_CHECKING:
    from sepcli.batch.remote import RemoteOut

PREVIEW = " (preview)"  # behind the name of a track of which only a part is separated to listen to it
ROUNDS = 4  # of telling inputs apart, each of which may run into names of others
APART = ((), ("{parent}",), ("{trackext}",), ("{parent}", "{trackext}"))  # fields that tell inputs apart


@dataclass(frozen=True)
class Stems:
    """The stems and submixes that a run writes, in the order of its files."""

    named: tuple[str, ...]  # that the model knows by name; () too where the queries alone are wanted
    asked: tuple[str, ...]  # the queries'
    submixes: tuple[Submix, ...] = ()  # the rest is one of them, the last
    hidden: tuple[str, ...] = ()  # made for submixes only, and not written
    pack: Pack | None = None  # all of them are tracks of one file

    @property
    def targets(self) -> tuple[str, ...]:
        """The stems that the model has to make."""
        return (*self.named, *self.asked)

    @property
    def written(self) -> tuple[str, ...]:
        """The stems that are written."""
        return tuple(stem for stem in self.targets if stem not in self.hidden)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all written files: the stems, then the submixes."""
        if self.pack is not None:
            return (PACKED,)
        return (*self.written, *(submix.name for submix in self.submixes))

    @property
    def sounds(self) -> tuple[str, ...]:
        """The names of all that can be heard in the files."""
        return self.files if self.pack is None else self.pack.sounds

    def with_rest(self, name: str) -> Stems:
        """With the mix minus the written stems too, as the last file, where no submix is just that.

        UsageError where the name is taken.
        """
        rest = Submix.without(name, self.written)
        if any(submix.gains == rest.gains for submix in self.submixes):
            return self
        if name_key(name) in map(name_key, self.files):
            raise UsageError(
                f"'{name}' is the name of the rest, the mix minus the stems, and of another file too.",
                remedy=f"Give that one another name, such as in {parameter('submixes')}.",
                code="equal_names",
            )
        return replace(self, submixes=(*self.submixes, rest))

    def without_files(self, there: Collection[str]) -> Stems:
        """What is left to make where the files of these stems and submixes are there already."""
        if self.pack is not None:
            return self
        missing = set(self.files).difference(there)
        submixes = tuple(submix for submix in self.submixes if submix.name in missing)
        left = self.narrowed(missing.union(*(submix.stems for submix in submixes)))
        hidden = tuple(stem for stem in left.targets if stem not in missing)
        return replace(left, submixes=submixes, hidden=hidden)

    def packed(self, sources: Sequence[str], format: str) -> Stems:
        """The same as tracks of one file. sources: the model's own stems.

        UsageError for submixes: the tracks add up to the mix.
        """
        rest = Submix.without("", self.written).gains
        if others := [submix.name for submix in self.submixes if submix.gains != rest]:
            raise UsageError(
                f"The stems in a {format} file add up to the mix, so {', '.join(others)} has no place in it.",
                remedy=f"Leave out {parameter('submixes')}, or choose another {parameter('format')}.",
                code="submix",
            )
        pack = make_pack(
            self.written,
            whole=not self.asked and set(self.written) == set(sources),
            rest=next((submix.name for submix in self.submixes), rest_name(self.written)),
        )
        named, asked = (tuple(s for s in stems if s in pack.kept) for stems in (self.named, self.asked))
        return Stems(named, asked, pack.submixes, pack=pack)

    def narrowed(self, stems: Collection[str]) -> Stems:
        """Only these, and no submix."""
        return Stems(
            tuple(stem for stem in self.named if stem in stems),
            tuple(stem for stem in self.asked if stem in stems),
        )


class Outputs(Mapping[str, Path]):
    """Where the stems of a track go. The paths are one text, as there may be a million tracks."""

    __slots__ = ("_folder", "_names", "_stems")

    def __init__(self, folder: Path, stems: tuple[str, ...], paths: Iterable[Path]):
        """paths: of the stems, below the folder."""
        self._folder, self._stems = folder, stems
        self._names = "\0".join(str(path.relative_to(folder)) for path in paths)

    def __getitem__(self, stem: str) -> Path:
        if stem not in self._stems:
            raise KeyError(stem)
        return self._folder / self._names.split("\0")[self._stems.index(stem)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stems)

    def __len__(self) -> int:
        return len(self._stems)


@dataclass(frozen=True, slots=True)
class Track:
    """One input and where its stems go."""

    source: Source
    outputs: Mapping[str, Path] = field(default_factory=dict)  # by stem; empty while the stems are unknown
    copy: Path | None = None  # of what came through a pipe or is at an address, once it is made

    @property
    def file(self) -> Path | None:
        """Where to read it; None for what has to be copied first (`read_from`)."""
        return self.source.path if self.copy is None and not self.source.once else self.copy

    def read_from(self, file: Path) -> Track:
        """The same track, but read from `file`."""
        return replace(self, copy=file)

    @property
    def size(self) -> int | None:
        """Of what is read, in bytes; None where it can't be told."""
        if self.source.remote is not None:
            return self.source.remote.size
        try:
            return None if self.file is None else self.file.stat().st_size
        except OSError:
            return None


@dataclass(frozen=True)
class Named:
    """A batch whose stems and paths are known. `tracks` are this shard's, in the order given."""

    batch: Batch
    stems: Stems
    tracks: tuple[Track, ...]
    notices: tuple[str, ...] = ()  # sentences the user should see


def names(batch: Batch, sources: Sequence[str], more: Collection[str] = ()) -> Named:
    """Give every track of the batch its paths, for a model of these stems.

    more: stems that it gives only where they are asked for.
    UsageError for a stem that the model lacks or for no stem at all, a template that can't do, two inputs that
    land on one path, or an output that is an input or a query.
    """
    request = batch.request
    stems = choose_stems(
        sources,
        more,
        request.targets,
        batch.queries,
        rest=batch.spec.rest_of(sources),
        submixes=batch.submixes,
        hidden=batch.hidden,
        model=batch.model.name,
        catalog=batch.catalog,
    )
    if FORMATS[batch.spec.format].stems:
        stems = stems.packed(sources, batch.spec.format)
    paths, notices = name_sources(batch, stems, batch.everything)
    guard_inputs(batch.everything, batch.queries, _Paths(paths), request.remote)
    if stems.pack is not None and stems.pack.notice:
        notices = [stems.pack.notice, *notices]
    ours = set(batch.sources)
    tracks = [
        Track(source, outputs)
        for source, outputs in zip(batch.everything, paths, strict=True)
        if source in ours
    ]
    return Named(batch, stems, tuple(tracks), tuple(notices))


def name_sources(
    batch: Batch, stems: Stems, sources: Sequence[Source], owner: Owner | None = None
) -> tuple[list[Mapping[str, Path]], list[str]]:
    """`name_files` as the batch was asked for, with `check_pages` where pages are."""
    request = batch.request
    paths, notices = name_files(
        sources,
        stems.files,
        out=request.out,
        template=request.template,
        model=batch.model.name,
        ext=batch.spec.ext,
        preview=request.preview,
        owner=owner,
    )
    if request.player:
        check_pages(request.template, paths)
    return paths, notices


def names_if_known(batch: Batch) -> Named | None:
    """`names` for a model of the catalogue; None for others, which have to be loaded to know their stems."""
    return None if batch.entry is None else names(batch, batch.entry.sources, batch.entry.more)


def choose_stems(
    sources: Sequence[str],
    more: Collection[str],
    targets: Sequence[str],
    queries: Sequence[Query],
    *,
    rest: bool,
    submixes: Sequence[Submix] = (),
    hidden: Sequence[str] = (),
    model: str,
    catalog: Catalog | None = None,
) -> Stems:
    """The wanted stems of a model: first its own, in its order, then the stems of the queries.

    more: stems that it gives only where they are among the targets.
    rest: whether the mix minus the written stems is a file too. hidden: targets that only the submixes need.
    model: its name in errors. catalog: where others are looked for that have a stem which this one lacks.
    UsageError for such a stem, where there is nothing to make, and for a name that the rest has too.
    """
    if not sources and not queries:
        raise needs_one(model)
    for target in targets:
        if target not in sources and target not in more:
            raise unknown_stem(target, (*sources, *more), model, catalog)
    asked = tuple(query.name for query in queries)
    wanted = (*targets, *asked)
    all_named = (*sources, *more) if wanted else sources
    named = tuple(source for source in all_named if not wanted or source in targets)
    stems = Stems(named, asked, tuple(submixes), tuple(hidden))
    beside = [stem for stem in wanted or sources if stem not in hidden]
    return stems.with_rest(rest_name(beside)) if rest else stems


# --- paths ---

# Whose the files under these paths are: True: of this source, False: of another, None: of none that is known.
Owner = Callable[[Source, Mapping[str, Path]], bool | None]


def name_files(
    sources: Sequence[Source],
    stems: Sequence[str],
    *,
    out: Path,
    template: str,
    model: str,
    ext: str,
    preview: bool = False,
    owner: Owner | None = None,
) -> tuple[list[Mapping[str, Path]], list[str]]:
    """Choose paths that differ from each other on this file system: ([{stem: path} of each source], notices).

    Inputs that would get the same paths are told apart by their folder or suffix, with a notice. Where their
    names differ only in what the paths can't hold (Unicode normalisation, case, forbidden characters), by a
    number. ext: their suffix; "" for videos, which get that of the input. preview: the tracks are called parts
    of the inputs. UsageError where the template can't do, or where inputs of one name can't be told apart.

    owner: where the sources are not all there are. A source keeps the paths that are its own, and gets none of
    another's; then whatever can't be told apart gets a number.
    """
    check_template(template, stems)
    naming = _Naming(stems, out, template, model, ext, PREVIEW if preview else "", owner)
    return naming.paths(sources), list(naming.notices)


class _Naming:
    """Fills the template, and a longer one for sources that collide."""

    def __init__(
        self,
        stems: Sequence[str],
        out: Path,
        template: str,
        model: str,
        ext: str,
        added: str,
        owner: Owner | None = None,
    ):
        """added: behind the name of every track."""
        self.stems, self.out, self.template, self.model, self.ext = tuple(stems), out, template, model, ext
        self.added, self.owner = added, owner
        self._kept: set[str] = set()  # keys of the paths that sources keep
        self.limit, self.fold = name_limit(out), folds_case(out)
        self.notices: dict[str, None] = {}  # each once
        self.numbers: dict[Source, str] = {}  # in the order of the inputs: "01"; where they are wanted

    def paths(self, sources: Sequence[Source]) -> list[Mapping[str, Path]]:
        """{stem: path} for each source, all different. UsageError where that can't be."""
        width = max(2, len(str(len(sources))))
        if "{tracknumber}" in self.template:
            self.numbers = {source: f"{number:0{width}}" for number, source in enumerate(sources, 1)}
        kept = {}
        for at, source in enumerate(sources):
            outputs = self._own(source)
            if outputs is not None and self._kept.isdisjoint(keys := self._keys(outputs)):
                kept[at] = outputs
                self._kept.update(keys)
        others = iter(self._new([source for at, source in enumerate(sources) if at not in kept]))
        return [kept[at] if at in kept else next(others) for at in range(len(sources))]

    def _own(self, source: Source) -> Outputs | None:
        """The paths that are this source's already."""
        if self.owner is None:
            return None
        templates = dict.fromkeys(_with_fields(self.template, fields) for fields in APART)
        for template in templates:
            outputs = self._fill(source, template, quiet=True)
            if self.owner(source, outputs):
                return outputs
        for template in templates:
            for number in count(1):
                outputs = self._fill(source, _with_fields(template, ("{number}",)), number, quiet=True)
                if (own := self.owner(source, outputs)) is None:
                    break
                if own:
                    return outputs
        return None

    def _is_taken(self, source: Source, outputs: Mapping[str, Path]) -> bool:
        """Whether these paths are of a source that is not among those to be named."""
        if self.owner is None:
            return False
        return not self._kept.isdisjoint(self._keys(outputs)) or self.owner(source, outputs) is False

    def _new(self, sources: Sequence[Source]) -> Sequence[Mapping[str, Path]]:
        templates = [self.template] * len(sources)
        numbered: set[int] = set()
        for last in (*[False] * (ROUNDS - 1), True):
            found = [self._fill(*pair) for pair in zip(sources, templates, strict=True)]
            groups = self._groups(found)
            grouped = {at for group in groups for at in group}
            groups += [
                (at,)
                for at, pair in enumerate(zip(sources, found, strict=True))
                if at not in grouped and self._is_taken(*pair)
            ]
            groups = [group for group in groups if not numbered.issuperset(group)]
            for group in groups:
                members = [sources[index] for index in group]
                template, added = self._tell_apart(members)
                if last or template is None or all(templates[index] == template for index in group):
                    if self.owner is None and not self._differ(members):
                        raise _collision(members, found[group[0]])
                    numbered.update(group)
                    added = "a number, by the order of their bytes,"
                else:
                    for index in group:
                        templates[index] = template
                names = " and ".join(source.name for source in members)
                same, whose = "the same names", "theirs"
                if len(members) == 1:
                    same, whose = "the names of another input's stems", "its own"
                self._note(f"{names} would get {same}; {added} in {whose} tells them apart.")
            if not groups:
                if not numbered:
                    return found
                break
        return self._numbered(sources, templates, numbered)

    def _numbered(
        self, sources: Sequence[Source], templates: Sequence[str], numbered: Collection[int]
    ) -> list[Outputs]:
        """The paths of all, with the lowest free number in those of `numbered`.

        Numbers go by the bytes of the inputs' names: neither the order of arguments nor a shard changes them.
        """
        found = [self._fill(*pair) for pair in zip(sources, templates, strict=True)]
        taken = {key for at, outputs in enumerate(found) if at not in numbered for key in self._keys(outputs)}
        for at in sorted(numbered, key=lambda at: _bytes(sources[at])):
            template = _with_fields(templates[at], ("{number}",))
            for number in count(1):
                found[at] = self._fill(sources[at], template, number)
                if taken.isdisjoint(self._keys(found[at])) and not self._is_taken(sources[at], found[at]):
                    break
            taken.update(self._keys(found[at]))
        return found

    def _groups(self, found: Sequence[Mapping[str, Path]]) -> list[tuple[int, ...]]:
        """The sources, by their number in the list, that would be written to one path."""
        hashes = sorted(hash(key) for outputs in found for key in self._keys(outputs))
        twice = {each for each, following in pairwise(hashes) if each == following}
        places: dict[str, list[int]] = defaultdict(list)
        for at, outputs in enumerate(found) if twice else ():  # nearly always there are none, of many
            for key in self._keys(outputs):
                if hash(key) in twice:
                    places[key].append(at)
        return list(dict.fromkeys(tuple(place) for place in places.values() if len(place) > 1))

    def _keys(self, outputs: Mapping[str, Path]) -> list[str]:
        return [collision_key(path, fold=self.fold) for path in outputs.values()]

    def _values(self, source: Source) -> dict[str, str]:
        return {
            "track": source.track + self.added,
            "ext": self.ext or container_of(source.suffix).suffix,
            "model": self.model,
            "parent": source.parent,
            "trackext": source.suffix,
            "tracknumber": self.numbers.get(source, ""),
        }

    def _fill(self, source: Source, template: str, number: int = 0, *, quiet: bool = False) -> Outputs:
        values, width = {**self._values(source), "number": str(number)}, len(str(len(self.stems)))
        below = source.relative.parent
        paths = (
            output_path(
                self.out,
                template,
                {**values, "stem": stem, "stemnumber": f"{at:0{width}}"},
                below=below,
                limit=self.limit,
                notice=(lambda text: None) if quiet else self._note,
            )
            for at, stem in enumerate(self.stems, 1)
        )
        return Outputs(self.out, self.stems, paths)

    def _tell_apart(self, group: Sequence[Source]) -> tuple[str | None, str]:
        """A template under which the group's paths differ, or None, and the fields that it has more."""
        alone = len(group) == 1  # with any folder in front its names differ, but its suffix says more
        for fields in (*APART[2:3], *APART[1:]) if alone else APART[1:]:
            template = _with_fields(self.template, fields)
            found = [self._fill(source, template) for source in group]
            keys = {key for outputs in found for key in self._keys(outputs)}
            if len(keys) == len(group) * len(self.stems) and not any(map(self._is_taken, group, found)):
                return template, " and ".join(fields)
        return None, ""

    def _differ(self, group: Sequence[Source]) -> bool:
        """Whether the template would tell them apart, if only paths could hold every character of a name."""
        template = _with_fields(self.template, ("{parent}", "{trackext}"))
        names = set()
        for source in group:
            used = [value for field, value in self._values(source).items() if f"{{{field}}}" in template]
            names.add((source.relative.parent, *used))
        return len(names) == len(group)

    def _note(self, text: str) -> None:
        self.notices.setdefault(text)


class _Paths(Iterable[Path]):
    """All outputs of all tracks, each made when its turn comes."""

    def __init__(self, tracks: Iterable[Mapping[str, Path]]):
        self._tracks = tracks

    def __iter__(self) -> Iterator[Path]:
        return (path for outputs in self._tracks for path in outputs.values())


def _collision(group: Sequence[Source], outputs: Mapping[str, Path]) -> UsageError:
    first, second = (source.name for source in group[:2])
    return UsageError(
        f"'{first}' and '{second}' would both be written to '{next(iter(outputs.values()))}'.",
        remedy=f"Separate them in two runs with different {parameter('out')}, or change "
        f"{parameter('template')}.",
        code="collision",
    )


def _with_fields(template: str, fields: Sequence[str]) -> str:
    """`template` with {parent} as a folder before the track's name, and {trackext} and {number} behind it."""
    before = "{parent}/" if "{parent}" in fields else ""
    if "{track}" in template:
        after = ".{trackext}" if "{trackext}" in fields else ""
        after += " ({number})" if "{number}" in fields else ""
        return template.replace("{track}", before + "{track}" + after, 1)
    return before + "".join(f"{name}/" for name in ("{trackext}", "{number}") if name in fields) + template


def _bytes(source: Source) -> tuple[bytes, bytes]:
    """What an input is called, in bytes: first below its INPUT folder, which is the same on every machine."""
    return os.fsencode(str(source.relative)), os.fsencode(source.name)


def guard_inputs(
    sources: Sequence[Source],
    queries: Iterable[Query],
    outputs: Iterable[Path],
    remote: RemoteOut | None = None,
) -> None:
    """Raises UsageError where an output would overwrite an input or a query, under whatever name or link.

    outputs: can be gone through again. remote: the output folder, where that is at an address.
    """
    if remote is None:
        refuse_overwriting(queries, outputs)
        at, shown = Originals(sources).at, os.fspath
    else:
        files = {source.remote.key: source for source in sources if source.remote is not None}
        at, shown = (lambda path: files.get(remote.key(path))), remote.shown
    for path in outputs:
        if (source := at(path)) is not None:
            raise UsageError(
                f"The output '{shown(path)}' is the input '{source.name}'.",
                remedy=f"Choose another folder with {parameter('out')}, or another {parameter('template')}; an "
                "input is never overwritten.",
                code="input_is_output",
            )
