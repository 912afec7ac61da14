"""Weights from a hub on loopback: every way it can go well or badly, and what is remembered of it.

The client reads most of its variables at import; sepcli passes endpoint and cache folder with each call, so
only what must survive a process, or needs the client's own offline mode, runs in a new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sepcli.cli.options import option_text
from sepcli.errors import ModelError, spelled
from sepcli.weights import download, ranged, transfer
from sepcli.weights.cache import hub_cache, hub_home
from sepcli.weights.download import cached, destination, fetch, fetch_hf, file_sha256, is_cached, remove, verify
from sepcli.weights.entries import WeightFile
from tests.bundles import write_tar
from tests.fakehub import FakeHub, commit_of

DATA = random.Random(1).randbytes(300_000)
LARGE = random.Random(2).randbytes(21 << 20)  # over two of the client's 10 MiB blocks: resumes inside a call
REPO, PATH = "owner/name", "deep/model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        environment = hub.env(tmp_path)
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # ours and the client's between two tries
        yield hub


@pytest.fixture
def notices():
    return []


@pytest.fixture
def get(notices):
    def get(file, **more):
        return fetch(file, notice=notices.append, **more)

    return get


def on_hub(hub, data=DATA, path=PATH, repo=REPO, **changes):
    return WeightFile("model", **{**hub.add(repo, path, data), **changes})


def on_url(hub, data=DATA, path="model.th", **changes):
    return WeightFile("model", **{**hub.add_url(path, data), **changes})


def fails(code, file, **more):
    with pytest.raises(ModelError) as failure:
        fetch(file, **more)
    assert failure.value.code == code, failure.value
    assert failure.value.message.endswith(".") and failure.value.exit_code == 3
    return failure.value


def in_new_process(env, file: WeightFile) -> dict:
    """fetch(file) there: {"path"} or {"code", "message"}; and whether the hub client was imported."""
    program = (
        "import json, sys; from sepcli.weights.entries import WeightFile\n"
        "from sepcli.weights.download import fetch\n"
        "from sepcli.errors import ModelError\n"
        "try: said = {'path': str(fetch(WeightFile(**json.loads(sys.argv[1]))).path)}\n"
        "except ModelError as error: said = {'code': error.code, 'message': str(error)}\n"
        "print(json.dumps(said | {'client': 'huggingface_hub' in sys.modules}))"
    )
    fields = {name: value for name, value in vars(file).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(fields)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def unfinished():
    """What downloads that did not end have left in the cache."""
    hidden = [path for path in (hub_home() / "sepcli").rglob(".*") if path.is_file()]
    return hidden + list(hub_cache().rglob("*.incomplete"))


def killed(hub, tmp_path, file):
    """Have a process download the file, and kill it on the way; what it had received."""
    hub.fault("model", "stall", method="GET")
    fields = {name: value for name, value in vars(file).items() if value}
    program = "import sys, json; from sepcli.weights.entries import WeightFile; "
    program += "from sepcli.weights.download import fetch; fetch(WeightFile(**json.loads(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program, json.dumps(fields)], env=environment)
    until = time.monotonic() + 60
    while not any(path.stat().st_size >= 10 << 20 for path in unfinished()):
        assert process.poll() is None and time.monotonic() < until
        threading.Event().wait(0.02)
    process.kill()
    process.wait()
    hub.faults.clear()
    (part,) = unfinished()
    assert LARGE.startswith(part.read_bytes())
    return part


# --- it goes well ---


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_first_download_with_progress_then_no_request(hub, get, notices, place):
    file = place(hub, LARGE)
    assert cached(file) is None and not is_cached(file)
    calls = []
    fetched = get(file, progress=lambda done, total: calls.append((done, total)))
    assert fetched.path.read_bytes() == LARGE and fetched.path == cached(file) == destination(file)
    assert fetched.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert (fetched.check, fetched.source) == ("full", file.source)
    sizes = [done for done, _ in calls]
    assert sizes == sorted(sizes) and len(sizes) > 2 and calls[-1] == (len(LARGE), len(LARGE))
    asked = hub.count()
    assert get(file) == fetched and hub.count() == asked and notices == []


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_a_cached_file_works_with_the_server_gone_and_without_the_client(tmp_path, place):
    with FakeHub() as hub:
        env = hub.env(tmp_path, PYTHONPATH=os.pathsep.join(sys.path))
        file = place(hub)
        first = in_new_process(env, file)
    again = in_new_process(env, file)
    assert again == {"path": first["path"], "client": False}
    # A second is enough for a hash, not for the 23 s that the client retries a dead hub.
    assert Path(first["path"]).read_bytes() == DATA


def test_files_in_an_archive_are_checked(hub, tmp_path, get):
    """Where the hash of the archive is not known: whoever packs it again changes that."""
    inside = {"model.index": b"index", "model.data-00000-of-00001": b"data"}
    archive = write_tar(tmp_path / "model.tar.gz", inside).read_bytes()
    hashes = tuple((name, hashlib.sha256(content).hexdigest()) for name, content in inside.items())
    file = on_url(hub, archive, "model.tar.gz", sha256=None, member="model.index", member_sha256=hashes)
    fetched = get(file)
    assert (fetched.check, fetched.member, fetched.path.read_bytes()) == ("full", "model.index", archive)
    verify(file)
    wrong = replace(file, member_sha256=(hashes[0], (hashes[1][0], "0" * 64)))
    error = fails("hash", wrong)
    assert "the sha256 of its model.data-00000-of-00001 is 3a6eb079" in error.message
    get(file)  # again: the wrong one was deleted
    error = fails("hash", replace(file, member_sha256=(("missing", "0" * 64),)))
    assert "of its missing is none instead of 000" in error.message
    no_archive = on_url(hub, DATA, "noise.tar.gz", sha256=None, member_sha256=hashes)
    assert "is none instead of" in fails("hash", no_archive).message


def test_the_hubs_redirect_to_another_origin(hub, get):
    file = on_hub(hub)
    hub.fault(PATH, "redirect")
    assert get(file).path.read_bytes() == DATA
    assert ("GET", f"/cdn/{REPO}/{PATH}", None) in hub.requests


def test_the_standard_cache_is_shared_with_the_client(hub, get):
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    file = on_hub(hub)
    path = hf_hub_download(REPO, PATH, revision=file.revision, endpoint=hub.url, cache_dir=hub_cache())
    asked = hub.count()
    assert get(file).path == Path(path) and hub.count() == asked
    assert try_to_load_from_cache(REPO, PATH, hub_cache(), file.revision) == path


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HF_HOME": "/a"}, "/a/hub"),
        ({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}, "/b"),
        ({"HF_HOME": "/a", "HUGGINGFACE_HUB_CACHE": "/c"}, "/c"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HF_HOME": "~/e"}, "/home/me/e/hub"),
        ({}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_cache_variables_mean_what_they_mean_to_the_client(monkeypatch, variables, place):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/me", "USERPROFILE": "/home/me"}).items():
        monkeypatch.setenv(name, value)
    assert hub_cache() == Path(place)
    code = "import huggingface_hub.constants as c; print(c.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == hub_cache()


def test_a_package_file(monkeypatch, get, tmp_path, notices):
    package = Path(transfer.__file__).parents[1]
    file = WeightFile("model", package="errors.py", sha256=file_sha256(package / "errors.py"))
    assert get(file).path == package / "errors.py" and get(file).source == "package:errors.py"
    get(replace(file, sha256=None))
    assert notices == []  # nobody else's word is needed for our own file
    fails("hash", replace(file, sha256="0" * 64))
    assert (package / "errors.py").is_file() and not remove(file)
    fails("not_found", WeightFile("model", package="absent.bin"))


# --- content ---


@pytest.mark.parametrize("place", [on_hub, on_url])
@pytest.mark.parametrize("known", ["sha256", "sha256_prefix", "git_sha1"])
def test_corrupted_bytes_of_the_right_size(hub, get, place, known):
    git = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    sha = hashlib.sha256(DATA).hexdigest()
    value = {"sha256": sha, "sha256_prefix": sha[:8], "git_sha1": git}[known]
    file = replace(place(hub), **{"sha256": None, known: value})
    hub.fault("model", "corrupt")
    error = fails("hash", file)
    assert "deleted" in error.message and value in error.message and file.source in error.message
    assert cached(file) is None and list(hub_cache().rglob("*/blobs/*")) == []
    hub.faults.clear()
    assert get(file).path.read_bytes() == DATA


def test_corruption_is_seen_even_where_no_hash_is_published(hub):
    """The server's ETag is the content's sha256; the client never compares."""
    file = on_hub(hub, sha256=None, bytes=None)
    hub.fault(PATH, "corrupt")
    assert "the server announced" in fails("hash", file).message


def test_another_size_than_the_catalogues(hub):
    file = replace(on_hub(hub), bytes=len(DATA) + 1)
    assert f"{len(DATA)} bytes instead of {len(DATA) + 1}" in fails("hash", file).message
    assert not is_cached(file)


def test_a_file_that_changes_in_the_cache_is_found_and_deleted(hub, get):
    file = on_hub(hub)
    path = get(file).path
    blob = Path(os.path.realpath(path))
    blob.write_bytes(DATA[:-1] + b"x")
    fails("hash", file)
    assert not os.path.lexists(path) and not blob.exists()
    assert get(file).path.read_bytes() == DATA


def test_verify_trusts_no_memory(hub, get):
    file = on_url(hub)
    with pytest.raises(ModelError, match="not in the cache"):
        verify(file)
    path = get(file).path
    assert verify(file).sha256 == file.sha256
    times = path.stat()
    path.write_bytes(DATA[:-1] + b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert get(file).path == path  # size and time are as remembered
    with pytest.raises(ModelError, match="is not the file it should be"):
        verify(file)
    assert not path.exists()


@pytest.mark.parametrize("place", [on_hub, on_url])
@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"sha256_prefix": hashlib.sha256(DATA).hexdigest()[:8]}, "prefix", "first 8 digits"),
        ({}, "size", "only its size"),
        ({"bytes": None}, "none", "no hash and no size"),
    ],
)
def test_what_is_not_fully_known_is_recorded_and_enforced(hub, get, notices, place, changes, check, words):
    file = replace(place(hub), sha256=None, **changes)
    assert file.check == check == get(file).check
    assert words in notices[0] and "is recorded now and enforced from now on" in notices[0]
    get(file)
    assert words in notices[1] and "it is the file recorded on" in notices[1]
    remove(file)  # the record stays: a file that was exchanged meanwhile must not pass
    other = DATA[:100] + DATA[:-100]
    assert len(other) == len(DATA)
    for path in hub.files:
        hub.files[path] = other
    if check == "prefix":
        fails("hash", file)
    else:
        error = fails("hash", file)
        assert "downloaded first" in error.message and "delete the record" in error.remedy
    for path in hub.files:
        hub.files[path] = DATA
    assert get(file).sha256 == hashlib.sha256(DATA).hexdigest()


# --- it goes badly ---


def test_a_connection_that_breaks_once_is_resumed(hub, get):
    file = on_hub(hub, LARGE)
    hub.fault(PATH, "truncate", times=1, method="GET")
    assert get(file).path.read_bytes() == LARGE
    assert any(asked for _, _, asked in hub.requests)  # by Range


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_truncation_for_good(hub, place):
    file = place(hub)
    hub.fault("model", "truncate", method="GET")
    assert "broke off" in fails("truncated", file).message
    assert not is_cached(file)
    left = unfinished()
    assert [path.read_bytes() == DATA[: path.stat().st_size] for path in left] == ([True] if file.url else [])
    hub.faults.clear()
    assert fetch(file).path.read_bytes() == DATA and unfinished() == []


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("404", "not_found", f"has no file '{PATH}' at revision"),
        ("no_revision", "not_found", "has no revision"),
        ("no_repository", "no_repository", "has no repository 'owner/name', or it is private"),
        ("gated", "gated", "Accept them at"),
        ("401", "gated", "HF_TOKEN"),
        ("403", "gated", "HF_TOKEN"),
    ],
)
def test_refusals_of_the_hub(hub, kind, code, words):
    file = on_hub(hub)
    hub.fault(PATH, kind)
    assert words in str(fails(code, file))
    assert hub.count("GET") == 0 and not is_cached(file)


@pytest.mark.parametrize("kind", ["404", "gated", "no_repository"])
def test_refusals_at_the_second_request(hub, kind):
    """Gone between the question and the download."""
    file = on_hub(hub)
    hub.fault(PATH, kind, method="GET")
    fails({"404": "not_found"}.get(kind, kind), file)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_busy_once_then_success(hub, get, method):
    file = on_hub(hub)
    hub.fault(PATH, "503", times=1, method=method)
    assert get(file).path.read_bytes() == DATA


def test_busy_for_good(hub):
    file = on_hub(hub)
    hub.fault(PATH, "503", method="GET")
    error = fails("unavailable", file)
    assert "503" in error.message and "Try again" in error.remedy


@pytest.mark.parametrize(
    ("kind", "code", "requests"), [("404", "not_found", 1), ("403", "not_found", 1), ("503", "unavailable", 3)]
)
def test_refusals_of_a_url(hub, kind, code, requests):
    file = on_url(hub)
    hub.fault("model", kind)
    assert kind in fails(code, file).message and hub.count() == requests


def test_a_url_that_is_busy_once(hub, get):
    file = on_url(hub)
    hub.fault("model", "503", times=1)
    assert get(file).path.read_bytes() == DATA and hub.count() == 2


def test_a_url_that_nobody_serves(hub):
    file = on_url(hub)
    hub.close()
    assert "can't be reached" in fails("unreachable", file).message


@pytest.mark.parametrize(
    ("place", "fault", "code"),
    [
        (on_hub, "503", "unavailable"),
        (on_hub, "truncate", "truncated"),
        (on_hub, "", "unreachable"),
        (on_url, "404", "not_found"),
        (on_url, "503", "unavailable"),
        (on_url, "truncate", "truncated"),
        (on_url, "", "unreachable"),
    ],
)
def test_a_source_that_fails_has_others_a_mirror_of_the_hub_and_a_file_of_ones_own(hub, place, fault, code):
    file = place(hub)
    if fault:
        hub.fault("model", fault, method="GET")
    else:
        hub.close()
    with spelled(option_text):
        remedy = fails(code, file).remedy
    assert "-m NAME=FILE" in remedy and ("HF_ENDPOINT" in remedy) == (place is on_hub)


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_offline_mode_forbids_every_download_and_no_cached_file(hub, get, monkeypatch, place):
    file = place(hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = fails("offline", file)
    assert "HF_HUB_OFFLINE" in error.message and str(hub_home()) in error.remedy and hub.count() == 0
    monkeypatch.delenv("HF_HUB_OFFLINE")
    get(file)
    asked = hub.count()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(file).path.read_bytes() == DATA and hub.count() == asked


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_offline_mode_in_a_new_process(tmp_path, place):
    with FakeHub() as hub:
        env = hub.env(tmp_path, PYTHONPATH=os.pathsep.join(sys.path), HF_HUB_OFFLINE="1")
        said = in_new_process(env, place(hub))
        assert said["code"] == "offline" and "sepcli models download" in said["message"] and hub.count() == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(hub, monkeypatch, number):
    import huggingface_hub

    def full(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    full.__signature__ = __import__("inspect").signature(huggingface_hub.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    assert "The disk is full" in fails("no_space", on_hub(hub)).message


def test_a_url_is_not_begun_where_it_does_not_fit(hub, monkeypatch):
    usage = type("Usage", (), {"free": len(DATA) - 1})
    monkeypatch.setattr(ranged.shutil, "disk_usage", lambda path: usage)
    assert "HF_HOME" in fails("no_space", on_url(hub)).remedy


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))  # permissions don't stop root; this stops everyone
    error = fails("not_writable", place(hub))
    assert str(tmp_path / "file") in error.message and "HF_HOME" in error.remedy


# --- what a killed download has left ---


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_a_killed_download_is_resumed_by_the_next(hub, get, tmp_path, place):
    file = place(hub, LARGE, path="model.th")
    had = killed(hub, tmp_path, file).stat().st_size
    calls = []
    assert get(file, progress=lambda done, total: calls.append((done, total))).path.read_bytes() == LARGE
    assert hub.requests[-1 if file.url else -2][2] == f"bytes={had}-"
    assert calls[0][0] > had and calls[-1] == (len(LARGE), len(LARGE)) and unfinished() == []


def left_behind(file, data):
    """A part of a killed download with this content."""
    if file.repo:
        blobs = hub_cache() / f"models--{REPO.replace('/', '--')}" / "blobs"
        part = blobs / f"{file.sha256}.1a2b3c4d.incomplete"
    else:
        part = destination(file).with_name(f".{destination(file).name}.incomplete")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


@pytest.mark.parametrize("place", [on_hub, on_url])
@pytest.mark.parametrize(
    "data",
    [b"junk", DATA[:1000], b"x" + DATA[1:5000], DATA, bytes(len(DATA)), DATA + b"more", b""],
    ids=["junk", "start", "damaged", "all", "zeros", "more", "empty"],
)
@pytest.mark.parametrize("kind", ["no_range", "redirect", None])
def test_whatever_is_left_the_file_is_right_in_the_end(hub, get, place, data, kind):
    file = place(hub)
    left_behind(file, data)
    if kind:
        hub.fault("model", kind)
    assert get(file).path.read_bytes() == DATA and unfinished() == []


def test_a_part_that_another_process_writes_is_left_to_it(hub, get):
    file = on_hub(hub)
    part = left_behind(file, DATA[:1000])
    lock = hub_cache() / ".locks" / part.parents[1].name / f"{file.sha256}.lock"
    lock.parent.mkdir(parents=True)
    program = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('ready', flush=True); input()"
    command = [sys.executable, "-c", program, str(lock)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    assert not remove(file) and part.exists()
    holder.communicate("\n")
    assert remove(file) == 1000 and not part.exists()


@pytest.mark.parametrize("place", [on_hub, on_url])
def test_removal_takes_what_unfinished_downloads_have_left(hub, get, place):
    file = place(hub)
    left_behind(file, DATA[:1000])
    assert remove(file) == 1000 and unfinished() == [] and not remove(file)
    get(file)
    left_behind(file, DATA[:1000])
    assert remove(file) == len(DATA) + 1000 and unfinished() == [] and not is_cached(file)


def test_a_token_is_for_the_hub_and_not_for_where_it_redirects(hub, get, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    file = on_hub(hub)
    left_behind(file, DATA[:1000])
    hub.fault(PATH, "redirect")
    assert get(file).path.read_bytes() == DATA
    assert hub.authorized and all("/resolve/" in path for path in hub.authorized)
    assert any(path.startswith("/cdn/") for _, path, _ in hub.requests)


# --- a mirror that does not name the commit ---


def test_a_mirror_without_commits_serves_what_is_pinned(hub, get):
    file = on_hub(hub)
    hub.fault(PATH, "no_commit")
    fetched = get(file)
    assert fetched.path.read_bytes() == DATA and fetched.path == destination(file) and is_cached(file)
    asked = hub.count()
    assert get(file) == fetched and hub.count() == asked
    assert remove(file) == len(DATA) and not is_cached(file)


def test_the_hash_decides_what_a_mirror_sends(hub, get):
    file = on_hub(hub)
    hub.fault(PATH, "no_commit", times=1)
    hub.fault(PATH, "corrupt")
    assert file.sha256 in fails("hash", file).message and not is_cached(file) and unfinished() == []


def test_a_mirror_without_commits_can_not_serve_what_no_hash_decides(hub):
    file = on_hub(hub, sha256=None)
    hub.fault(PATH, "no_commit")
    error = fails("unavailable", file)
    assert "X-Repo-Commit" in error.message and "sha256" in error.remedy
    with pytest.raises(ModelError, match="X-Repo-Commit"):
        fetch_hf(REPO, "main", PATH)


# --- the second source ---


def test_the_second_source_only_after_the_first_failed_and_said_so(hub, get, notices):
    second = on_url(hub, b"the same model in another container")
    file = on_hub(hub, fallback=second)
    assert get(file).source == file.source and notices == []
    remove(file)
    hub.fault(PATH, "404")
    fetched = get(file)
    assert (fetched.source, fetched.sha256) == (second.source, second.sha256)
    assert "has no file" in notices[0] and second.source in notices[0]
    asked = hub.count()
    assert get(file) == fetched and hub.count() == asked  # the copy at hand, and no further try
    assert "another source" in notices[1]
    assert remove(file) and not is_cached(file) and not remove(file)


def test_both_sources_fail(hub):
    file = on_hub(hub, fallback=on_url(hub))
    hub.fault("model", "404")
    error = fails("not_found", file)
    assert "NAME=FILE" in error.remedy and "HF_ENDPOINT" in error.remedy
    assert "has no file" in error.message and "is not there" in error.message


@pytest.mark.parametrize("reason", ["corrupt", "offline"])
def test_no_second_source_where_the_first_is_wrong_or_forbidden(hub, monkeypatch, reason):
    file = on_hub(hub, fallback=on_url(hub))
    if reason == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        hub.fault(PATH, "corrupt")
    fails({"corrupt": "hash"}.get(reason, reason), file)
    assert not any(path.startswith("/plain/") for _, path, _ in hub.requests)


def test_mirrors_are_tried_in_order_and_share_the_hash(hub, get, notices):
    first = on_hub(hub)
    mirrors = tuple(
        replace(first, repo=None, revision=None, path=None, url=hub.add_url(name, DATA)["url"])
        for name in ("one.th", "two.th")
    )
    file = replace(first, mirrors=mirrors, fallback=on_url(hub, b"another container"))
    hub.fault(PATH, "404")
    hub.fault("one.th", "404")
    fetched = get(file)
    assert (fetched.source, fetched.check) == (mirrors[1].source, "full") and len(notices) == 2
    assert is_cached(file) and not is_cached(first) and remove(file) == len(DATA)
    hub.add_url("two.th", DATA[::-1])  # the mirror's file was exchanged
    fails("hash", file)


@pytest.mark.parametrize("kind", ["sha1", "md5"])
def test_an_older_hash_of_the_whole_file(hub, get, notices, kind):
    digest = hashlib.new(kind, DATA).hexdigest()
    file = on_hub(hub, sha256=None, **{kind: digest})
    assert get(file).check == kind and "weak hash" in notices[0] and "recorded" in notices[0]
    remove(file)
    assert kind in fails("hash", replace(file, **{kind: digest[::-1]})).message


# --- any file of the hub ---


def test_a_branch_is_resolved_said_and_checked(hub, notices):
    on_hub(hub)
    fetched = fetch_hf(REPO, None, PATH, notice=notices.append)
    assert fetched.source == f"hf://{REPO}@{commit_of(REPO)}/{PATH}" and fetched.path.read_bytes() == DATA
    assert commit_of(REPO) in notices[0] and "recorded" in notices[1]
    asked = hub.count()
    assert fetch_hf(REPO, commit_of(REPO), PATH).path == fetched.path and hub.count() == asked
    fetch_hf(REPO, "main", PATH)
    assert hub.count("HEAD") == asked - hub.count("GET") + 1  # what a branch is now, only the hub knows


def test_a_branch_offline_is_what_it_was_last(hub, monkeypatch):
    on_hub(hub)
    fetched = fetch_hf(REPO, None, PATH)
    asked = hub.count()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_hf(REPO, None, PATH) == fetched and hub.count() == asked
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        fetch_hf(REPO, "v2", PATH)


def test_an_unknown_revision_and_a_bad_name(hub):
    on_hub(hub)
    with pytest.raises(ModelError, match="has no revision v9"):
        fetch_hf(REPO, "v9", PATH)
    with pytest.raises(ModelError, match="no repository name"):
        fetch_hf("not..a/name--x", None, PATH)


# --- removal and memory ---


def test_removal_keeps_what_another_revision_points_to(hub, get):
    file = on_hub(hub)
    path = get(file).path
    other = path.parents[2] / ("a" * 40) / "copy.safetensors"
    other.parent.mkdir()
    other.symlink_to(os.path.relpath(os.path.realpath(path), other.parent))
    assert remove(file) and other.read_bytes() == DATA
    assert not path.parents[1].exists()  # no empty folders


def test_a_hash_is_remembered_until_the_file_changes(hub, tmp_path, monkeypatch):
    path = tmp_path / "local.bin"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    memo = download._memo(path)
    stamp = json.loads(memo.read_text())
    stamp["digests"]["sha256"] = "remembered"
    memo.write_text(json.dumps(stamp))
    assert file_sha256(path) == "remembered"
    path.write_bytes(b"two!")
    assert file_sha256(path) == hashlib.sha256(b"two!").hexdigest()
    memo.write_text("{ not JSON")
    assert file_sha256(path) == hashlib.sha256(b"two!").hexdigest()


def test_many_at_once(hub, tmp_path):
    files = [tmp_path / f"{number}.bin" for number in range(4)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 100_000)
    with ThreadPoolExecutor(16) as pool:
        hashes = list(pool.map(file_sha256, files * 25))
    assert hashes == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files] * 25
    for path in files:
        assert json.loads(download._memo(path).read_text())["digests"]["sha256"] == file_sha256(path)
    left = [path for path in (hub_home() / "sepcli").rglob(".*") if path.is_file()]
    assert left == []


@pytest.mark.slow
def test_several_processes_download_the_same_file(tmp_path):
    with FakeHub() as hub:
        env = hub.env(tmp_path, PYTHONPATH=os.pathsep.join(sys.path))
        file = on_url(hub, sha256=None)
        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(lambda _: in_new_process(env, file), range(3)))
    assert {entry.get("path") for entry in said} == {str(said[0]["path"])}
    assert Path(said[0]["path"]).read_bytes() == DATA


def test_a_record_is_never_overwritten(hub):
    first = download._record("somewhere", "a" * 64)
    assert first["new"] and download._record("somewhere", "b" * 64)["sha256"] == "a" * 64
