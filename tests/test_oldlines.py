"""Manifests too long for memory: what is looked up in the file is what reading all of it would tell."""

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from sepcli.batch import manifest, oldlines
from sepcli.batch.lines import InputId, Output, Record
from sepcli.batch.manifest import MANIFEST_NAME, Manifest

NAMES = (
    "song",
    "Übung",
    "夜に駆ける",
    'a "quoted" one',
    "back\\slash",
    os.fsdecode(b"caf\xe9"),
    "tab\there",
    "path",
    "é",
)
RUNS = ("alive", "dead")
STEMS = ("vocals", "drums", "path", "size")  # stems may have the names of fields
SETTINGS = {hashed: {"path": hashed, "size": 1} for hashed in "st"}


def output_of(name, stem):
    return f"duo/{name}/{stem}.wav"


def input_of(draw):
    number = draw.randrange(len(NAMES))
    return InputId(f"/music/{NAMES[number]}.wav", 100 + draw.randrange(4), 7, f"{draw.randrange(6):064}")


def settings_line(hashed):
    return {"kind": "settings", "settings": hashed, "made_with": SETTINGS[hashed]}


def some_line(draw):
    """A parsed line of any kind, about few paths, so that later lines speak of those of earlier ones."""
    kind = draw.choice(("settings", "claim", "begin", "done", "done", "input"))
    name, stems = draw.choice(NAMES), draw.sample(STEMS, draw.randint(1, 3))
    paths = [output_of(name, stem) for stem in stems]
    if kind == "settings":
        return settings_line(draw.choice("st"))
    if kind == "claim":
        return {"kind": kind, "outputs": paths, "by": draw.choice((RUNS[name < "e"], ""))}
    if kind == "input":
        return {"kind": kind, "input": asdict(input_of(draw))}
    made = [draw.choice(("m1", "m2", "")) for _ in paths]
    outputs = [Output(stem, path, 5, 9, each) for stem, path, each in zip(stems, paths, made, strict=True)]
    settings = draw.choice("st")
    line = {"kind": kind, "settings": settings, "input": asdict(input_of(draw))}
    line |= {"outputs": list(map(asdict, outputs)), "gain": draw.choice((1, 0.5))}
    return line | ({"made_with": SETTINGS[settings]} if draw.random() < 0.3 else {})  # as older versions wrote


def spelled(draw, line):
    """As we write it, nearly always; as other programs and people do; or damaged."""
    ours = json.dumps(line).encode()
    at = draw.randrange(len(ours))
    others = (
        json.dumps(line, separators=(",", ":")).encode(),
        json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        json.dumps(line, sort_keys=True).encode(),
        ours.replace(b'"path": ', b'"path" : ').replace(b'"by": ', b'"by":'),
        ours.replace(b"/", b"\\/").replace(b"\\u00e9", b"\\u00E9"),
        ours.replace(b"vocals", b"v\\u006fcals").replace(b"path", b"p\\u0061th"),
        ours[:at],  # torn
        ours[at:],
        ours[:at] + bytes([draw.randrange(256)]) + ours[at + 1 :],
        ours + b"\r",
        ours + b"\n" + ours,
        b"",
        b"[[]]",
        b'{"kind": "done"}',
        b'{"kind": "done", "input": 5, "outputs": 5}',
        b'{"kind": "claim", "outputs": [{}], "by": {}}',
        b"\x00" * 50,
    )
    # Damaged settings may name others: lines before and after would then differ in memory, and not in the file.
    others = others[:6] if line["kind"] == "settings" else others
    return (draw.choice(others) if draw.random() < 0.1 else ours) + b"\n"


def opened(folder, patch, *, old):
    """The manifest with all but the newest lines in the file, or all of them in memory."""
    patch.setattr(manifest, "IN_MEMORY", 1000 if old else 1 << 40)
    return Manifest(folder)


def said(known):
    """Everything that a manifest says."""
    paths = [known.folder / output_of(*pair) for pair in itertools.product(NAMES, STEMS)]
    hashed = []
    records = [known.record_of(path) for path in paths]
    return {
        "records": records,
        "recent": [record and record.recent for record in records],
        "all": [known._records(known.relative(path)) for path in paths],
        "standing": [known.standing(path) for path in paths],
        "made": [known.made(made, f"{digest:064}") for made in ("m1", "m2", "m3") for digest in range(6)],
        "inputs": [
            known.identify_as(f"/music/{name}.wav", size, 7, lambda: hashed.append("") or "?")
            for name in NAMES
            for size in range(100, 104)
        ],
        "hashed": len(hashed),
        "claims": {path: by for path, by in known._claims.items() if by == "alive"},
    }


def may_have(known):
    return [known.may_have(made, size) for made in ("m1", "m2", "m3", "") for size in range(98, 106)]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_looked_up_is_what_reading_all_would_tell(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    monkeypatch.setattr(oldlines, "BLOCK", draw.choice((1, 500, 5000)))
    monkeypatch.setattr(oldlines, "BLOCKS_KEPT", draw.choice((1, 5)))
    (tmp_path / "alive").mkdir()  # the work folder of a run
    for name, stem in itertools.product(NAMES[:5], STEMS):
        path = tmp_path / output_of(name, stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345"[: draw.randint(4, 5)])
        os.utime(path, ns=(9, 9))
    file = tmp_path / MANIFEST_NAME
    file.write_text("".join(json.dumps(settings_line(hashed)) + "\n" for hashed in SETTINGS))
    each = {old: opened(tmp_path, monkeypatch, old=old) for old in (False, True)}
    for _ in range(4):
        with open(file, "ab") as manifest_file:
            for _ in range(draw.randrange(60)):
                manifest_file.write(spelled(draw, some_line(draw)))
            torn = json.dumps(some_line(draw)).encode()
            at = draw.randrange(len(torn))
            manifest_file.write(torn[:at])
            manifest_file.flush()
            for old, known in each.items():
                monkeypatch.setattr(manifest, "IN_MEMORY", 1000 if old else 1 << 40)
                known.refresh()
            assert said(each[True]) == said(each[False])
            manifest_file.write(torn[at:] + b"\n")  # it was not torn, but being written
        for old, known in each.items():
            monkeypatch.setattr(manifest, "IN_MEMORY", 1000 if old else 1 << 40)
            known.refresh()
        afresh = {old: opened(tmp_path, monkeypatch, old=old) for old in (False, True)}
        for known in (each, afresh):
            assert said(known[True]) == said(known[False])
            for perhaps, surely in zip(may_have(known[True]), may_have(known[False]), strict=True):
                assert perhaps or not surely
    assert each[True]._old.end  # some were left in the file


def lines_of(number):
    """The three lines of a track of four stems, as long as real ones; those of the first have the settings."""
    name = f"{number:07}"
    identity = InputId(
        f"/music/albums/{number // 10:05}/{name}.wav", 30_000_000 + number, number, f"{number:064}"
    )
    levels = {"peak_db": -1.2345, "rms_db": -20.123, "loudness_lufs": -14.2, "silent": 0.1234}
    outputs = tuple(
        Output(stem, f"duo/{number // 10:05}/{name}/{stem}.wav", number, number, f"{at:016}", levels)
        for at, stem in enumerate(("drums", "bass", "other", "vocals"))
    )
    record = Record(False, "s" * 16, identity, outputs)
    about = {"gain": 1.0, "seconds": 12.345}
    if number == 0:
        made_with = {f"setting{at}": "value" for at in range(40)}
        yield {"kind": "settings", "settings": record.settings, "made_with": made_with}
    yield {"kind": "claim", "outputs": [output.path for output in outputs], "by": ".sepcli-work-abcdefgh"}
    for each in (record, replace(record, done=True)):
        yield {"kind": "done" if each.done else "begin", "settings": each.settings, **of(each), **about}


def of(record):
    return {"input": asdict(record.input), "outputs": [asdict(output) for output in record.outputs]}


def write_manifest(folder, tracks):
    with open(folder / MANIFEST_NAME, "w") as file:
        for number in range(tracks):
            for line in lines_of(number):
                file.write(json.dumps(line) + "\n")


OPENING = """
import resource, sys
from pathlib import Path
import numpy
from sepcli.batch.manifest import Manifest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest = Manifest(Path(sys.argv[1]))
for number in range(0, int(sys.argv[2]), 97):
    path = manifest.folder / f"duo/{number // 10:05}/{number:07}/bass.wav"
    assert manifest.record_of(path).input.sha256 == f"{number:064}"
    assert manifest.record_of(path.with_name("none.wav")) is None
    assert len(manifest.record_of(path).made_with) == 40
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
def test_a_long_manifest_takes_little_memory(tmp_path):
    """200,000 lines. As records they took 500 MB."""
    tracks = 66_667
    write_manifest(tmp_path, tracks)
    found = subprocess.run(
        [sys.executable, "-c", OPENING, str(tmp_path), str(tracks)], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 60_000  # kB


def test_a_manifest_that_vanishes_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(oldlines, "BLOCK", 1000)
    write_manifest(tmp_path, 20)
    known = opened(tmp_path, monkeypatch, old=True)
    path = tmp_path / "duo/00000/0000003/bass.wav"
    assert known.record_of(path) is not None
    (tmp_path / MANIFEST_NAME).unlink()
    assert known.record_of(path.parent.with_name("0000005") / "bass.wav") is None


def test_claims_of_living_runs_are_known_from_long_manifests(tmp_path, monkeypatch):
    paths = [tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.wav"]
    (tmp_path / "one").mkdir()
    first = Manifest(tmp_path)
    for path in paths:
        assert first.claim([path], "one", bool) is None
    first.release(paths[1:2])
    first.add(Record(True, "s", InputId("/c", 1, 1, "c"), (Output("c", "c.wav", 1),)))
    with open(tmp_path / MANIFEST_NAME, "a") as file:
        for line in itertools.chain(*map(lines_of, range(20))):
            file.write(json.dumps(line) + "\n")
    other = opened(tmp_path, monkeypatch, old=True)
    assert other._old.end
    assert other.claim(paths[:1], "two", {"one", "two"}.__contains__) == "one"
    assert other.claim(paths[1:], "two", {"one", "two"}.__contains__) is None
