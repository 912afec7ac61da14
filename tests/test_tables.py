"""TOML tables become dataclasses, and what is not understood is refused by its place."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from sepcli.system.tables import TableError, read_table


@dataclass(frozen=True)
class Part:
    file: str
    weight: float | None = None


@dataclass(frozen=True)
class Thing:
    name: str
    count: int = 1
    rate: float = 1.0
    good: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    anything: Any = None
    inner: Part | None = None


def read(text: str) -> Thing:
    return read_table(Thing, tomllib.loads(text), key="thing")


def test_every_type_a_field_may_have():
    text = """
    name = "x"
    count = 3
    rate = 2
    good = true
    pair = [1, 0.5]
    parts = [{ file = "a" }, { file = "b", weight = 2 }]
    named.one = { file = "c" }
    renamed = { a = "b" }
    free = { deep = [1, { more = "text" }] }
    anything = 1979-05-27
    inner = { file = "d" }
    """
    thing = read(text)
    assert (thing.name, thing.count, thing.rate, thing.good, thing.pair) == ("x", 3, 2.0, True, (1.0, 0.5))
    assert isinstance(thing.rate, float) and isinstance(thing.pair[0], float)
    assert thing.parts == (Part("a"), Part("b", 2.0)) and thing.named == {"one": Part("c")}
    assert thing.renamed == {"a": "b"} and thing.free == {"deep": [1, {"more": "text"}]}
    assert str(thing.anything) == "1979-05-27" and thing.inner == Part("d")
    assert read('name = "x"') == Thing("x")


@pytest.mark.parametrize(
    ("text", "where", "key", "fact"),
    [
        ("count = 'x'", "thing", "count", "is 'x', but must be a whole number"),
        ("count = 1.5", "thing", "count", "is 1.5, but must be a whole number"),
        ("count = true", "thing", "count", "is True, but must be a whole number"),
        ("rate = true", "thing", "rate", "is True, but must be a number"),
        ("good = 1", "thing", "good", "is 1, but must be true or false"),
        ("pair = [1]", "thing", "pair", "is [1], but must be a list of 2"),
        ("pair = [1, 'x']", "thing", "pair[1]", "is 'x', but must be a number"),
        ("parts = 'a'", "thing", "parts", "is 'a', but must be a list"),
        ("parts = ['a']", "thing", "parts[0]", "is 'a', but must be a table"),
        ("parts = [{file = 'a'}, {file = 2}]", "thing.parts[1]", "file", "is 2, but must be text"),
        ("named = {a = {weight = 1}}", "thing.named.a", "file", "is missing"),
        ("renamed = {a = 1}", "thing.renamed", "a", "is 1, but must be text"),
        ("inner = {file = 'a', weight = 'x'}", "thing.inner", "weight", "is 'x', but must be a number"),
        ("colour = 'red'", "thing", "colour", "is not a key of this table"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, where, key, fact):
    with pytest.raises(TableError) as failure:
        read(f"name = 'x'\n{text}")
    error = failure.value
    assert (error.where, error.key, error.fact) == (where, key, fact)
    assert error.path == f"{where}.{key}" and str(error) == f"{where}.{key} {fact}."


def test_a_misspelt_key_is_told_with_the_near_ones():
    with pytest.raises(TableError) as failure:
        read("name = 'x'\ncuont = 1")
    assert failure.value.remedy.startswith("Did you mean count? It may have anything, count, free, good,")
    with pytest.raises(TableError) as failure:
        read("nmae = 'x'")
    assert failure.value.key == "name" and failure.value.remedy == "Add it (text) or correct nmae."


def test_a_table_at_the_top_has_no_place():
    with pytest.raises(TableError) as failure:
        read_table(Part, {"file": 1})
    assert failure.value.path == "file"
    with pytest.raises(TableError, match=r"^thing is 3, but must be a table\.$"):
        read_table(Part, 3, key="thing")
