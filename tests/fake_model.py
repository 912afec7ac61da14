"""`sepcli` with a model that needs no weights, for tests of everything around models.

    python -m tests.fake_model separate song.wav -m fake ...     as a program (FAKE_SECONDS a call slows it)

The catalogue has `fake` (drums, bass, other, vocals at 44.1 kHz: shares of the mix, see toys.Split),
`vox` (vocals, choir), `solo` (vocals alone), `unhashed` (a file of which no hash is known), and two that take
queries (toys.Asked): `asked` (bass, other) and `hummed` (nothing of its own).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from sepcli import loading
from sepcli.engine.blend import Blend
from sepcli.engine.chain import Chain
from sepcli.engine.separator import Segment
from sepcli.weights.modelspec import read_model
from tests.toys import Asked, Split

PROGRAM = [sys.executable, "-m", "tests.fake_model"]  # with the checkout on PYTHONPATH

CATALOG = (
    """
[fake]
family = "fake"
arch = "Split"
sources = ["drums", "bass", "other", "vocals"]
samplerate = 44100
channels = 2
license = "MIT"
files.model = {url = "http://127.0.0.1:9/fake.th", bytes = 1000000, sha256 = "FAKE"}

[vox]
family = "fake"
arch = "Split"
sources = ["vocals", "choir"]
samplerate = 44100
channels = 2
files.model = {url = "http://127.0.0.1:9/vox.th", bytes = 3000000, sha256 = "VOX"}

[solo]
family = "fake"
arch = "Split"
sources = ["vocals"]
samplerate = 44100
channels = 2
files.model = {url = "http://127.0.0.1:9/vox.th", bytes = 3000000, sha256 = "VOX"}

[unhashed]
family = "fake"
arch = "Split"
sources = ["drums", "vocals"]
samplerate = 44100
channels = 2
files.model = {url = "http://127.0.0.1:9/unhashed.th"}

[asked]
family = "fake"
arch = "Asked"
sources = ["bass", "other"]
min_query = 0.5
samplerate = 44100
channels = 2
files.model = {url = "http://127.0.0.1:9/asked.th", bytes = 2000000, sha256 = "ASKED"}

[hummed]
family = "fake"
arch = "Asked"
sources = []
min_query = 0.5
samplerate = 44100
channels = 2
files.model = {url = "http://127.0.0.1:9/hummed.th", sha256 = "HUMMED"}
""".replace("FAKE", "f" * 64)
    .replace("VOX", "e" * 64)
    .replace("ASKED", "d" * 64)
    .replace("HUMMED", "c" * 64)
)


class Slow(Split):
    """Waits in each call, so that a test can stop it in the middle."""

    seconds = 0.0

    def forward(self, mix, *, noise=None):
        time.sleep(self.seconds)
        return super().forward(mix, noise=noise)

    def select(self, sources):
        narrowed = Slow(sources, self.segment)
        narrowed.seconds = self.seconds
        return narrowed


loads: list[str] = []  # specs that were loaded in this process


def several(entry):
    """A model of several, of Slow ones."""
    members = [
        several(each) if each.models else Slow(each.sources, Segment(samples=22050)) for each in entry.models
    ]
    if entry.chain:
        steps = [member.select(step.made) for member, step in zip(members, entry.chain, strict=True)]
        return Chain(steps, [step.of for step in entry.chain[1:]])
    return Blend(members, [part.weights for part in entry.parts], entry.sources, entry.blend)


def load_model(
    spec, *, catalog, config=None, targets=None, options=None, blend="", then=(), progress=None, notice=None
):
    loads.append(" then ".join([spec, *then]))
    known = spec in catalog and not then
    entry = catalog[spec] if known else read_model(spec, catalog, blend=blend, then=then).entry
    sources = entry.sources
    if entry.parts or then:
        model = several(entry).select(targets or sources)
        hashes = ("f" * 64,) * len(entry.members_for(targets))
        return loading.Loaded(entry.name, model, sources, hashes, "fake", entry, entry.more)
    if entry.min_query is not None:
        model = Asked(sources).select(targets) if targets else Asked(sources)
        return loading.Loaded(spec, model, sources, (entry.files[0].sha256,), "fake", entry)
    model = Slow(tuple(Split.SHARES), Segment(samples=22050))
    model.seconds = float(os.environ.get("FAKE_SECONDS", "0"))
    return loading.Loaded(spec, model.select(targets or sources), sources, ("f" * 64,), "fake", catalog[spec])


def install(monkeypatch, tmp_path):
    """The fake models in place of the real ones, an empty folder to be in, and no loads so far."""
    monkeypatch.setattr(loading, "load_model", load_model)
    monkeypatch.setenv("SEPCLI_CATALOG", str(catalog_file(tmp_path)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))  # what is noted there is of this test alone
    monkeypatch.delenv("SEPCLI_DEBUG", raising=False)
    loads.clear()
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")


def catalog_file(folder: Path) -> Path:
    path = folder / "fake-catalog.toml"
    path.write_text(CATALOG)
    return path


def run():
    """The program, by sys.argv."""
    from sepcli.cli.app import main

    loading.load_model = load_model
    os.environ["SEPCLI_CATALOG"] = str(catalog_file(Path(tempfile.mkdtemp())))
    sys.exit(main())


if __name__ == "__main__":
    run()
