"""Distillation: the teacher's stems as lessons, layers that are matched, and the command."""

from pathlib import Path

import pytest
import torch

from sepcli.cli.app import main
from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.models.bandsplit import FAMILY, BandSplit, BandSplitConfig
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import make_train_config, read_preset
from sepcli.training.distill import Lessons
from sepcli.training.objectives import choose_objective, similarities
from sepcli.training.setup import make_network
from tests.tracks import make_track, read

NEEDED = ["--teacher", "mini", "--student", "student.toml", "--data", "music", "-o", "run"]
STUDENT = """
base = "tiny"
model.config.sources = ["drums", "bass", "other", "vocals"]
model.config.blocks = 1
run = { batch_size = 2, steps_per_epoch = 2, max_steps = 4, workers = 0, valid_seconds = 1 }
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    for k, name in enumerate(["a", "album/b"]):
        levels = {"mixture": 0.2}
        make_track(tmp_path / "made", name, levels, mixture=False, seconds=4, samplerate=44100, seed=k)
        target = tmp_path / "music" / f"{name}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name / "mixture.wav").rename(target)
    make_track(tmp_path / "valid", "v", {"drums": 0.1, "vocals": 0.1}, seconds=2, samplerate=44100)
    (tmp_path / "student.toml").write_text(STUDENT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distill(*more):
    return main(["distill", "--method", "output", *NEEDED, "--valid", "valid", *more])


@pytest.mark.slow
def test_a_student_learns_from_music_without_stems(place, capsys):
    assert distill() == 0
    first = {path: path.stat().st_mtime_ns for path in Path("run.teacher").rglob("*.flac")}
    assert len(first) == 8
    # What the teacher made adds up to the music, so that an aligned example is the music.
    for name in ("a", "album/b"):
        stems = sum(read(path) for path in (place / "run.teacher" / name).glob("*.flac"))
        assert abs(stems - read(place / "music" / f"{name}.wav")).max() < 2e-4
    assert main(["separate", "music/a.wav", "--model", "run", "-q"]) == 0
    assert {path.stem for path in Path("separated/run/a").glob("*.wav")} == {"drums", "bass", "other", "vocals"}
    # A second student finds the lessons; a run that is done goes on where it was.
    capsys.readouterr()
    assert distill("--max-steps", "6") == 0
    assert "going on at step 4" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("run.teacher").rglob("*.flac")} == first


@pytest.mark.slow
def test_a_bad_file_is_named_and_the_rest_is_learnt(place, capsys):
    (place / "music" / "bad.wav").write_text("no audio")
    assert distill() == 0
    assert "Skipped: " in (err := capsys.readouterr().err) and "bad.wav" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (NEEDED[2:], "--teacher"),
        (["--teacher", "mini", "--student", "student.toml", "-o", "run"], "--data"),
        (NEEDED[:-2], "-o RUN"),
        ([*NEEDED, "--match", "x"], "LAYER=LAYER"),
        ([*NEEDED, "--match", "x=y"], "The teacher has no layer 'x'"),
        ([*NEEDED, "--set", 'model.config.sources=["vocals","piano"]'], "The teacher makes drums"),
    ],
)
def test_what_is_wrong_is_said(place, capsys, arguments, said):
    assert main(["distill", "--method", "output", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_the_student_has_no_name_for_goes_into_other():
    found = Lessons(("drums", "bass", "other", "vocals", "guitar"), (Path("x"),), ())
    (data,) = found.data(["vocals", "drums", "bass", "other"])
    assert data.rename == {"guitar": "other"} and data.path == "x"
    with pytest.raises(UsageError, match="The teacher makes"):
        found.data(["vocals", "drums"])
    (data,) = found.data(["guitar"])  # all others are the rest of its mix
    assert not data.rename
    with pytest.raises(UsageError, match="The teacher makes"):
        found.data(["piano"])


def test_similarities_are_blind_to_scale_shape_and_order_of_values():
    torch.manual_seed(0)
    values = torch.randn(3, 4, 5)
    expected = similarities(values)
    torch.testing.assert_close(similarities(-7 * values[:, torch.randperm(4)].flatten(1)), expected)
    torch.testing.assert_close(expected.square().sum(1), torch.ones(3))


def test_a_network_that_is_its_teacher_has_nothing_to_match(tmp_path):
    from sepcli.loading import save_model

    config = BandSplitConfig(sources=("drums", "bass"), dim=8, blocks=2, squeeze=2, bottleneck=16, mask_dim=8)
    torch.manual_seed(0)
    model = BandSplit(config)
    save_model(
        model.state_dict(), tmp_path / "model.safetensors", family="bandsplit", arch="BandSplit", config=config
    )
    options = {"teacher": str(tmp_path / "model.safetensors"), "layers": [["blocks.1", "blocks.1"]]}
    criterion, batch = Criterion([Term()], [1.0, 1.0]), Batch(0.1 * torch.randn(3, 2, 2, 44100), [], [])
    loss = choose_objective("matching", options, FAMILY, model, criterion)(model, batch)
    plain = choose_objective("separation", {}, FAMILY, model, criterion)(model, batch)
    assert loss.parts["matching"] < 1e-9
    torch.testing.assert_close(loss.total, plain.total)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loss = choose_objective("matching", options, FAMILY, model, criterion)(model, batch)
    loss.total.backward()
    assert loss.parts["matching"] > 1e-7 and all(p.grad is not None for p in model.blocks[0].parameters())


def test_the_preset_of_a_student_is_a_smaller_mini():
    with torch.device("meta"):
        small, mini = (
            make_network(make_train_config(read_preset(name)).model).model for name in ("mini-student", "mini")
        )
    assert small.sources == mini.sources and small.samplerate == mini.samplerate
    learnt, teaching = (sum(each.numel() for each in model.parameters()) for model in (small, mini))
    assert learnt < 0.4 * teaching
