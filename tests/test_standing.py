"""What stands in an output folder when the next command comes: what is reused, replaced and kept."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepcli.api import separate_file
from sepcli.batch import track, workspace
from sepcli.batch.inputs import Shard
from sepcli.batch.jobs import preview, run
from sepcli.batch.manifest import MANIFEST_NAME, Manifest
from sepcli.batch.request import Request
from sepcli.batch.results import Listener
from sepcli.errors import UsageError
from sepcli.weights.catalog import load_catalog
from tests import fake_model
from tests.test_jobs import STEMS, batch, plan, song, statuses, told, tree
from tests.toys import Split


@pytest.fixture(autouse=True)
def catalog(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    return load_catalog()


VOCALS = {"targets": ("vocals",), "spec": {"rest": True}}


def ints(path, bits=16):
    """[T, C], the integers of a file."""
    return soundfile.read(path, dtype="int32", always_2d=True)[0].astype(np.int64) >> (32 - bits)


def dates():
    return {path: os.stat(Path("out") / path).st_mtime_ns for path in tree()}


def loud(name="a.wav", peak=1.0, seconds=0.2, subtype="PCM_16", samplerate=44100):
    """A song, and shares of it, of which some clip; see `boosted`."""
    samples = np.random.default_rng(3).uniform(-peak, peak, (int(seconds * samplerate), 2))
    soundfile.write(name, samples, samplerate, subtype=subtype)
    return name


@pytest.fixture
def boosted(monkeypatch):
    """The drums are three times the mix, so that they clip."""

    monkeypatch.setitem(Split.SHARES, "drums", 3.0)


# --- stems that stand are reused ---


def test_after_all_stems_the_rest_of_one_needs_no_model(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    before = dates()
    fake_model.loads.clear()
    (decision,) = preview(plan(catalog, ["a.wav"], **VOCALS))
    assert (decision.action, decision.kept) == ("separate", ("vocals",))
    _, results, heard = told(catalog, ["a.wav"], **VOCALS)
    assert statuses(results) == ["done"] and set(results[0].outputs) == {"vocals", "no_vocals"}
    assert not fake_model.loads and len(heard) == 1 and "has vocals already" in heard[0]
    assert tree() == sorted(f"a/{stem}.wav" for stem in [*STEMS, "no_vocals"])
    assert {path: date for path, date in dates().items() if path in before} == before
    assert (
        statuses(batch(catalog, ["a.wav"], **VOCALS)[1])
        == statuses(batch(catalog, ["a.wav"])[1])
        == ["skipped"]
    )


@pytest.mark.parametrize(
    ("subtype", "samplerate", "spec"),
    [
        ("PCM_16", 44100, {}),
        ("PCM_16", 44100, {"format": "flac", "depth": "24"}),
        ("PCM_24", 32000, {}),
        ("FLOAT", 44100, {}),
        ("PCM_16", 44100, {"clip": "clamp"}),
        ("PCM_16", 48000, {"samplerate": "model"}),  # 16 bits at another rate: by the model
        ("PCM_16", 44100, {"format": "ogg"}),  # lossy: by the model
    ],
)
def test_the_rest_is_as_a_new_run_gives_it(catalog, subtype, samplerate, spec):
    loud(peak=0.5, subtype=subtype, samplerate=samplerate)
    batch(catalog, ["a.wav"], spec=spec)
    fake_model.loads.clear()
    asked = {"targets": ("vocals",), "spec": {"rest": True, **spec}}
    batch(catalog, ["a.wav"], **asked)
    by_model = spec.get("format") == "ogg" or spec.get("samplerate") == "model"
    assert bool(fake_model.loads) is by_model
    batch(catalog, ["a.wav"], out=Path("new"), **asked)
    ext = spec.get("format", "wav")
    ours, new = (soundfile.read(f"{out}/a/no_vocals.{ext}")[0] for out in ("out", "new"))
    step = 2**-15 if soundfile.info(f"out/a/no_vocals.{ext}").subtype == "PCM_16" else 2**-23
    step = 1e-6 if subtype == "FLOAT" else step
    assert ours.shape == new.shape and np.abs(ours - new).max() <= (0 if by_model else 1.01 * step)
    if subtype == "PCM_16" and not by_model:
        mix, vocals = ints("a.wav"), ints(f"out/a/vocals.{ext}", 16 if ext == "wav" else 24)
        rest = ints(f"out/a/no_vocals.{ext}", 16 if ext == "wav" else 24)
        assert np.abs((mix << (0 if ext == "wav" else 8)) - vocals - rest).max() == 0
    kept, alone = (soundfile.info(f"{out}/a/vocals.{ext}") for out in ("out", "new"))
    assert (kept.frames, kept.samplerate) == (alone.frames, alone.samplerate)


def test_the_instrumental_is_made_of_the_vocals_though_nobody_asks_for_them(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    fake_model.loads.clear()
    asked = {"targets": ("instrumental",)}
    assert statuses(batch(catalog, ["a.wav"], **asked)[1]) == ["done"] and not fake_model.loads
    batch(catalog, ["a.wav"], out=Path("new"), **asked)
    assert fake_model.loads
    new, ours = (ints(f"{out}/a/instrumental.wav") for out in ("new", "out"))
    assert np.abs(new - ours).max() <= 1


def test_other_weights_or_another_way_to_blend_are_other_stems(catalog):
    """Of several models; and a stem depends on those alone that give it."""
    song("a.wav")
    both = {"model": "fake+unhashed", "template": "{track}/{stem}.{ext}"}
    assert statuses(batch(catalog, ["a.wav"], **both)[1]) == ["done"]
    assert statuses(batch(catalog, ["a.wav"], **both)[1]) == ["skipped"]
    _, results, heard = told(catalog, ["a.wav"], **{**both, "blend": "max_wave"})
    assert statuses(results) == ["done"] and "other settings (blend)" in heard[0]
    _, results, heard = told(catalog, ["a.wav"], **{**both, "model": "fake:2+unhashed"})
    assert statuses(results) == ["done"] and set(results[0].outputs) == set(STEMS)
    again = told(catalog, ["a.wav"], **{**both, "model": "fake:2+unhashed", "targets": ("bass",)})
    assert statuses(again[1]) == ["skipped"]


def test_only_the_missing_stems_are_made(catalog, monkeypatch):
    song("a.wav")
    batch(catalog, ["a.wav"], targets=("vocals",))
    made, real = [], track.render
    monkeypatch.setattr(
        track,
        "render",
        lambda source, engine, *rest, **named: (
            made.append(engine.sources) or real(source, engine, *rest, **named)
        ),
    )
    before = dates()
    _, results, heard = told(catalog, ["a.wav"])
    assert (
        statuses(results) == ["done"] and made == [("drums", "bass", "other")] and "vocals already" in heard[0]
    )
    assert set(results[0].outputs) == set(STEMS) and dates()["a/vocals.wav"] == before["a/vocals.wav"]
    batch(catalog, ["a.wav"], out=Path("new"))
    for stem in STEMS:
        assert np.abs(ints(f"out/a/{stem}.wav") - ints(f"new/a/{stem}.wav")).max() <= 1
    # Some files go: only they come again.
    Path("out/a/drums.wav").unlink(), Path("out/a/other.wav").unlink()
    made.clear()
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["done"] and made == [("drums", "other")]


def test_a_part_of_what_stands_is_skipped(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    fake_model.loads.clear()
    before = dates()
    assert statuses(batch(catalog, ["a.wav"], targets=("bass", "drums"))[1]) == ["skipped"]
    assert dates() == before and not fake_model.loads


@pytest.mark.parametrize("changed", ["settings", "input", "edited"])
def test_nothing_is_made_of_stems_that_are_not_what_this_run_would_make(catalog, changed):
    song("a.wav")
    batch(catalog, ["a.wav"])
    if changed == "input":
        song("a.wav", seed=9)
    if changed == "edited":
        os.utime("out/a/vocals.wav", ns=(1, 1))
    fake_model.loads.clear()
    asked = {"targets": ("instrumental",), "shifts": 1 if changed == "settings" else 0}
    assert statuses(batch(catalog, ["a.wav"], **asked)[1]) == ["done"] and fake_model.loads
    mix, rest = ints("a.wav"), ints("out/a/instrumental.wav")
    assert np.abs(mix * 0.875 - rest).max() <= 1


def test_an_exact_sum_reuses_nothing_of_other_runs(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"], spec={"sum": "exact"})
    before = dates()
    _, results, heard = told(catalog, ["a.wav"], targets=("vocals",), spec={"sum": "exact"})
    assert statuses(results) == ["done"] and dates()["a/vocals.wav"] != before["a/vocals.wav"]
    assert any("vocals is replaced" in text for text in heard)
    total = ints("out/a/vocals.wav") + ints("out/a/no_vocals.wav")
    np.testing.assert_array_equal(total, ints("a.wav"))


# --- levels ---


def test_stems_that_were_lowered_together_are_made_again_for_another_choice(catalog, boosted):
    loud()
    _, (first,), _ = told(catalog, ["a.wav"])
    assert first.gain < 1
    _, (second,), heard = told(catalog, ["a.wav"], **VOCALS)
    assert second.status == "done" and second.gain == 1 and "lowered together with other stems" in heard[0]
    assert np.abs(ints("out/a/vocals.wav") + ints("out/a/no_vocals.wav") - ints("a.wav")).max() <= 1
    # And back: now two gains stand there, which must not stay beside each other.
    _, (third,), heard = told(catalog, ["a.wav"])
    assert third.status == "done" and third.gain == first.gain
    assert statuses(batch(catalog, ["a.wav"])[1]) == ["skipped"]


def test_what_has_to_be_lowered_with_what_stands_is_made_again_with_it(catalog, boosted):
    loud()
    batch(catalog, ["a.wav"], targets=("vocals",))
    before = dates()
    _, (result,), heard = told(catalog, ["a.wav"])
    assert result.status == "done" and result.gain < 1 and dates()["a/vocals.wav"] != before["a/vocals.wav"]
    assert "would clip" in heard[-1] and "vocals can't stay" in heard[-1]
    batch(catalog, ["a.wav"], out=Path("new"))
    for stem in STEMS:
        np.testing.assert_array_equal(ints(f"out/a/{stem}.wav"), ints(f"new/a/{stem}.wav"))


def test_a_rest_that_would_clip_is_made_by_the_model_with_its_stem(catalog, boosted):
    loud()
    batch(catalog, ["a.wav"], targets=("vocals",))
    (decision,) = preview(plan(catalog, ["a.wav"], targets=("no_drums",)))
    assert decision.action == "separate" and not decision.parts
    loud("b.wav", peak=0.3)
    batch(catalog, ["b.wav"])  # at its full level
    fake_model.loads.clear()
    asked = {"targets": ("drums",), "spec": {"rest": True}}
    _, (result,), _ = told(catalog, ["b.wav"], **asked)
    assert result.gain == 1 and not fake_model.loads
    Path("out/b/no_drums.wav").unlink()
    loud("c.wav", peak=0.33)  # drums of 0.99, a rest of 0.66: no
    assert statuses(batch(catalog, ["c.wav"], **asked)[1]) == ["done"]


def test_touched_files_end_a_track_that_would_have_to_be_lowered(catalog, boosted):
    loud()
    batch(catalog, ["a.wav"], targets=("vocals",))
    os.utime("out/a/vocals.wav", ns=(1, 1))
    before = dates()
    _, (result,), _ = told(catalog, ["a.wav"])
    assert (result.status, result.error.code, result.exit_code) == ("failed", "exists", 2)
    assert "have to be lowered" in result.error.message and "was changed" in result.error.message
    assert dates() == before and not list(Path("out").glob(".sepcli-work*"))


# --- a part first, then the whole ---


def test_a_part_is_replaced_by_the_whole_song(catalog):
    song("a.wav", seconds=0.5)
    batch(catalog, ["a.wav"], duration=0.2)
    assert soundfile.info("out/a/bass.wav").frames == 8820
    _, results, heard = told(catalog, ["a.wav"])
    assert statuses(results) == ["done"] and "other settings (duration)" in heard[0]
    assert soundfile.info("out/a/bass.wav").frames == 22050


def test_a_preview_is_the_loudest_part_and_a_track_of_its_own(catalog):
    samples = np.full((3 * 44100, 2), 0.01)
    samples[57330:66150] = 0.5  # 1.3 to 1.5 s
    samples[::2] *= -1
    soundfile.write("a.wav", samples, 44100)
    batch(catalog, ["a.wav"], targets=("bass",))
    _, results, heard = told(catalog, ["a.wav"], targets=("bass",), preview=True, duration=0.2)
    assert statuses(results) == ["done"] and tree() == ["a (preview)/bass.wav", "a/bass.wav"]
    assert any("begins at 1.3 s" in text for text in heard)
    whole, part = ints("out/a/bass.wav"), ints("out/a (preview)/bass.wav")
    assert len(part) == 8820 and np.abs(part - whole[57330:66150]).max() <= 1
    again = {"targets": ("bass",), "preview": True}
    assert statuses(batch(catalog, ["a.wav"], duration=0.2, **again)[1]) == ["skipped"]
    assert statuses(batch(catalog, ["a.wav"], **again)[1]) == ["done"]  # 30 s: all that there is
    assert len(ints("out/a (preview)/bass.wav")) == 3 * 44100


@pytest.mark.parametrize("frames", [0, 1, 4410, 44100])
def test_the_loudest_part_lies_in_the_file(tmp_path, frames):
    from sepcli.sound.probe import probe

    path = tmp_path / "x.wav"
    samples = np.zeros((44100 + 4409, 1))
    samples[frames : frames + 1000] = 0.5
    soundfile.write(path, samples, 44100)
    start = track.loudest_part(path, probe(path), 0.5)
    assert 0 <= start <= 0.6 and start <= frames / 44100 + 1e-9
    assert track.loudest_part(path, probe(path), 5) == 0


def test_a_preview_has_no_start():
    with pytest.raises(UsageError, match="loudest part"):
        Request("fake", Path("out"), preview=True, start=1.0)


# --- a kill at any moment ---


class Killed(BaseException):
    """As SIGKILL: what comes after it is not tidied up."""


def killed_after(monkeypatch, count):
    """The process ends after that many final names; nothing is taken back."""
    real, placed = workspace._place, []

    def place(unfinished, final):
        if len(placed) == count:
            raise Killed
        placed.append(final)
        real(unfinished, final)

    monkeypatch.setattr(workspace, "_place", place)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("before", [None, {"shifts": 1}, {"targets": ("bass",)}])
def test_after_a_kill_between_two_names_the_same_command_completes_the_track(
    catalog, monkeypatch, before, count
):
    song("a.wav")
    if before is not None:
        batch(catalog, ["a.wav"], **before)
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with suppress(Killed):
            list(run(plan(catalog, ["a.wav"])))
    if count == 4 or (count == 3 and before == {"targets": ("bass",)}):  # all names, but no last line
        path = Path("out") / MANIFEST_NAME
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    for _ in range(2):
        _, results, heard = told(catalog, ["a.wav"])
        assert results[0].status in ("done", "skipped"), results[0].error
    assert statuses(results) == ["skipped"] and not heard
    batch(catalog, ["a.wav"], out=Path("new"))
    for stem in STEMS:
        assert np.abs(ints(f"out/a/{stem}.wav") - ints(f"new/a/{stem}.wav")).max() <= 1
    for stem in STEMS:
        found = Manifest(Path("out")).standing(Path(f"out/a/{stem}.wav"))
        assert found.untouched and found.record.made_with["shifts"] == 0


def test_a_kill_never_makes_a_file_of_ones_own_replaceable(catalog, monkeypatch):
    song("a.wav")
    with monkeypatch.context() as patch:
        killed_after(patch, 1)
        with pytest.raises(Killed):
            list(run(plan(catalog, ["a.wav"])))
    assert tree() == ["a/drums.wav"]
    Path("out/a/bass.wav").write_bytes(b"mine")
    with pytest.raises(UsageError, match="bass.wav' exists, and sepcli did not make it"):
        batch(catalog, ["a.wav"])
    assert Path("out/a/bass.wav").read_bytes() == b"mine"


# --- two processes, and shards ---


def both(catalog, first, second):
    """Two runs over one folder; the second begins while the first is in its first track. Their results."""

    class InTheMiddle(Listener):
        other = None

        def progress(self, track, done, total):
            if self.other is None:
                self.other = run(plan(catalog, ["a.wav", "b.wav"], **second))
                self.begun = [next(self.other)]

    listener = InTheMiddle()
    one = list(run(plan(catalog, ["a.wav", "b.wav"], **first), listener))
    return one, [*listener.begun, *listener.other]


def test_a_run_that_needs_what_another_is_making_waits_for_it(catalog):
    song("a.wav"), song("b.wav", seed=1)
    one, two = both(catalog, {}, VOCALS)
    assert {result.status for result in (*one, *two)} == {"done"}
    assert [result.input for result in two] == ["b.wav", "a.wav"]
    for name in "ab":
        mix, *parts = (
            ints(path) for path in (f"{name}.wav", f"out/{name}/vocals.wav", f"out/{name}/no_vocals.wav")
        )
        assert np.abs(sum(parts) - mix).max() <= 1
        for stem in [*STEMS, "no_vocals"]:
            assert Manifest(Path("out")).standing(Path(f"out/{name}/{stem}.wav")).untouched
    assert statuses(batch(catalog, ["a.wav", "b.wav"])[1]) == ["skipped"] * 2


@pytest.mark.parametrize("again", [{"force": True}, {"resume": False}])
def test_two_processes_that_make_everything_again_make_it_once(catalog, again):
    song("a.wav"), song("b.wav", seed=1)
    batch(catalog, ["a.wav", "b.wav"])
    one, two = both(catalog, again, again)
    assert [(result.input, result.status) for result in one] == [("a.wav", "done"), ("b.wav", "skipped")]
    assert [(result.input, result.status) for result in two] == [("b.wav", "done"), ("a.wav", "skipped")]


def test_shards_reuse_and_replace_only_their_own(catalog):
    for seed in range(4):
        song(f"m/{seed}.wav", seed=seed)
    batch(catalog, ["m"])
    fake_model.loads.clear()
    parts = [batch(catalog, ["m"], shard=Shard(part, 2), **VOCALS)[1] for part in (1, 2)]
    assert statuses([*parts[0], *parts[1]]) == ["done"] * 4 and not fake_model.loads
    before = dates()
    _, results, _ = told(catalog, ["m"], shard=Shard(1, 2), shifts=1)
    mine = {Path(result.input).stem for result in results}
    changed = {path.split("/")[0] for path, date in dates().items() if before[path] != date}
    assert changed == mine and 0 < len(mine) < 4


def test_the_manifest_says_of_every_file_how_it_was_made(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"])
    batch(catalog, ["a.wav"], **VOCALS)
    lines = [json.loads(line) for line in (Path("out") / MANIFEST_NAME).read_text().splitlines()]
    done = [line for line in lines if line["kind"] == "done"]
    assert [[output["stem"] for output in line["outputs"]] for line in done] == [STEMS, ["no_vocals"]]
    for line in done:
        for output in line["outputs"]:
            status = (Path("out") / output["path"]).stat()
            assert (status.st_size, status.st_mtime_ns) == (output["bytes"], output["mtime_ns"])
    assert len({output["made"] for line in done for output in line["outputs"]}) == 5


def test_only_inputs_that_may_be_known_are_read_before_their_turn(catalog, monkeypatch):
    song("a.wav"), song("new.wav", seconds=0.3, seed=1)
    batch(catalog, ["a.wav"])
    read = []
    monkeypatch.setattr("sepcli.batch.manifest.content_sha256", lambda path: read.append(path.name) or "x")
    actions = [decision.action for decision in preview(plan(catalog, ["new.wav", "a.wav"], **VOCALS))]
    assert actions == ["separate", "separate"] and not read
    os.utime("a.wav", ns=(1, 1))
    preview(plan(catalog, ["new.wav", "a.wav"], **VOCALS))
    assert read == ["a.wav"]


def test_a_preview_in_python(catalog):
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (44100, 2))
    samples[22050:30870] *= 5
    soundfile.write("a.wav", samples, 44100)
    made = separate_file("a.wav", "o", model=Split(), targets=["bass"], preview=True, duration=0.2)
    assert made.outputs["bass"] == Path("o/split/a (preview)/bass.wav") and made.frames == 8820
    assert np.abs(ints(made.outputs["bass"]) - ints("a.wav")[22050:30870] * 0.25).max() <= 1


def test_what_is_replaced_of_another_process_is_said_too(catalog):
    song("a.wav"), song("b.wav", seed=1)
    heard = []

    class Second(Listener):
        def notice(self, text):
            heard.append(text)

    class InTheMiddle(Listener):
        other = None

        def progress(self, track, done, total):
            if self.other is None:
                self.other = run(plan(catalog, ["a.wav", "b.wav"], shifts=1), Second())
                next(self.other)

    listener = InTheMiddle()
    list(run(plan(catalog, ["a.wav"]), listener))
    assert not heard and statuses(listener.other) == ["done"]
    assert heard == [
        "a.wav was separated with other settings (shifts): drums, bass, other, vocals are replaced."
    ]


def test_an_exact_sum_that_is_there_in_part_is_made_as_a_whole(catalog):
    song("a.wav")
    batch(catalog, ["a.wav"], spec={"sum": "exact"})
    Path("out/a/bass.wav").unlink()
    _, results, heard = told(catalog, ["a.wav"], spec={"sum": "exact"})
    assert statuses(results) == ["done"] and len(heard) == 1 and "was there in part" in heard[0]
    np.testing.assert_array_equal(sum(ints(f"out/a/{stem}.wav") for stem in STEMS), ints("a.wav"))
