"""One file of a catalogue, weights.toml or its like, read strictly: what is not understood is refused.

Two values are not what TOML says they are: an array becomes a tuple, and `segment` in a config may be a
fraction in quotes ("39/5", in seconds), because 7.8 has no exact binary float and a segment counts samples.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sepcli.errors import ModelError
from sepcli.weights.entries import Entry, Member, Score, WeightFile, near

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STEM = re.compile(r"[a-z0-9][a-z0-9_-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FRACTION = re.compile(r"\s*(\d+)\s*/\s*([1-9]\d*)\s*")


@lru_cache(maxsize=32)  # one command asks several times; a changed file has another key
def read_entries(path: Path, mtime_ns: int, size: int) -> dict[str, Entry]:
    """The entries of one file as it was then; OSError where it can't be read."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"The catalogue '{path}' is not TOML: {error}.",
            remedy="Correct it there (https://toml.io), or leave it out.",
            code="catalog",
        ) from error
    root = _Table(path, "", tables)
    return {name: _entry(name, root.table(name), path) for name in tables}


class _Table:
    """A TOML table that knows where it stands, hands out keys by type and ends with no key left over."""

    def __init__(self, path: Path, where: str, values: Mapping[str, Any]):
        self.path, self.where, self.values = path, where, values
        self.asked: set[str] = set()

    def fail(self, key: str, fact: str, remedy: str = "") -> ModelError:
        place = f"[{self.where}]" if self.where else "top level"
        return ModelError(f"{self.path}, {place}, `{key}`: {fact}.", remedy=remedy, code="catalog")

    def get(self, key: str, kind: type | tuple[type, ...], words: str, default: Any = None) -> Any:
        """The value, or `default` where it is absent; `...` as the default makes the key obligatory."""
        self.asked.add(key)
        if key not in self.values:
            if default is ...:
                raise self.fail(key, "is missing", f"Add it: {words}.")
            return default
        value = self.values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(key, f"is {value!r}, but must be {words}")
        return value

    def text(self, key: str, default: Any = "") -> Any:
        value = self.get(key, str, "text", default)
        if value == "" and default is None:
            raise self.fail(key, "is empty", "Give it a value or leave it out.")
        return value

    def integer(self, key: str, default: Any = None, *, least: int) -> Any:
        value = self.get(key, int, f"a whole number of at least {least}", default)
        if value is not None and value < least:
            raise self.fail(key, f"is {value}, but must be at least {least}")
        return value

    def hexadecimal(self, key: str, least: int, most: int) -> str | None:
        value = self.get(key, str, "hexadecimal digits")
        if value is None:
            return None
        length = f"{least}" if least == most else f"{least} to {most}"
        if not least <= len(value) <= most or not re.fullmatch("[0-9a-f]+", value):
            raise self.fail(key, f"is '{value}', but must be {length} lower-case hexadecimal digits")
        return value

    def table(self, key: str, default: Any = ...) -> _Table:
        value = self.get(key, dict, "a table", default)
        return _Table(self.path, f"{self.where}.{key}" if self.where else key, value)

    def tables(self, key: str) -> list[_Table]:
        values = self.get(key, list, "an array of tables", [])
        if not all(isinstance(value, dict) for value in values):
            raise self.fail(key, "must be an array of tables", f"Write [[{self.where}.{key}]] for each.")
        return [_Table(self.path, f"{self.where}.{key}[{i}]", value) for i, value in enumerate(values)]

    def finish(self) -> None:
        """Refuse what nobody asked for: a misspelt key would otherwise be ignored in silence."""
        for key in self.values:
            if key not in self.asked:
                close = " or ".join(f"`{other}`" for other in near(key, self.asked))
                guess = f"Did you mean {close}? " if close else ""
                allowed = f"It may have {', '.join(sorted(self.asked))}."
                raise self.fail(key, "is not a key of this table", guess + allowed)


def _entry(name: str, table: _Table, path: Path) -> Entry:
    if not _NAME.fullmatch(name):
        raise table.fail(name, "is no model name", "Use letters, digits, '.', '_' and '-'.")
    sources = _sources(table)
    entry = Entry(
        name=name,
        family=table.text("family", ...),
        sources=sources,
        samplerate=table.integer("samplerate", ..., least=1),
        channels=table.integer("channels", ..., least=1),
        members=_members(table, sources),
        segment=_seconds(table, "segment", table.get("segment", (int, float, str), "seconds")),
        min_query=_seconds(table, "min_query", table.get("min_query", (int, float), "seconds")),
        half=table.get("half", bool, "true or false", False),
        half_note=table.text("half_note"),
        license=table.text("license", "unspecified"),
        license_note=table.text("license_note"),
        paper=table.text("paper"),
        origin=table.text("origin"),
        training_data=table.text("training_data"),
        limits=table.text("limits"),
        scores=tuple(_score(score, sources) for score in table.tables("scores")),
        published_overlap=table.get("published_overlap", (int, float), "a number from 0 to below 1"),
        catalog_path=path,
    )
    overlap = entry.published_overlap
    if overlap is not None and not 0 <= overlap < 1:
        raise table.fail("published_overlap", f"is {overlap}, but must be from 0 to below 1")
    if entry.min_query is not None and len(entry.members) > 1:
        raise table.fail("min_query", "belongs to a model of one network, not to several members")
    table.finish()
    return entry


def _sources(table: _Table) -> tuple[str, ...]:
    sources = table.get("sources", list, "an array of stem names", ...)
    for stem in sources:
        if not isinstance(stem, str) or not _STEM.fullmatch(stem):
            raise table.fail("sources", f"has {stem!r}, which is no stem name", "Use a-z, 0-9, '_' and '-'.")
        if sources.count(stem) > 1:
            raise table.fail("sources", f"has '{stem}' twice")
    if not sources and "min_query" not in table.values:
        raise table.fail(
            "sources",
            "is empty",
            "Name the stems in the order of the network's outputs; only a "
            "model of queries (`min_query`) may have none of its own.",
        )
    return tuple(sources)


def _members(table: _Table, sources: tuple[str, ...]) -> tuple[Member, ...]:
    """A bag's [[members]], or the one network whose file is `files.model`."""
    listed = table.table("files")
    files = {key: _file(key, listed.table(key)) for key in listed.values}
    arch, config = table.text("arch", ""), _config(table)
    used: set[str] = set()
    members = []
    for member in table.tables("members") or [_Table(table.path, table.where, {"file": "model"})]:
        key = member.text("file", ...)
        if key not in files:
            raise member.fail("file", f"names '{key}', but `files` has {', '.join(files) or 'nothing'}")
        used.add(key)
        if not (own_arch := member.text("arch", arch)):
            raise member.fail("arch", "is missing", "Add it here or to the entry: the name of the network.")
        weights = _weights(member, sources)
        members.append(Member(files[key], own_arch, MappingProxyType({**config, **_config(member)}), weights))
        member.finish()
    if unused := [key for key in files if key not in used]:
        raise listed.fail(unused[0], "is a file that no member uses", "Name it in [[members]] or remove it.")
    for index, stem in enumerate(sources):
        if not any(member.weights is None or member.weights[index] for member in members):
            raise table.fail("members", f"no member has a weight for the stem '{stem}'")
    return tuple(members)


def _weights(member: _Table, sources: tuple[str, ...]) -> tuple[float, ...] | None:
    values = member.get("weights", dict, "a table of stems and numbers")
    if values is None:
        return None
    for stem, value in values.items():
        if stem not in sources:
            raise member.fail("weights", f"names '{stem}', but the model's stems are {', '.join(sources)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise member.fail("weights", f"gives '{stem}' {value!r}, but must give a number of at least 0")
    return tuple(float(values.get(stem, 0)) for stem in sources)


def _config(table: _Table) -> dict[str, Any]:
    config = table.get("config", dict, "a table", {})
    return {
        key: _seconds(table, "config.segment", value) if key == "segment" else _frozen(value)
        for key, value in config.items()
    }


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _seconds(table: _Table, key: str, value: Any) -> float | Fraction | None:
    """A number of seconds, or "39/5" as the exact fraction."""
    if value is None:
        return None
    if isinstance(value, str) and (match := _FRACTION.fullmatch(value)):
        value = Fraction(int(match[1]), int(match[2]))
    if isinstance(value, str | bool) or not isinstance(value, int | float | Fraction) or not value > 0:
        raise table.fail(key, f'is {value!r}, but must be seconds above 0, or a fraction such as "39/5"')
    return value


def _score(table: _Table, sources: tuple[str, ...]) -> Score:
    stems = table.get("stems", dict, "a table of stems and numbers", {})
    for stem, value in stems.items():
        if stem not in sources or isinstance(value, bool) or not isinstance(value, int | float):
            raise table.fail("stems", f"has `{stem} = {value!r}`; the stems are {', '.join(sources)}")
    score = Score(
        metric=table.text("metric", ...),
        set=table.text("set", ...),
        value=table.get("value", (int, float), "a number", ...),
        by=table.text("by", ...),
        stems=MappingProxyType(dict(stems)),
        note=table.text("note"),
    )
    if score.by not in ("published", "ours"):
        raise table.fail("by", f"is '{score.by}', but must be 'published' or 'ours'")
    table.finish()
    return score


def _file(name: str, table: _Table, *, fallback: bool = False) -> WeightFile:
    file = WeightFile(
        name=name,
        repo=table.text("repo", None),
        revision=table.get("revision", str, "a full commit"),
        path=table.text("path", None),
        url=table.text("url", None),
        package=table.text("package", None),
        bytes=table.integer("bytes", least=1),
        sha256=table.hexadecimal("sha256", 64, 64),
        sha256_prefix=table.hexadecimal("sha256_prefix", 8, 63),
        git_sha1=table.hexadecimal("git_sha1", 40, 40),
    )
    if sum(source is not None for source in (file.repo, file.url, file.package)) != 1:
        raise table.fail(name, "needs exactly one of `repo`, `url` and `package`")
    if file.repo is not None:
        if not _REPO.fullmatch(file.repo):
            raise table.fail("repo", f"is '{file.repo}', but must be 'owner/name'")
        if not re.fullmatch("[0-9a-f]{40}", file.revision or ""):
            raise table.fail(
                "revision",
                f"is '{file.revision}', but must be a full commit of 40 lower-case hexadecimal digits"
                if file.revision
                else "is missing",
                "A branch or tag can change under its name; the hub shows a file's commit in its history.",
            )
        if not file.path or ".." in file.path.split("/") or file.path.startswith("/"):
            raise table.fail("path", f"is {file.path!r}, but must be a file inside the repository")
    elif file.revision is not None or file.path is not None:
        raise table.fail("path" if file.path else "revision", "belongs to a hub `repo`, which is missing")
    if file.url is not None and not re.match(r"https?://[^/]+/.+", file.url):
        raise table.fail("url", f"is '{file.url}', but must be an http or https address of a file")
    if file.package is not None and (".." in file.package.split("/") or file.package.startswith("/")):
        raise table.fail("package", f"is '{file.package}', but must be a file inside the package")
    if file.sha256 and file.sha256_prefix and not file.sha256.startswith(file.sha256_prefix):
        raise table.fail("sha256_prefix", "contradicts `sha256`")
    table.asked |= set() if fallback else {"fallback"}
    if "fallback" in table.asked and "fallback" in table.values:
        file = replace(file, fallback=_file(name, table.table("fallback"), fallback=True))
    table.finish()
    return file
