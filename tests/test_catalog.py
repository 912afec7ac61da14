"""weights.toml as entries: what is read, what is refused, and what the bundled file promises."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from fractions import Fraction

import pytest

from sepcli.errors import ModelError, SepcliWarning, UsageError, near
from sepcli.weights import catalog
from sepcli.weights.catalog import load_catalog, read_catalog
from sepcli.weights.entries import CHECKS

DEMUCS = "htdemucs htdemucs_ft htdemucs_6s hdemucs_mmi mdx mdx_extra mdx_q mdx_extra_q repro_mdx_a".split()
NAMES = ["mini", "duo-vocals", "duo-band", "duo", *DEMUCS]
SHA = "0123456789abcdef" * 4
COMMIT = "0123456789" * 4

SINGLE = f"""
[toy]
family = "demucs"
arch = "HDemucs"
sources = ["drums", "vocals"]
samplerate = 44100
channels = 2

[toy.config]
segment = "39/5"
depth = 2
multi_freqs = [0.1, 0.3]

[toy.files.model]
repo = "owner/name"
revision = "{COMMIT}"
path = "deep/model.safetensors"
bytes = 10
sha256 = "{SHA}"
fallback = {{ url = "https://example.org/a/model.th?x=1", sha256_prefix = "01234567" }}
"""

BAG = """
[bag]
family = "demucs"
arch = "HDemucs"
sources = ["drums", "bass", "vocals"]
samplerate = 44100
channels = 2
segment = 44
config = { depth = 3, channels = 8 }
files.a = { url = "https://example.org/a.th", bytes = 5, sha256_prefix = "01234567" }
files.b = { url = "https://example.org/b.th", bytes = 7 }
files.c = { package = "weights/c.safetensors" }
members = [
    { file = "a", weights = { drums = 1, bass = 0.5 } },
    { file = "b", arch = "Demucs", config = { depth = 4 }, weights = { bass = 2 } },
    { file = "c", weights = { vocals = 1 } },
]
"""


# voice: vocals, music. toy: drums, bass out of the music.
CHAIN = (
    SINGLE.replace("toy", "voice").replace('["drums", "vocals"]', '["vocals"]\ncounterpart = "music"\ncost = 2')
    + SINGLE.replace('"vocals"', '"bass"').replace("channels = 2", "channels = 2\ncost = 3.5")
    + """
[both]
chain = [{ model = "voice" }, { model = "toy", of = "music" }]
license = "MIT"
[[both.scores]]
metric = "SDR"
set = "S"
by = "ours"
stems = { bass = 5.0 }
"""
)


BLEND = (
    CHAIN[: CHAIN.index("[both]")]
    + """[both]
models = [{ model = "voice", weight = 2 }, { model = "toy", weights = { bass = 3 } }]
blend = "avg_fft"
"""
)


@pytest.fixture(autouse=True)
def only_the_bundled_catalogue(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SEPCLI_CATALOG", raising=False)


@pytest.fixture
def write(tmp_path):
    def write(text, name="catalog.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- what is read ---


def test_a_single_model(write):
    entry = read_catalog(write(SINGLE))["toy"]
    (member,) = entry.members
    assert member.arch == "HDemucs" and member.weights is None
    assert member.config == {"segment": Fraction(39, 5), "depth": 2, "multi_freqs": (0.1, 0.3)}
    assert member.file.source == f"hf://owner/name@{COMMIT}/deep/model.safetensors"
    assert member.file.filename == "model.safetensors" and member.file.check == "full"
    assert member.file.fallback.filename == "model.th" and member.file.fallback.check == "prefix"
    assert (entry.size, entry.check, entry.segment, entry.license) == (10, "full", None, "unspecified")


def test_aliases(write):
    """They are found as names are, but not listed; a model of that name goes before them."""
    toy, other = (
        SINGLE.replace("[toy]", '[toy]\naliases = ["toy:small", "other"]'),
        SINGLE.replace("[toy", "[other"),
    )
    entries = load_catalog([write(toy)])
    assert entries["toy:small"] is entries.find("other") is entries["toy"] and "toy:small" in entries
    assert "toy:small" not in list(entries) and "toy" in list(entries)
    assert load_catalog([write(toy), write(other, "other.toml")])["other"].name == "other"
    with pytest.raises(ModelError, match="Did you mean toy:small"):
        entries.find("toy:smal")
    assert load_catalog()["spleeter:4stems"].name == "spleeter-4stems"


def test_a_file_in_an_archive(write):
    """Its own hash is as good as the archive's."""
    inside = f'member = "a/model.index"\nmember_sha256 = {{ "a/model.index" = "{SHA}" }}'
    (member,) = read_catalog(write(SINGLE.replace(f'sha256 = "{SHA}"', inside)))["toy"].members
    assert (member.file.member, member.file.check) == ("a/model.index", "full")
    assert member.file.member_sha256 == (("a/model.index", SHA),)


def test_like_takes_the_network_and_nothing_else(write):
    text = SINGLE.replace("[toy]", '[toy]\nlicense = "MIT"\npurpose = "x"\nlisted = 3\ncost = 5.5')
    text += '[other]\nlike = "toy"\nconfig = { depth = 3 }\nsources = ["vocals"]\ncounterpart = "rest"\n'
    text += f'files.model = {{ hf = "a/b@{COMMIT}/c/d.ckpt", sha256 = "{SHA}", '
    text += f'mirrors = ["https://e.org/x.ckpt", "hf://a/c@{COMMIT}/e.ckpt"] }}\n'
    text += '[third]\nlike = "other"\nfiles.model.url = "https://e.org/y"\n'
    fourth = '[fourth]\nlike = "toy"\nfiles.model.url = "https://e.org/y"\n'
    entries = read_catalog(write(text))
    toy, other, third = entries.values()
    assert dict(other.members[0].config) == dict(toy.members[0].config) | {"depth": 3}
    assert dict(third.members[0].config) == dict(other.members[0].config)
    assert (other.license, other.purpose, other.listed, other.cost) == ("unspecified", "", None, None)
    assert third.cost is None and read_catalog(write(text + fourth))["fourth"].cost == 5.5
    assert third.sources == other.sources == ("vocals", "rest") and third.own_sources == ("vocals",)
    (file,) = other.files
    assert file.source == f"hf://a/b@{COMMIT}/c/d.ckpt" and file.filename == "d.ckpt"
    assert [mirror.source for mirror in file.mirrors] == ["https://e.org/x.ckpt", f"hf://a/c@{COMMIT}/e.ckpt"]
    assert {mirror.sha256 for mirror in file.sources} == {SHA}


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ('like = "later"', "[it], `like`", "stands above it"),
        ('like = "toy"\nconfig = 1', "[it], `config`", "must be a table"),
        ('like = "toy"\ncounterpart = "x"', "[it], `counterpart`", "one stem"),
        ('like = "toy"\nsources = ["x"]\ncounterpart = "x"', "[it], `counterpart`", "one stem"),
        ('like = "toy"\ntask = "singing"', "[it], `task`", "must be one of separation, karaoke"),
        ('like = "toy"\nfiles.model.mirrors = ["https://e.org/z"]', "[it.files.model]", "whole file"),
        (f'like = "toy"\nfiles.model.mirrors = ["x"]\nfiles.model.md5 = "{SHA[:32]}"', "`url`", "http"),
        (
            f'like = "toy"\nfiles.model.mirrors = ["hf://a/b/c"]\nfiles.model.md5 = "{SHA[:32]}"',
            "`mirrors`",
            "@",
        ),
        (f'like = "toy"\nfiles.model.md5 = "{SHA[:31]}"', "`md5`", "32 lower-case"),
        ('like = "toy"\nfiles.model.hf = "a/b@main/c"', "`hf`", "beside"),
        ('like = "toy"\nscores = [{ metric = "m", set = "s", by = "ours" }]', "scores[0]", "figures"),
    ],
)
def test_a_mistake_in_what_is_new(write, line, place, words):
    line += "" if "hf =" in line or "files" not in line else '\nfiles.model.url = "https://e.org/y"'
    more = "\nfiles.model.repo = 'a/b'" if "hf =" in line else ""
    files = "" if "files" in line else '\nfiles.model.url = "https://e.org/y"'
    with pytest.raises(ModelError) as failure:
        read_catalog(write(f"{SINGLE}\n[it]\n{line}{files}{more}\n[later]\n"))
    assert place in failure.value.message and words in str(failure.value)


def test_a_bag(write):
    entry = read_catalog(write(BAG))["bag"]
    assert [member.weights for member in entry.members] == [(1, 0.5, 0), (0, 2, 0), (0, 0, 1)]
    assert [member.arch for member in entry.members] == ["HDemucs", "Demucs", "HDemucs"]
    assert [dict(member.config) for member in entry.members] == [
        {"depth": 3, "channels": 8},
        {"depth": 4, "channels": 8},
        {"depth": 3, "channels": 8},
    ]
    assert entry.size is None and entry.check == "none" and entry.segment == 44


@pytest.mark.parametrize(
    ("targets", "files"),
    [(None, "abc"), ([], ""), (["drums"], "a"), (["bass"], "ab"), (["vocals", "drums"], "ac"), (["piano"], "")],
)
def test_only_the_members_that_the_targets_need(write, targets, files):
    entry = read_catalog(write(BAG))["bag"]
    assert "".join(member.file.name for member in entry.members_for(targets)) == files
    assert "".join(file.name for file in entry.files_for(targets)) == files


def test_parts_of_one_network(write):
    """All of them, whatever the stems: the network makes these together."""
    bag = BAG.partition("members = [")[0].replace("segment = 44", "segment = 44\njoined = true")
    entry = read_catalog(write(bag))["bag"]
    assert entry.joined and [member.arch for member in entry.members] == ["HDemucs"] * 3
    assert "".join(member.file.name for member in entry.members_for(["bass"])) == "abc"
    like = read_catalog(write(f'{bag}\n[other]\nlike = "bag"\nfiles.a.url = "https://e.org/x"'))["other"]
    assert like.joined and len(like.members) == 1
    with pytest.raises(ModelError, match="`members`: are several networks"):
        read_catalog(write(BAG.replace("segment = 44", "joined = true")))


def test_entries_are_frozen(write):
    entry = read_catalog(write(SINGLE))["toy"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"
    with pytest.raises(TypeError):
        entry.members[0].config["depth"] = 9
    assert hash(entry.files[0]) == hash(read_catalog(write(SINGLE, "again.toml"))["toy"].files[0])


def test_later_catalogues_replace_whole_entries(write, monkeypatch):
    def toy(segment):
        return SINGLE.replace("channels = 2", f"channels = 2\nsegment = {segment}")

    user = write(toy(1) + toy(1).replace("toy", "user"), "config/sepcli/catalog.toml")
    monkeypatch.setattr(catalog, "user_catalog", lambda: user)
    monkeypatch.setenv(
        "SEPCLI_CATALOG",
        os.pathsep.join(
            [
                str(write(toy(2), "two.toml")),
                "",
                str(write(toy(3) + toy(3).replace("toy", "env"), "three.toml")),
            ]
        ),
    )
    last = write(toy(4), "four.toml")
    assert load_catalog()["toy"].segment == 3
    found = load_catalog([last])
    assert [found[name].segment for name in ("toy", "user", "env")] == [4, 1, 3]
    assert found["toy"].catalog_path == last and found["htdemucs"].catalog_path.name == "weights.toml"


@pytest.mark.parametrize(
    ("platform", "place"),
    [("linux", "xdg/sepcli"), ("darwin", "home/Library/Application Support/sepcli"), ("win32", "roam/sepcli")],
)
def test_the_users_folder_follows_the_platform(monkeypatch, tmp_path, platform, place):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "roam"))
    assert catalog.user_catalog() == tmp_path / place / "catalog.toml"


def test_a_changed_file_is_read_again(write):
    path = write(SINGLE)
    assert read_catalog(path)["toy"].channels == 2
    path.write_text(SINGLE.replace("channels = 2", "channels = 12"))
    assert read_catalog(path)["toy"].channels == 12


# --- catalogues of installed packages ---


@pytest.fixture
def install(write, monkeypatch, tmp_path):
    """Makes a package that brings catalogues: {entry point: (its value, the TOML file's text)}."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(package, **points):
        group = "".join(f"{name} = {value}\n" for name, (value, _) in points.items())
        write(f"Metadata-Version: 2.1\nName: {package}\n", f"site/{package}-1.0.dist-info/METADATA")
        write(f"[sepcli.catalogs]\n{group}", f"site/{package}-1.0.dist-info/entry_points.txt")
        write("raise ImportError('this package is not to be run')", f"site/{package}/__init__.py")
        for value, text in points.values():
            if text is not None:
                write(text, f"site/{package}/{value.partition(':')[2]}")

    return install


def with_channels(name, channels):
    return SINGLE.replace("toy", name).replace("channels = 2", f"channels = {channels}")


def test_an_installed_package_brings_a_catalogue(install, write, monkeypatch):
    install("pack", two=("pack:more.toml", with_channels("toy", 2) + with_channels("mini", 2)))
    install(
        "other", one=("other:a.toml", with_channels("toy", 1)), three=("other:b.toml", with_channels("b", 1))
    )
    entries = load_catalog()
    assert entries["mini"].members[0].arch == "HDemucs"  # it replaces the bundled one
    assert (
        entries["toy"].channels == 2 and entries["b"].channels == 1
    )  # by the entry points' names: two is later
    assert entries["toy"].catalog_path.name == "more.toml" and "pack" not in sys.modules
    user = write(with_channels("toy", 7), "config/sepcli/catalog.toml")
    monkeypatch.setattr(catalog, "user_catalog", lambda: user)
    assert load_catalog()["toy"].channels == 7


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        ("bad:gone.toml", None, "gone.toml' does not exist"),
        ("bad:it.toml", "[toy\n", "is not TOML"),
        ("bad:it.toml", SINGLE.replace("family", "familie"), "[toy], `family`: is missing"),
        ("bad", None, "'bad' does not name a package and a file in it"),
        ("nowhere:it.toml", None, "'nowhere:it.toml' does not name a package and a file in it"),
        ("no.where:it.toml", None, "No module named 'no'"),
        (":it.toml", None, "left out"),
    ],
)
def test_a_broken_catalogue_of_a_package_is_left_out_with_a_notice(install, value, text, reason):
    install("bad", broken=(value, text))
    install("good", fine=("good:it.toml", SINGLE))
    with pytest.warns(SepcliWarning) as told:
        entries = load_catalog()
    assert "toy" in entries and "mini" in entries
    (notice,) = [str(warning.message) for warning in told]
    assert notice.startswith("The catalogue 'broken' of the package 'bad' is left out: ") and reason in notice


@pytest.mark.slow
def test_the_command_line_shows_a_broken_catalogue_once_as_a_notice(install, tmp_path):
    install("bad", broken=("bad:gone.toml", None))
    done = subprocess.run(
        [sys.executable, "-m", "sepcli", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])},
    )
    assert done.returncode == 0 and done.stderr.count("The catalogue 'broken'") == 1
    assert "Warning" not in done.stderr and "catalog.py" not in done.stderr


# --- what is refused: the sentence names the file, the table and the key ---

REVISION = f'revision = "{COMMIT}"'


@pytest.mark.parametrize(
    ("old", "new", "table", "key", "words"),
    [
        ('family = "demucs"', "", "toy", "family", "is missing"),
        ("samplerate = 44100", "samplrate = 44100", "toy", "samplerate", "is missing"),
        ("channels = 2", "channels = 2\nlicence = 'MIT'", "toy", "licence", "Did you mean license"),
        ("bytes = 10", "byte = 10", "toy.files.model", "byte", "Did you mean bytes"),
        ("bytes = 10", "bytes = 0", "toy.files.model", "bytes", "at least 1"),
        ("bytes = 10", "bytes = true", "toy.files.model", "bytes", "whole number"),
        ("bytes = 10", "bytes = '10'", "toy.files.model", "bytes", "whole number"),
        (f'sha256 = "{SHA}"', f'sha256 = "{SHA[:-1]}"', "toy.files.model", "sha256", "64 lower-case"),
        (f'sha256 = "{SHA}"', f'sha256 = "{SHA.upper()}"', "toy.files.model", "sha256", "64 lower-case"),
        ('"01234567"', '"0123456"', "toy.files.model.fallback", "sha256_prefix", "8 to 63"),
        (f'sha256 = "{SHA}"', 'git_sha1 = "0123"', "toy.files.model", "git_sha1", "40 lower-case"),
        ("bytes = 10", 'member_sha256 = { a = "0" }', "toy.files.model.member_sha256", "a", "64 lower-case"),
        ("channels = 2", 'channels = 2\naliases = ["a b"]', "toy", "aliases", "'a b', which is no name"),
        (
            f'sha256 = "{SHA}"',
            f'sha256 = "{SHA}"\nsha256_prefix = "abcdefab"',
            "toy.files.model",
            "sha256_prefix",
            "contradicts",
        ),
        (REVISION, 'revision = "main"', "toy.files.model", "revision", "full commit of 40"),
        (REVISION, f'revision = "{COMMIT[:12]}"', "toy.files.model", "revision", "full commit of 40"),
        (REVISION, "", "toy.files.model", "revision", "is missing"),
        ('repo = "owner/name"', 'repo = "name"', "toy.files.model", "repo", "'owner/name'"),
        ('repo = "owner/name"', "", "toy.files.model", "model", "exactly one of"),
        ('repo = "owner/name"', 'url = "https://example.org/x"', "toy.files.model", "path", "belongs to a hub"),
        (
            'repo = "owner/name"',
            'repo = "owner/name"\npackage = "x"',
            "toy.files.model",
            "model",
            "exactly one",
        ),
        ('path = "deep/model.safetensors"', 'path = "../model"', "toy.files.model", "path", "inside the repo"),
        ("https://example.org", "ftp://example.org", "toy.files.model.fallback", "url", "http or https"),
        (
            "fallback = {",
            "fallback = { fallback = {url = 'https://e.org/x'}, ",
            "toy.files.model.fallback",
            "fallback",
            "is not a key",
        ),
        ('["drums", "vocals"]', '["drums", "drums"]', "toy", "sources", "twice"),
        ('["drums", "vocals"]', "[]", "toy", "sources", "is empty"),
        ('["drums", "vocals"]', '["drums", "../x"]', "toy", "sources", "no stem name"),
        ('segment = "39/5"', 'segment = "39/0"', "toy", "config.segment", "seconds above 0"),
        ('segment = "39/5"', "segment = -1", "toy", "config.segment", "seconds above 0"),
        ("channels = 2", "channels = 2\nsegment = true", "toy", "segment", "must be seconds"),
        ("channels = 2", "channels = 2\npublished_overlap = 1", "toy", "published_overlap", "below 1"),
        ('arch = "HDemucs"', "", "toy", "arch", "is missing"),
        ("[toy.files.model]", "[toy.files.modle]", "toy", "file", "`files` has modle"),
        (
            "channels = 2",
            "channels = 2\n[[toy.scores]]\nmetric='SDR'\nset='x'\nvalue=1\nby='me'\n",
            "toy.scores[0]",
            "by",
            "'published' or 'ours'",
        ),
    ],
)
def test_a_mistake_in_a_model(write, old, new, table, key, words):
    assert old in SINGLE
    path = write(SINGLE.replace(old, new, 1))
    with pytest.raises(ModelError) as failure:
        read_catalog(path)
    assert f"{path}, [{table}], `{key}`: " in failure.value.message and words in str(failure.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weights = { drums = 1, bass", "weights = { drms = 1, bass", "names 'drms', but the model's stems"),
        ("bass = 2", "bass = -2", "at least 0"),
        ("vocals = 1", "bass = 1", "no member has a weight for the stem 'vocals'"),
        ('file = "b"', 'file = "d"', "names 'd', but `files` has a, b, c"),
        ('file = "c"', 'file = "b"', "is a file that no member uses"),
        ('package = "weights/c', 'package = "../weights/c', "inside the package"),
    ],
)
def test_a_mistake_in_a_bag(write, old, new, words):
    assert old in BAG
    with pytest.raises(ModelError) as failure:
        read_catalog(write(BAG.replace(old, new)))
    assert words in str(failure.value) and "bag" in str(failure.value)


MIXER = '[bag.files.mixer]\nurl = "https://x.invalid/mixer"\n'


def test_a_mixer_needs_every_network(write):
    mixer = 'mixer = { file = "mixer", stems = ["vocals", "drums", "bass"] }\n'
    entry = read_catalog(write(BAG.replace("members = [", mixer + "members = [", 1) + MIXER))["bag"]
    assert entry.mixer.stems == ("vocals", "drums", "bass") and entry.mixer.file.name == "mixer"
    assert entry.members_for(["vocals"]) == entry.members and entry.files[-1] == entry.mixer.file
    plain = read_catalog(write(BAG))["bag"]
    assert plain.mixer is None and len(plain.members_for(["vocals"])) < 3


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        ('{ file = "d" }', "names 'd', but `files` has"),
        ('{ file = "mixer", stems = ["vocals", "drums"] }', "must be drums, bass, vocals in any order"),
        ("{ stems = [] }", "is missing"),
    ],
)
def test_a_mistake_in_a_mixer(write, mixer, words):
    with pytest.raises(ModelError) as failure:
        read_catalog(write(BAG.replace("members = [", f"mixer = {mixer}\nmembers = [", 1) + MIXER))
    assert words in str(failure.value) and "bag.mixer" in str(failure.value)


def test_a_chain_is_made_of_the_models_above_it(write):
    entries = read_catalog(write(CHAIN))
    both, voice, toy = (entries[name] for name in ("both", "voice", "toy"))
    assert both.sources == ("vocals", "drums", "bass") == both.own_sources and both.cost == 5.5
    assert [(step.entry, step.of) for step in both.chain] == [(voice, ""), (toy, "music")]
    assert both.files == voice.files == toy.files  # equal here, so named once
    assert both.members_for(["vocals"]) == voice.members
    assert both.steps_for(["bass"]) == [
        (both.chain[0], ("music",), ("music",)),
        (both.chain[1], ("bass",), ("bass",)),
    ]
    assert both.more == {"music": ("drums", "bass", "music-rest"), "music-rest": ()}
    assert both.members_for(["music"]) == voice.members and both.members_for(["music-rest"]) == both.members
    assert (both.samplerate, both.channels, both.license) == (44100, 2, "MIT")
    ordered = CHAIN.replace('license = "MIT"', 'sources = ["drums", "bass", "vocals"]')
    entry = read_catalog(write(ordered))["both"]
    fewer = read_catalog(write(CHAIN.replace('of = "music"', 'of = "music", stems = ["bass"]'), "c.toml"))[
        "both"
    ]
    assert fewer.sources == ("vocals", "bass") and fewer.steps_for(["bass"])[1][1] == ("bass",)
    assert entry.sources == ("drums", "bass", "vocals") and entry.license == "unspecified"  # as of its models


def test_a_stem_of_a_step_whose_name_is_there_already(write):
    entries = read_catalog(write(CHAIN.replace('["drums", "bass"]', '["vocals", "bass"]')))
    both = entries["both"]
    assert both.sources == ("vocals", "music-vocals", "bass")
    assert both.steps_for(["music-vocals"])[1][1:] == (("vocals",), ("music-vocals",))


def test_a_step_calls_its_stems_as_it_likes(write):
    named = CHAIN.replace('of = "music"', 'of = "music", names = { bass = "low", drums = "vocals" }')
    both = read_catalog(write(named.replace("bass = 5.0", "low = 5.0")))["both"]
    assert both.sources == ("vocals", "music-vocals", "low") and both.chain[1].made == ("drums", "bass")
    assert both.steps_for(["low"])[1][1:] == (("bass",), ("low",))


def test_models_of_several_among_several(write):
    more = """
[more]
chain = [{ model = "both" }, { model = "toy", of = "drums" }]
[beside]
models = [{ model = "more" }, { model = "voice" }]
"""
    entries = read_catalog(write(CHAIN + more))
    assert entries["more"].sources == ("vocals", "drums", "drums-bass", "bass")
    assert entries["beside"].sources == (*entries["more"].sources, "music")
    assert entries["more"].members_for(["vocals"]) == entries["voice"].members


def test_a_catalogue_is_made_of_models_of_those_before_it(write, tmp_path):
    first = write(SINGLE)
    second = tmp_path / "second.toml"
    second.write_text('[own]\nchain = [{ model = "duo" }, { model = "toy", of = "vocals" }]\n')
    own = load_catalog([first, second])["own"]
    assert own.chain[0].entry.name == "duo" and own.chain[1].entry.name == "toy"
    assert own.sources == ("drums", "bass", "other", "vocals-drums", "vocals")
    with pytest.raises(
        ModelError, match="is 'toy', but must be a model that stands above it, or in a catalogue"
    ):
        load_catalog([second, first])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            '{ model = "voice" }',
            '{ model = "vioce" }',
            "`model`: is 'vioce', but must be a model that stands above",
        ),
        ('{ model = "voice" }', '{ model = "both" }', "is 'both', but must be a model that stands above it"),
        ('{ model = "voice" }', '{ model = "voice", of = "music" }', "is not for the first step"),
        ('of = "music"', 'of = "music", stems = ["bass", "bass"]', "must be some of drums, bass, each once"),
        ('of = "music"', 'of = "music", stems = ["piano"]', "must be some of drums, bass, each once"),
        ('of = "music"', 'of = "drums"', "there is no stem 'drums' by then; there are vocals, music"),
        (', of = "music"', "", "`of`: is missing"),
        (
            'of = "music"',
            'of = "music", names = { piano = "keys" }',
            "has 'piano', but must name some of drums",
        ),
        ('of = "music"', 'of = "music", names = { bass = "a b" }', "has 'a b', which is no stem name"),
        ('of = "music"', 'of = "music", names = { bass = "drums" }', "gives two stems one name"),
        (', { model = "toy", of = "music" }', "", "needs two models or more"),
        (
            'license = "MIT"',
            'sources = ["bass", "drums"]',
            "the stems that are left are vocals, drums, bass, not bass, drums",
        ),
        ('license = "MIT"', 'family = "demucs"', "`family`: is not a key of this table"),
        ('license = "MIT"', 'task = "singing"', "is 'singing', but must be one of"),
        ("bass = 5.0", "piano = 5.0", "names 'piano', but the model's stems are vocals, drums, bass"),
    ],
)
def test_a_mistake_in_a_chain(write, old, new, words):
    assert old in CHAIN
    with pytest.raises(ModelError) as failure:
        read_catalog(write(CHAIN.replace(old, new)))
    assert words in str(failure.value) and "[both" in str(failure.value)


def test_models_side_by_side_follow_from_the_models_above(write):
    entries = read_catalog(write(BLEND))
    both, voice, toy = (entries[name] for name in ("both", "voice", "toy"))
    assert both.sources == ("vocals", "music", "drums", "bass") and both.blend == "avg_fft"
    assert [part.entry for part in both.parts] == [voice, toy]
    assert [part.weights for part in both.parts] == [(2, 2, 0, 0), (0, 0, 1, 3)]
    assert both.members_for(["bass"]) == toy.members and both.members_for(["music"]) == voice.members
    assert both.parts_for(["music", "bass"]) == [(both.parts[0], ("music",)), (both.parts[1], ("bass",))]
    assert both.models == (voice, toy) and both.license == "unspecified"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('model = "toy"', 'model = "tyo"', "`model`: is 'tyo', but must be a model that stands above"),
        ('model = "toy"', 'model = "voice"', "one model is named twice"),
        ("bass = 3", "piano = 3", "'piano' has a weight in a model that gives drums, bass"),
        ("bass = 3", "vocals = 3", "'vocals' has a weight in a model that gives drums, bass"),
        ("bass = 3", "bass = -3", "a weight is below 0 or no number"),
        ("bass = 3", "bass = 0", "no model counts for 'bass'"),
        ('"avg_fft"', '"mean"', "'mean' is no way to blend; there are avg_wave, median_wave"),
        ('"avg_fft"', '"max_fft"', "weights have no meaning with max_fft; only avg_wave and avg_fft"),
        (', { model = "toy", weights = { bass = 3 } }', "", "needs two models or more"),
    ],
)
def test_a_mistake_in_models_side_by_side(write, old, new, words):
    assert old in BLEND
    with pytest.raises(ModelError) as failure:
        read_catalog(write(BLEND.replace(old, new)))
    assert words in str(failure.value) and "[both" in str(failure.value)


def test_what_is_no_catalogue(write, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="is not TOML"):
        read_catalog(write("[toy\n"))
    with pytest.raises(ModelError, match="must be a table"):
        read_catalog(write("version = 1\n"))
    with pytest.raises(ModelError, match="is no model name"):
        read_catalog(write(SINGLE.replace("[toy", "['to y'")))
    with pytest.raises(UsageError, match="is not a file"):
        load_catalog([tmp_path / "absent.toml"])
    monkeypatch.setenv("SEPCLI_CATALOG", str(tmp_path / "absent.toml"))
    with pytest.raises(UsageError, match="SEPCLI_CATALOG"):
        load_catalog()


# --- names ---


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("htdemuc", "htdemucs"),
        ("HTDemucs", "htdemucs"),
        ("htdemucs-ft", "htdemucs_ft"),
        ("6s", None),
        ("mmi", "hdemucs_mmi"),
        ("repro", "repro_mdx_a"),
        ("zzzz", None),
    ],
)
def test_near_names(typed, meant):
    found = near(typed, load_catalog())
    assert (found[0] if found else None) == meant and len(found) <= 4


def test_an_unknown_name_is_answered_with_the_near_ones():
    with pytest.raises(ModelError, match="Did you mean htdemucs") as failure:
        load_catalog().find("htdemuc")
    assert failure.value.code == "unknown_model" and failure.value.exit_code == 3


def test_models_by_stem():
    dicose = ["dicose-det", "dicose-diffusion", "dicose-cd"]
    found = [entry.name for entry in load_catalog().having("guitar")]
    assert found[:4] == ["htdemucs_6s", *dicose] and "guitar-becruily" in found
    assert load_catalog().having("kazoo") == []


# --- the bundled file ---


def test_a_bundled_file_that_is_gone_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "bundled_catalog", lambda: tmp_path / "weights.toml")
    with pytest.raises(ModelError, match="weights.toml"):
        load_catalog()


def test_the_bundled_names():
    import sepcli

    assert [entry.name for entry in sepcli.list_models()][: len(NAMES)] == NAMES


def test_the_bundled_model_is_whole_and_small():
    """What is inside the package has the recorded hash, at most 24 MB, and a licence; nothing is downloaded."""
    entry = load_catalog()[catalog.DEFAULT_MODEL]
    for file in entry.files:
        content = (catalog.Path(catalog.__file__).parents[1] / file.package).read_bytes()
        assert len(content) == file.bytes
        assert hashlib.sha256(content).hexdigest() == file.sha256
    assert entry.size <= 24_000_000 and entry.license == "MIT" and entry.limits
    assert all(step.entry.license == "MIT" and step.entry.training_data for step in entry.chain)
    assert set(entry.sources) == {"vocals", "drums", "bass", "other"}
    assert all(score.by == "ours" for score in entry.scores)


@pytest.mark.parametrize("name", DEMUCS)
def test_each_demucs_entry_keeps_the_rules(name):
    entry = load_catalog()[name]
    assert entry.family == "demucs" and entry.samplerate == 44100 and entry.channels == 2
    assert entry.sources[:4] == ("drums", "bass", "other", "vocals")
    assert entry.license == "unspecified" and "scientific" in entry.license_note
    assert entry.paper and re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{7,40}", entry.origin)
    for file in entry.files:
        for source in filter(None, (file, file.fallback)):
            if source.repo is None:
                # The official name carries the first digits of the hash.
                assert source.url.startswith("https://dl.fbaipublicfiles.com/demucs/")
                digits = re.fullmatch(r"[0-9a-f]{8}-([0-9a-f]{8})\.th", source.filename)[1]
                assert (source.sha256 or source.sha256_prefix).startswith(digits)
        if file.repo:
            assert file.repo.startswith("adefossez/") and file.fallback is not None
            assert file.fallback.filename.startswith(file.path.removesuffix(".safetensors") + "-")
    assert all(score.by == "published" and 5 < score.value < 10 for score in entry.scores)


def test_the_bundled_bags():
    entries = load_catalog()
    assert entries["htdemucs_ft"].members_for(["vocals"])[0].file.path == "04573f0d.safetensors"
    assert len(entries["htdemucs_ft"].members_for(["vocals"])) == 1
    for name in ("mdx", "mdx_q"):
        weights = [member.weights for member in entries[name].members]
        assert weights == [(1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 1, 1), (1, 0, 1, 1)]
    for name in ("mdx_extra", "mdx_extra_q"):
        assert "MUSDB test set" in entries[name].limits and not entries[name].scores
    assert all(entries[name].segment == 44 for name in DEMUCS if not name.startswith("htdemucs"))
    assert {entry.check for entry in entries.values()} <= set(CHECKS)


def test_no_ensemble_has_equal_members():
    """So the engine need not look for networks that it could run once instead of twice."""
    for entry in load_catalog().values():
        if not entry.chain:  # there a second one would have another mix
            members = [(dataclasses.replace(each.file, name=""), each.arch) for each in entry.members]
            assert len(set(members)) == len(members), entry.name


def test_the_catalogue_costs_no_torch_and_no_numpy():
    code = (
        "import sys, sepcli; sepcli.list_models();"
        "print([m for m in ('torch', 'numpy', 'rich', 'huggingface_hub', 'soundfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
