"""The tables of a TOML file as dataclasses, read strictly: what is not understood is refused.

Knows no file of ours. A dataclass says which keys a table may have, of which types, and which of them may be
left out; a field that is a dataclass is a table inside it. Whoever reads a file turns a TableError into the
sentence that names the file.

    [optim]             @dataclass
    name = "adam"       class Optim:
    lrr = 1e-3              name: str
                            lr: float = 3e-4        optim.lrr: is not a key of this table. Did you mean lr?
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from sepcli.errors import did_you_mean, near

T = TypeVar("T")

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table",
    Mapping: "a table",
}


class TableError(ValueError):
    """A key of a table that is wrong. The message is its place and the fact; `remedy` the next step, or "".

    where: the table, such as "toy.files.model" or "toy.scores[0]"; "" for the file's top level. fact: what is
    the case, without its subject and full stop: "is missing".
    """

    def __init__(self, where: str, key: str, fact: str, remedy: str = ""):
        self.where, self.key, self.fact, self.remedy = where, key, fact, remedy
        super().__init__(f"{self.path} {fact}.")

    @property
    def path(self) -> str:
        """Table and key in one: "toy.files.model.bytes"."""
        return f"{self.where}.{self.key}".lstrip(".")


def read_table(kind: type[T], values: Any, where: str = "", key: str = "") -> T:
    """`values`, a table as tomllib gives it, as a `kind`; TableError for what it can't have.

    kind: a dataclass whose fields are bool, int, float, str, Any, tuples, dicts and dataclasses, or one
    of these and None. An array becomes a tuple, and a whole number a float where that is wanted.
    where, key: the table's place, for the error: the tables around it, and its name.
    """
    if not isinstance(values, Mapping):
        raise _wrong(where, key, values, "a table")
    where = f"{where}.{key}".strip(".")
    hints = _hints(kind)
    unknown = [key for key in values if key not in hints]
    for field in dataclasses.fields(typing.cast(Any, kind)):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            typo = "".join(f" or correct {key}" for key in near(field.name, unknown)[:1])
            raise TableError(where, field.name, "is missing", f"Add it ({_words(hints[field.name])}){typo}.")
    if unknown:
        guess, allowed = did_you_mean(unknown[0], hints), f"It may have {', '.join(sorted(hints))}."
        raise TableError(where, unknown[0], "is not a key of this table", f"{guess} {allowed}".lstrip())
    return kind(**{key: _convert(hints[key], value, where, key) for key, value in values.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass' fields by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """A value of TOML as the type that its field has."""
    if value is None and type(None) in typing.get_args(hint):  # TOML has none, but a caller may
        return None
    hint, origin, inner, is_table = _parts(hint)
    if hint is Any:
        return value
    if is_table:
        return read_table(hint, value, where, key)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_convert(kind, item, where, f"{key}[{i}]") for i, (kind, item) in pairs)
    elif (origin or hint) in (dict, Mapping) and isinstance(value, Mapping):
        kind, place = inner[1] if inner else Any, f"{where}.{key}".lstrip(".")
        return {name: _convert(kind, item, place, name) for name, item in value.items()}
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif origin is None and isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise _wrong(where, key, value, _words(hint))


@cache  # thousands of values have a few types
def _parts(hint: Any) -> tuple[Any, Any, tuple[Any, ...], bool]:
    """A type without None, what it is made of, and whether it is a dataclass."""
    hint = _not_none(hint)
    is_table = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    return hint, typing.get_origin(hint), typing.get_args(hint), is_table


def _not_none(hint: Any) -> Any:
    """`X | None` -> X; any other type as it is."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    (kind,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
    return kind


def _words(hint: Any) -> str:
    """A type in words: "a number"."""
    hint = _not_none(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return "a list" if inner[-1] is ... else f"a list of {len(inner)}"
    return _WORDS.get(origin or hint, "a table" if dataclasses.is_dataclass(hint) else "a value")


def _wrong(where: str, key: str, value: Any, words: str) -> TableError:
    return TableError(where, key, f"is {value!r}, but must be {words}")


def at_least(least: int, value: int, where: str, key: str) -> None:
    """TableError where a value is smaller."""
    if value < least:
        raise TableError(where, key, f"is {value}, but must be at least {least}")
