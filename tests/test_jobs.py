"""Batches: names and collisions, what is skipped or refused, results, and a kill in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepcli import loading
from sepcli.batch.decisions import OLD_TEMPLATE
from sepcli.batch.inputs import Shard
from sepcli.batch.jobs import preview, run
from sepcli.batch.manifest import LOCK_NAME, MANIFEST_NAME, Manifest
from sepcli.batch.names import names_if_known
from sepcli.batch.outputs import DEFAULT_TEMPLATE
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.request import Request, look_up
from sepcli.batch.results import Listener, unfinished
from sepcli.cli.options import option_text
from sepcli.engine.settings import Settings
from sepcli.errors import OutputError, UsageError, spelled
from sepcli.sound.formats import FORMATS, HEADER_BYTES
from sepcli.weights.catalog import load_catalog
from tests import fake_model

SUFFIXES = {".wav", ".flac", ".mp3"}
STEMS = ["drums", "bass", "other", "vocals"]


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load_model", fake_model.load_model)
    fake_model.loads.clear()
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    return fake_model.catalog_file(tmp_path)


@pytest.fixture
def catalog(fake):
    return load_catalog([fake])


def song(path, seconds=0.2, seed=0, samplerate=44100):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * samplerate), 2))
    with open(path, "wb") as file:  # soundfile itself takes UTF-8 names only
        soundfile.write(file, samples, samplerate, subtype="PCM_16", format=path.suffix[1:].upper())
    return str(path)


def request(**changes):
    spec = OutputSpec(**changes.pop("spec", {}))
    cut = {name: changes.pop(name) for name in list(changes) if name in Settings.__dataclass_fields__}
    return Request(
        **{
            "model": "fake",
            "out": Path("out"),
            "template": OLD_TEMPLATE,  # shorter
            "spec": spec,
            "settings": Settings(**cut),
            **changes,
        }
    )


def plan(catalog, arguments, **changes):
    return look_up(request(**changes), arguments, catalog, SUFFIXES)


def batch(catalog, arguments, **changes):
    """The batch with its names, and the results of a run."""
    asked = plan(catalog, arguments, **changes)
    named = names_if_known(asked)
    return named, list(run(asked, named=named))


def told(catalog, arguments, **changes):
    """As `batch`, with the notices of the run."""
    heard = []
    listener = Listener()
    listener.notice = heard.append
    asked = plan(catalog, arguments, **changes)
    named = names_if_known(asked)
    return named, list(run(asked, listener, named)), heard


def statuses(results):
    return [result.status for result in results]


def tree(folder="out"):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in (MANIFEST_NAME, LOCK_NAME)
    )


# --- names ---


def test_stems_mirror_the_folder_of_the_input(catalog):
    song("albums/A/one.wav"), song("albums/two.wav", seed=1)
    _, results = batch(catalog, ["albums"], targets=("vocals",))
    assert statuses(results) == ["done", "done"]
    assert tree() == ["A/one/vocals.wav", "two/vocals.wav"]


def test_targets_come_in_the_models_order_with_the_rest_last(catalog):
    song("a.wav")
    named, _ = batch(catalog, ["a.wav"], targets=("vocals", "bass"), spec={"rest": True})
    assert named.stems.files == ("bass", "vocals", "rest") and named.stems.targets == ("bass", "vocals")
    batch(catalog, ["a.wav"], targets=("vocals",), spec={"rest": True}, out=Path("o2"))
    assert tree("o2") == ["a/no_vocals.wav", "a/vocals.wav"]


def test_an_exact_sum_of_targets_implies_the_rest(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"], targets=("vocals",), spec={"sum": "exact"})
    assert tree() == ["a/no_vocals.wav", "a/vocals.wav"]


@pytest.mark.parametrize(
    ("inputs", "expected", "field"),
    [
        (["x/song.wav", "y/song.wav"], ["x/song/vocals.wav", "y/song/vocals.wav"], "{parent}"),
        (["song.wav", "song.flac"], ["song.flac/vocals.wav", "song.wav/vocals.wav"], "{trackext}"),
        (
            ["song.wav", "song.flac", "other.wav"],
            ["other/vocals.wav", "song.flac/vocals.wav", "song.wav/vocals.wav"],
            "{trackext}",
        ),
        (
            ["x/song.wav", "x/song.flac", "y/song.wav"],
            ["x/song.flac/vocals.wav", "x/song.wav/vocals.wav", "y/song.wav/vocals.wav"],
            "{parent} and {trackext}",
        ),
    ],
)
def test_inputs_that_land_on_one_path_are_told_apart_with_a_notice(catalog, inputs, expected, field):
    for seed, name in enumerate(inputs):
        song(name, seed=seed)
    named, results = batch(catalog, inputs, targets=("vocals",))
    assert statuses(results) == ["done"] * len(inputs)
    assert tree() == expected
    assert any(field in notice for notice in named.notices)


def test_inputs_that_cannot_be_told_apart_are_refused_by_name_before_any_work(catalog):
    song("p/albums/A/song.wav"), song("q/albums/A/song.wav", seed=1)
    with pytest.raises(UsageError) as refused:
        batch(catalog, ["p/albums", "q/albums"])
    assert "p/albums/A/song.wav" in refused.value.message and "q/albums/A/song.wav" in refused.value.message
    assert not Path("out").exists() and not fake_model.loads


def test_one_name_for_all_tracks_is_told_apart_or_refused(catalog):
    song("x/1.wav"), song("y/2.wav", seed=1), song("y/3.wav", seed=2)
    batch(catalog, ["x/1.wav", "y/2.wav"], targets=("vocals",), template="{stem}.{ext}")
    assert tree() == ["x/vocals.wav", "y/vocals.wav"]
    with pytest.raises(UsageError, match="both be written"):
        batch(catalog, ["y/2.wav", "y/3.wav"], targets=("vocals",), template="{stem}.{ext}", out=Path("o2"))


COMPOSED, DECOMPOSED = "\xe9", "e\u0301"  # two names on most file systems, one letter for people


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these are one name there")
@pytest.mark.parametrize("template", ["{track}/{stem}.{ext}", "{stem}/{track}.{ext}"])
def test_names_that_look_the_same_get_a_number_whatever_the_order(catalog, template):
    names = [f"{DECOMPOSED}.wav", f"{COMPOSED}.wav", f"{COMPOSED} (2).wav", "what?.wav", "what:.wav", "b.wav"]
    for seed, name in enumerate(names):
        song(f"m/{name}", seed=seed)
    files = [f"m/{name}" for name in names]
    chosen = {}
    for arguments in (["m"], files, files[::-1]):
        named = names_if_known(plan(catalog, arguments, targets=("bass",), template=template))
        now = {track.source.name: str(track.outputs["bass"]) for track in named.tracks}
        assert len(set(now.values())) == len(names) and now == (chosen or now)
        chosen = now
        assert sum("a number, by the order of their bytes" in notice for notice in named.notices) == 2
    first, second, own, colon, question, plain = (
        chosen[f"m/{name}"] for name in [*names[:3], "what:.wav", "what?.wav", "b.wav"]
    )
    assert f"{DECOMPOSED} (1)" in first and f"{COMPOSED} (3)" in second  # (2) is the name of another
    assert f"{COMPOSED} (2)" in own and "what_ (1)" in colon and "what_ (2)" in question
    assert Path(plain) == Path("out", *template.format(track="b", stem="bass", ext="wav").split("/"))

    sharded = {}
    for number in (1, 2):
        asked = plan(catalog, ["m"], targets=("bass",), template=template, shard=Shard(number, 2))
        tracks = names_if_known(asked).tracks
        sharded |= {track.source.name: str(track.outputs["bass"]) for track in tracks}
    assert sharded == chosen
    _, results = batch(catalog, ["m"], targets=("bass",), template=template)
    assert statuses(results) == ["done"] * len(names)
    _, results = batch(catalog, files[::-1], targets=("bass",), template=template)
    assert statuses(results) == ["skipped"] * len(names)


def test_names_that_differ_in_case_get_a_number_where_the_output_folder_folds_it(catalog, monkeypatch):
    song("x/Song.wav"), song("x/other.wav", seed=1)
    (Path("y")).mkdir()
    os.replace("x/other.wav", "y/song.wav")
    monkeypatch.setattr("sepcli.batch.names.folds_case", lambda folder: True)
    named = names_if_known(plan(catalog, ["x", "y"], targets=("bass",)))
    assert [track.outputs["bass"].as_posix() for track in named.tracks] == [
        "out/x/Song/bass.wav",
        "out/y/song/bass.wav",
    ]
    named = names_if_known(plan(catalog, ["x", "y"], targets=("bass",), template="{track}.{ext}"))
    assert len({track.outputs["bass"].as_posix().lower() for track in named.tracks}) == 2
    Path("y").rename("X") if not Path("X").exists() else pytest.skip("the file system folds case itself")
    named = names_if_known(plan(catalog, ["x", "X"], targets=("bass",)))
    assert sorted(track.outputs["bass"].as_posix() for track in named.tracks) == [
        "out/Song (1)/bass.wav",
        "out/song (2)/bass.wav",
    ]


def test_an_input_is_never_an_output(catalog):
    song("vocals.wav")
    for link in ("hard", "soft"):
        folder = Path(link)
        folder.mkdir()
        (os.link if link == "hard" else os.symlink)(Path("vocals.wav").absolute(), folder / "vocals.wav")
        with pytest.raises(UsageError, match="is the input"):
            batch(catalog, ["vocals.wav"], out=folder, template="{stem}.{ext}", force=True)
    with pytest.raises(UsageError, match="is the input"):
        batch(catalog, ["vocals.wav"], out=Path("."), template="{stem}.{ext}", force=True)


def test_an_unknown_stem_names_those_of_the_model_and_the_models_that_have_it(catalog):
    song("a.wav")
    with pytest.raises(UsageError) as error:
        batch(catalog, ["a.wav"], targets=("choir",))
    assert "drums, bass, other, vocals" in error.value.message
    assert "vox (3 MB)" in error.value.remedy and error.value.code == "unknown_stem"


def test_stems_of_several_models_stand_side_by_side(catalog):
    song("albums/A/one.wav")
    for model in ("fake", "unhashed"):
        _, results = batch(
            catalog, ["albums"], model=model, template=DEFAULT_TEMPLATE, targets=("vocals",), out=Path("o2")
        )
        assert statuses(results) == ["done"]
    assert tree("o2") == ["fake/A/one/vocals.wav", "unhashed/A/one/vocals.wav"]


def test_a_folder_of_the_old_layout_gets_one_notice(catalog):
    song("in/a.wav"), song("in/b.wav", seed=1)
    batch(catalog, ["in"], targets=("vocals",))
    heard = []
    listener = Listener()
    listener.notice = heard.append
    asked = plan(catalog, ["in"], targets=("vocals",), template=DEFAULT_TEMPLATE)
    assert statuses(run(asked, listener)) == ["done", "done"]
    assert len(heard) == 1 and "MODEL/TRACK" in heard[0] and "stay there" in heard[0]
    assert statuses(run(asked, listener)) == ["skipped", "skipped"] and len(heard) == 1
    assert tree() == [f"{name}/vocals.wav" for name in ("a", "b", "fake/a", "fake/b")]


# --- skip, redo, refuse ---


def test_a_finished_track_is_skipped_without_the_model(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    before = {path: os.stat(Path("out") / path).st_mtime_ns for path in tree()}
    fake_model.loads.clear()
    _, results = batch(catalog, ["a.wav"], device="cpu", batch_size=3)  # neither changes samples
    assert statuses(results) == ["skipped"] and set(results[0].outputs) == set(STEMS)
    assert before == {path: os.stat(Path("out") / path).st_mtime_ns for path in tree()}
    assert not fake_model.loads


@pytest.mark.parametrize("changes", [{"force": True}, {"resume": False}])
def test_force_and_no_resume_redo_what_is_finished(catalog, changes):
    song("a.wav")
    batch(catalog, ["a.wav"])
    before = {path: os.stat(Path("out") / path).st_mtime_ns for path in tree()}
    _, results, heard = told(catalog, ["a.wav"], **changes)
    assert statuses(results) == ["done"] and len(heard) == 1 and "a.wav was there already" in heard[0]
    assert not any(os.stat(Path("out") / path).st_mtime_ns == date for path, date in before.items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overlap": 0.1}, "overlap"),
        ({"shifts": 1}, "shifts"),
        ({"spec": {"depth": "24"}}, "depth"),
        ({"start": 0.01}, "start"),
        ({"duration": 0.1}, "duration"),
        ({"targets": ("drums",), "shifts": 1}, "shifts"),
        ({"model": "unhashed"}, "model"),
        ({"precision": "bfloat16"}, "precision"),
        ({"seed": 5}, "seed"),
        ({"options": {"steps": "1"}}, "options"),
    ],
)
def test_files_made_with_other_settings_are_replaced_with_a_notice(catalog, changes, named):
    song("a.wav")
    batch(catalog, ["a.wav"])
    before = Path("out/a/drums.wav").stat().st_mtime_ns
    (decision,) = preview(plan(catalog, ["a.wav"], **changes))
    assert (decision.action, named in decision.why) == ("replace", True)
    _, results, heard = told(catalog, ["a.wav"], **changes)
    assert statuses(results) == ["done"] and Path("out/a/drums.wav").stat().st_mtime_ns != before
    assert len(heard) == 1 and f"other settings ({named})" in heard[0] and "drums" in heard[0], heard
    _, results, heard = told(catalog, ["a.wav"], **changes)
    assert statuses(results) == ["skipped"] and not heard


def edited(path):
    """The same size, in the same second."""
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


@pytest.mark.parametrize("edit", [edited, lambda path: Path(path).write_bytes(b"short"), os.utime])
def test_files_that_somebody_has_touched_are_never_replaced_unless_forced(catalog, edit):
    song("a.wav"), song("b.wav", seed=1)
    batch(catalog, ["a.wav", "b.wav"])
    edit("out/a/bass.wav")
    mine = Path("out/a/bass.wav").read_bytes()
    before = {path: (Path("out") / path).read_bytes() for path in tree()}
    for changes in ({"shifts": 1}, {"resume": False}):
        with (
            pytest.raises(UsageError, match="a/bass.wav' was changed after sepcli made it") as error,
            spelled(option_text),
        ):
            batch(catalog, ["b.wav", "a.wav"], **changes)
        assert "-o" in error.value.remedy and "--force" in error.value.remedy
    assert error.value.exit_code == 2
    assert before == {path: (Path("out") / path).read_bytes() for path in tree()}
    # With the same settings nothing has to be replaced.
    _, results, heard = told(catalog, ["a.wav"])
    assert statuses(results) == ["skipped"] and Path("out/a/bass.wav").read_bytes() == mine
    assert ["a/bass.wav" in text and "will stay so" in text for text in heard] == [True] * (len(mine) == 5)
    Path("out/a/drums.wav").unlink()
    assert statuses(told(catalog, ["a.wav"])[1]) == ["done"] and Path("out/a/bass.wav").read_bytes() == mine
    date = Path("out/a/bass.wav").stat().st_mtime_ns
    assert statuses(batch(catalog, ["a.wav"], shifts=1, force=True)[1]) == ["done"]
    assert Path("out/a/bass.wav").stat().st_mtime_ns != date


def test_a_copy_of_the_folder_with_rounded_dates_is_still_ours(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    shutil.copytree("out", "copy")
    for path in Path("copy").rglob("*.wav"):
        date = path.stat().st_mtime_ns
        os.utime(path, ns=(date, date // 2_000_000_000 * 2_000_000_000))
    assert statuses(batch(catalog, ["a.wav"], out=Path("copy"), shifts=1)[1]) == ["done"]


def test_a_file_that_sepcli_did_not_make_is_refused(catalog):
    song("a.wav"), song("b.wav", seed=1)
    Path("out/b").mkdir(parents=True)
    Path("out/b/vocals.wav").write_bytes(b"mine")
    with pytest.raises(UsageError, match="did not make it"):
        batch(catalog, ["a.wav", "b.wav"])
    assert tree() == ["b/vocals.wav"] and not fake_model.loads
    batch(catalog, ["b.wav"], force=True)
    assert Path("out/b/vocals.wav").read_bytes() != b"mine"


def test_an_input_that_moved_or_was_touched_is_still_known(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    os.utime("a.wav", ns=(1, 1))
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["skipped"]
    Path("moved").mkdir()
    shutil.move("a.wav", "moved/a.wav")
    assert statuses(batch(catalog, ["moved/a.wav"])[1]) == ["skipped"]


def test_a_new_version_of_an_input_is_separated_again_but_another_input_is_refused(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    song("a.wav", seed=7)
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["done"]
    song("elsewhere/a.wav", seed=8)
    with pytest.raises(UsageError, match="another input"):
        batch(catalog, ["elsewhere/a.wav"])


def test_the_model_is_loaded_first_only_where_its_hash_is_not_known(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"], model="unhashed")
    assert fake_model.loads == ["unhashed"]
    assert statuses(batch(catalog, ["a.wav"], model="unhashed")[1]) == ["skipped"]
    assert fake_model.loads == ["unhashed", "unhashed"]


def test_stems_of_another_engine_are_made_again_with_a_notice(catalog, monkeypatch):
    song("a.wav"), song("b.wav", seed=1)
    batch(catalog, ["a.wav", "b.wav"])
    monkeypatch.setattr("sepcli.batch.decisions.ENGINE_VERSION", 1000)
    _, results, heard = told(catalog, ["a.wav"])
    assert statuses(results) == ["done"]
    assert len(heard) == 1 and "another version of the engine" in heard[0] and heard[0].startswith("a.wav was")
    _, results, heard = told(catalog, ["a.wav", "b.wav"])
    assert statuses(results) == ["skipped", "done"] and len(heard) == 1


def test_a_manifest_of_an_earlier_version_is_understood(catalog):
    """Without dates, without the engine, and without what each file depends on."""
    song("a.wav")
    batch(catalog, ["a.wav"])
    path = Path("out") / MANIFEST_NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (made_with,) = (line["made_with"] for line in lines if line["kind"] == "settings")
    del made_with["engine"]
    lines = [line for line in lines if line["kind"] != "settings"]
    for line in lines:
        if "settings" in line:
            del line["gain"]
            line["made_with"] = made_with
            line["settings"] = "of another version"
            for output in line["outputs"]:
                del output["mtime_ns"], output["made"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [d.action for d in preview(plan(catalog, ["a.wav"]))] == ["replace"]
    _, results, heard = told(catalog, ["a.wav"])
    assert statuses(results) == ["done"] and len(heard) == 1 and "another version" in heard[0]
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["skipped"]


def test_settings_that_the_manifest_does_not_name_any_more(catalog):
    """Its first lines are gone: what stands is known, and how it was made is not."""
    song("a.wav")
    batch(catalog, ["a.wav"])
    path = Path("out") / MANIFEST_NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["kind"] != "settings"))
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["skipped"]
    _, results, heard = told(catalog, ["a.wav"], shifts=1)
    assert statuses(results) == ["done"] and len(heard) == 1 and "does not name" in heard[0]


def test_the_template_says_where_and_not_how(catalog):
    """Files of the same settings under other names are made beside the old ones; the same names are ours."""
    song("a.wav")
    batch(catalog, ["a.wav"], targets=("bass",))
    _, results = batch(catalog, ["a.wav"], targets=("bass",), template="{stem}/{track}.{ext}")
    assert statuses(results) == ["done"] and tree() == ["a/bass.wav", "bass/a.wav"]
    assert statuses(batch(catalog, ["a.wav"], targets=("bass",))[1]) == ["skipped"]
    same = "{track}/{stem}.{ext}".replace("{track}", "a")
    assert statuses(batch(catalog, ["a.wav"], targets=("bass",), template=same)[1]) == ["skipped"]


def test_the_record_comes_after_the_work_and_before_the_names(catalog, monkeypatch):
    song("a.wav")
    seen, add = [], Manifest.add

    def watched(self, record, about=None):
        seen.append(record)
        sizes = {output.stem: output.bytes for output in record.outputs}
        if record.done:
            assert sizes == {stem: Path(f"out/a/{stem}.wav").stat().st_size for stem in STEMS}
        else:
            assert list(sizes) == STEMS and tree() == sorted(
                path for path in tree() if path.startswith(".sepcli-work")
            )
        add(self, record, about)

    monkeypatch.setattr(Manifest, "add", watched)
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["done"]
    assert [record.done for record in seen] == [False, True]
    assert seen[0].outputs == seen[1].outputs


def test_a_record_that_cannot_be_written_gives_no_names(catalog, monkeypatch):
    song("a.wav")

    def full(self, record, about=None):
        raise OutputError("The disk is full.", code="disk_full")

    monkeypatch.setattr(Manifest, "add", full)
    _, (result,) = batch(catalog, ["a.wav"])
    assert result.error.code == "disk_full" and tree() == []


# --- two runs over one folder ---


def test_a_track_on_which_another_run_works_is_left_to_it(catalog):
    """The other run is in the middle of the first track; this one does the second, then waits for the first."""
    song("a.wav"), song("b.wav", seed=1)
    order = []

    class InTheMiddle(Listener):
        def progress(self, track, done, total):
            if not order:
                order.append("first")
                second = run(plan(catalog, ["a.wav", "b.wav"]))
                order.append(next(second))  # b: a is claimed
                self.second = second

    listener = InTheMiddle()
    first = list(run(plan(catalog, ["a.wav", "b.wav"]), listener))
    assert (order[1].input, order[1].status) == ("b.wav", "done")
    assert [(result.input, result.status) for result in first] == [("a.wav", "done"), ("b.wav", "skipped")]
    assert [(result.input, result.status) for result in listener.second] == [("a.wav", "skipped")]


def test_a_track_that_was_finished_just_before_the_claim_is_not_done_twice(catalog, monkeypatch):
    song("a.wav")
    claim, meanwhile = Manifest.claim, []

    def late(self, outputs, by, alive):
        if not meanwhile:
            meanwhile.append(None)
            meanwhile[0] = statuses(batch(catalog, ["a.wav"])[1])
        return claim(self, outputs, by, alive)

    monkeypatch.setattr(Manifest, "claim", late)
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["skipped"] and meanwhile == [["done"]]


def test_a_claim_of_a_dead_run_is_nobodys(catalog):
    song("a.wav")
    Path("out").mkdir()
    outputs = [Path(f"out/a/{stem}.wav") for stem in STEMS]
    assert Manifest(Path("out")).claim(outputs, ".sepcli-work-dead", lambda name: True) is None
    assert Manifest(Path("out")).claim(outputs, "other", lambda name: True) == ".sepcli-work-dead"
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["done"]


def test_a_failed_track_is_free_for_another_run(catalog, monkeypatch):
    song("a.wav")
    from sepcli.batch import track

    with monkeypatch.context() as patch:
        patch.setattr(track, "render", lambda *rest, **named: 1 / 0)
        running = run(plan(catalog, ["a.wav"]))
        assert next(running).status == "failed"  # this run lives on
        patch.undo()
        assert statuses(batch(catalog, ["a.wav"])[1]) == ["done"]


# --- results ---


def test_one_result_for_every_input_and_the_batch_goes_on(catalog):
    song("good.wav"), song("good2.wav", seed=1)
    Path("text.wav").write_text("no audio")
    Path("empty.wav").touch()
    arguments = ["missing.wav", "good.wav", "text.wav", "empty.wav", "good2.wav"]
    _, results = batch(catalog, arguments)
    found = {result.input: result for result in results}
    assert {name: result.status for name, result in found.items()} == {
        "missing.wav": "failed",
        "good.wav": "done",
        "text.wav": "failed",
        "empty.wav": "failed",
        "good2.wav": "done",
    }
    assert fake_model.loads == ["fake"]
    for result in results:
        fields = result.as_json()
        assert json.loads(json.dumps(fields)) == fields
        assert set(fields) == set(results[0].as_json())
        if result.status == "failed":
            assert result.exit_code == 1 and set(fields["error"]) == {"code", "message", "remedy"}
            assert fields["error"]["message"] and fields["error"]["remedy"]
        else:
            assert fields["realtime"] > 0 and fields["gain"] == 1.0 and fields["device"] == "cpu"


def test_a_track_too_long_for_its_format_is_reported_before_the_first_one_is_separated(catalog, monkeypatch):
    """AIFF files end at 4 GiB; here at 0.6 s of stereo at 16 bits, as are the files."""
    monkeypatch.setitem(FORMATS, "aiff", replace(FORMATS["aiff"], max_bytes=26_460 * 4 + HEADER_BYTES))
    begun = []
    listener = Listener()
    monkeypatch.setattr(listener, "started", lambda track, number, count: begun.append(track.source.name))
    names = [song("short.wav", 0.5), song("long.wav", 0.7)]
    running = run(plan(catalog, names, spec={"format": "aiff"}), listener)
    first = next(running)
    assert (first.input, first.status, begun) == ("long.wav", "failed", [])
    assert first.error.code == "too_large" and first.exit_code == 2
    assert [(result.input, result.status) for result in running] == [("short.wav", "done")]
    assert begun == ["short.wav"]
    # What counts is the part that is separated, at the rate of the stems.
    again = {"targets": ("vocals",), "out": Path("part")}
    assert statuses(batch(catalog, ["long.wav"], spec={"format": "aiff"}, duration=0.5, **again)[1]) == ["done"]
    assert statuses(batch(catalog, ["long.wav"], spec={"format": "caf"}, out=Path("caf"))[1]) == ["done"]
    spec = {"format": "aiff", "samplerate": 22_050}
    assert statuses(batch(catalog, ["long.wav"], spec=spec, out=Path("half"))[1]) == ["done"]


def test_inputs_that_are_all_bad_need_no_model_and_leave_no_folder(catalog):
    _, results = batch(catalog, ["missing.wav"])
    assert statuses(results) == ["failed"] and not fake_model.loads and not Path("out").exists()


def test_an_unforeseen_error_is_the_tracks_own(catalog, monkeypatch):
    song("a.wav"), song("b.wav", seed=1)
    from sepcli.batch import track

    real = track.render

    def breaks(source, *rest, **named):
        if source.name == "a.wav":
            raise ZeroDivisionError("oh")
        return real(source, *rest, **named)

    monkeypatch.setattr(track, "render", breaks)
    heard = []
    listener = Listener()
    listener.failed = heard.append
    first, second = run(plan(catalog, ["a.wav", "b.wav"]), listener)
    assert (first.status, first.error.code, second.status) == ("failed", "internal", "done")
    assert isinstance(heard[0], ZeroDivisionError)


@pytest.mark.parametrize("error", [OutputError("The disk is full.", code="disk_full"), OSError(28, "No space")])
def test_a_full_disk_ends_the_batch_and_finished_tracks_stand(catalog, monkeypatch, error):
    for seed, name in enumerate("abcd"):
        song(f"{name}.wav", seed=seed)
    from sepcli.batch import track

    real = track.render

    def full(source, *rest, **named):
        if source.name == "b.wav":
            raise error
        return real(source, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(track, "render", full)
        _, results = batch(catalog, ["a.wav", "b.wav", "c.wav", "d.wav"])
    assert statuses(results) == ["done", "failed", "failed", "failed"]
    assert [result.exit_code for result in results] == [0, 5, 0, 0]
    assert [result.error.code for result in results[1:]] == ["disk_full", "not_done", "not_done"]
    assert statuses(batch(catalog, ["a.wav", "b.wav", "c.wav", "d.wav"])[1]) == ["skipped", *["done"] * 3]


def test_memory_that_ran_out_is_a_device_error(catalog, monkeypatch):
    song("a.wav")
    from sepcli.batch import track

    def breaks(*rest, **named):
        raise MemoryError

    monkeypatch.setattr(track, "render", breaks)
    _, (result,) = batch(catalog, ["a.wav"])
    assert result.error.exit_code == 4


def test_room_for_all_results_is_checked_before_the_model_is_loaded(catalog, monkeypatch):
    song("a.wav", seconds=1), song("b.wav", seconds=1, seed=1)
    one = 44100 * 2 * 2 * 4  # bytes: frames, channels, 16 bits, stems
    for free, enough in ((int(3.9 * one), False), (4 * one + 2**20, True)):  # 2 tracks, one float32 spool = 2
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free))
        if enough:
            assert statuses(batch(catalog, ["a.wav", "b.wav"])[1]) == ["done", "done"]
        else:
            with pytest.raises(OutputError, match="free"):
                batch(catalog, ["a.wav", "b.wav"])
            assert not fake_model.loads


def test_an_interruption_leaves_nothing_unfinished_and_unfinished_names_the_rest(catalog, monkeypatch):
    for seed, name in enumerate("abc"):
        song(f"{name}.wav", seed=seed)
    asked = plan(catalog, ["a.wav", "b.wav", "c.wav"])

    class Stop(Listener):
        def progress(self, track, done, total):
            if self.number == 2:
                raise KeyboardInterrupt

        def started(self, track, number, count):
            self.number = number

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for result in run(asked, Stop()):
            seen.append(result)
    assert statuses(seen) == ["done"]
    assert [result.input for result in unfinished(asked, seen, "stopped")] == ["b.wav", "c.wav"]
    assert tree() == [f"a/{stem}.wav" for stem in sorted(STEMS)]
    assert not list(Path("out").glob(".sepcli-work*"))


def test_shards_divide_a_batch_and_share_one_folder(catalog):
    for seed in range(6):
        song(f"m/{seed}.wav", seed=seed)
    done = [result.input for part in (1, 2, 3) for result in batch(catalog, ["m"], shard=Shard(part, 3))[1]]
    assert sorted(done) == sorted(f"m/{seed}.wav" for seed in range(6))
    assert statuses(batch(catalog, ["m"])[1]) == ["skipped"] * 6


def test_shards_agree_on_names_that_collide_across_them(catalog):
    song("m/a.wav"), song("m/a.flac", seed=1)
    parts = {part: {name for name in ("a.wav", "a.flac") if Shard(part, 5).has(name)} for part in range(1, 6)}
    assert {"a.wav", "a.flac"} not in parts.values(), "the two have to be in different shards for this"
    for part in parts:
        batch(catalog, ["m"], targets=("bass",), shard=Shard(part, 5))
    assert tree() == ["a.flac/bass.wav", "a.wav/bass.wav"]


def test_odd_and_long_names_are_separated_with_a_notice_where_shortened(catalog):
    long, odd = "x" * 250, os.fsdecode(b"caf\xe9: 1?")
    try:
        song(f"m/{long}.wav"), song(f"m/{odd}.wav", seed=1)
    except OSError:
        pytest.skip("this file system has no such names")
    named, results = batch(catalog, ["m"], targets=("bass",), template="{track} - {stem}.{ext}")
    assert statuses(results) == ["done", "done"]
    assert all(len(os.fsencode(path)) <= 255 for path in tree()) and len(tree()) == 2
    assert any("longer than" in notice for notice in named.notices)
    assert statuses(batch(catalog, ["m"], targets=("bass",), template="{track} - {stem}.{ext}")[1]) == [
        "skipped",
        "skipped",
    ]


def test_what_another_process_finished_meanwhile_is_not_done_twice(catalog):
    song("a.wav"), song("b.wav", seed=1)
    running = run(plan(catalog, ["a.wav", "b.wav"]))
    assert next(running).status == "done"
    batch(catalog, ["b.wav"])
    assert next(running).status == "skipped"


# --- a real process ---


def start(*arguments, seconds="0.05"):
    environment = {**os.environ, "FAKE_SECONDS": seconds, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [*fake_model.PROGRAM, "separate", "-m", "fake", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished():
    try:
        lines = Path("out", MANIFEST_NAME).read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum('"kind": "done"' in line for line in lines)


def wait_for(condition, process, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def check_whole_stems(count):
    paths = [path for path in Path("out").rglob("*.wav") if not path.parts[1].startswith(".")]
    assert len(paths) >= count
    for path in paths:
        assert soundfile.info(path).frames == 2 * 44100, path


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_batch_killed_in_the_middle_is_completed_by_the_same_command(catalog):
    for seed in range(5):
        song(f"m/{seed}.wav", seconds=2, seed=seed)
    process = start("m", "-o", "out")
    wait_for(lambda: finished() >= 2, process)
    time.sleep(0.1)  # into the third
    process.kill()
    process.communicate()
    kept = {
        path: path.stat().st_mtime_ns
        for path in Path("out").rglob("*.wav")
        if not path.parts[1].startswith(".")
    }
    check_whole_stems(8)
    assert list(Path("out").glob(".sepcli-work*")), "nothing was unfinished: the kill came too late"

    again = start("m", "-o", "out", "--json", seconds="0")
    printed, _ = again.communicate()
    assert again.returncode == 0
    found = [json.loads(line)["status"] for line in printed.splitlines()]
    assert found.count("skipped") >= 2 and found.count("done") == 5 - found.count("skipped") > 0
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in kept.items())
    assert len(tree()) == 20 and not list(Path("out").glob(".sepcli-work*"))
    check_whole_stems(20)


@pytest.mark.slow
def test_two_processes_on_one_folder_divide_the_work(catalog):
    for seed in range(6):
        song(f"m/{seed}.wav", seconds=2, seed=seed)
    processes = [start("m", "-o", "out", "--json") for _ in range(2)]
    found = []
    for process in processes:
        printed, logged = process.communicate(timeout=120)
        assert process.returncode == 0, logged
        found.append({r["input"]: r["status"] for r in map(json.loads, printed.splitlines())})
    assert all(set(each.values()) <= {"done", "skipped"} and len(each) == 6 for each in found)
    for name in found[0]:  # each track was done by one of them, and the other knows it
        assert sorted(each[name] for each in found) == ["done", "skipped"]
    assert len(tree()) == 24 and not list(Path("out").glob(".sepcli-work*"))
    check_whole_stems(24)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_batch_cleanly(catalog, name, code):
    for seed in range(4):
        song(f"m/{seed}.wav", seconds=2, seed=seed)
    process = start("m", "-o", "out", "--json")
    wait_for(lambda: finished() >= 1, process)
    time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    printed, logged = process.communicate(timeout=30)
    assert process.returncode == code, logged
    results = [json.loads(line) for line in printed.splitlines()]
    assert len(results) == 4 and {result["status"] for result in results} == {"done", "failed"}
    assert {result["error"]["code"] for result in results if result["error"]} == {"not_done"}
    assert "Traceback" not in logged and "done" in logged and "Stopped" in logged
    assert not list(Path("out").glob(".sepcli-work*"))
    check_whole_stems(4)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_that_is_closed_ends_a_batch_cleanly(catalog, tmp_path):
    """Its messages have nowhere to go any more; its results, in a file, are complete all the same."""
    import pty

    for seed in range(4):
        song(f"m/{seed}.wav", seconds=2, seed=seed)
    results = tmp_path / "results.jsonl"
    child, terminal = pty.fork()
    if child == 0:  # the leader of a session of its own, as what runs in a terminal's window
        os.environ.update(FAKE_SECONDS="0.05", PYTHONPATH=str(Path(__file__).parents[1]))
        os.dup2(os.open(results, os.O_WRONLY | os.O_CREAT), 1)
        program = [
            *fake_model.PROGRAM,
            "separate",
            "-m",
            "fake",
            "m",
            "-o",
            "out",
            "--json",
        ]
        os.execv(sys.executable, program)
    until = time.monotonic() + 60
    while finished() < 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.1)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(found) == 4 and {result["status"] for result in found} == {"done", "failed"}
    assert not list(Path("out").glob(".sepcli-work*"))
    check_whole_stems(4)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_nohup_lets_a_batch_go_on(catalog):
    song("a.wav", seconds=2)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("a.wav", "-o", "out", seconds="0.2")
    finally:
        signal.signal(signal.SIGHUP, former)
    wait_for(lambda: list(Path("out").glob(".sepcli-work*")), process)
    process.send_signal(signal.SIGHUP)
    _, logged = process.communicate(timeout=60)
    assert process.returncode == 0 and "1 done" in logged
