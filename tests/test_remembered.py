"""What is kept between runs: a fact counts only under its own circumstances, and a bad file costs nothing."""

from __future__ import annotations

import pytest

from sepcli.errors import ModelError
from sepcli.system.remembered import recall, remember
from sepcli.weights import entryfile
from sepcli.weights.entryfile import remembered_entries

MODEL = """
[{name}]
family = "bandsplit"
arch = "BandSplit"
sources = ["drums", "other"]
samplerate = 44100
channels = 2
files.model = {{ package = "x", bytes = 1 }}
"""


def test_a_fact_counts_under_its_own_circumstances(tmp_path):
    file = tmp_path / "new folder" / "fact.json"
    assert recall(file, ["a", 1]) is None
    remember(file, ["a", 1], {"speed": 2.5})
    assert recall(file, ["a", 1]) == {"speed": 2.5}
    assert recall(file, ["a", 2]) is None
    remember(file, ["a", 2], 3)
    assert (recall(file, ["a", 1]), recall(file, ["a", 2])) == (None, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"fact": 1}', b"\xff", b"null"])
def test_a_damaged_file_knows_nothing(tmp_path, content):
    file = tmp_path / "fact.json"
    file.write_bytes(content)
    assert recall(file, None) is None


def test_where_nothing_can_be_kept_nothing_fails(tmp_path):
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "fact.json", 1, 2)
    assert recall(tmp_path / "file" / "fact.json", 1) is None


def test_a_catalogue_that_was_understood_is_not_read_again(tmp_path, monkeypatch):
    path, memory = tmp_path / "weights.toml", tmp_path / "kept.json"
    path.write_text("".join(MODEL.format(name=name) for name in ("one", "two")))

    def entries():
        remembered_entries.cache_clear()
        entryfile._tables.cache_clear()
        status = path.stat()
        return remembered_entries(path, status.st_mtime_ns, status.st_size, memory)

    read = entries()
    with monkeypatch.context() as patch:
        patch.setattr(entryfile, "entry_tables", None)  # a call would fail
        assert dict(entries()) == dict(read) and list(read) == ["one", "two"]
    memory.write_text("{")
    assert dict(entries()) == dict(read)
    path.write_text(MODEL.format(name="three"))
    assert list(entries()) == ["three"]
    path.write_text(MODEL.format(name="four") + "colour = 1\n")
    with pytest.raises(ModelError, match=r"\[four.*colour"):
        entries()
    assert "four" not in memory.read_text()
