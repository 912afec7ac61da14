"""The generated pages are what their sources say now."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepcli.weights.catalog import bundled_catalog, load_catalog, read_catalog
from tests import fake_model
from tests.test_jobs import song

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current():
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `python docs/generate.py`"


def test_a_stale_page_is_found_and_named(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main([]) == 0 and generate.main(["--check"]) == 0
    page = tmp_path / "models.md"
    page.write_text(page.read_text(encoding="utf-8") + "x", encoding="utf-8")
    capsys.readouterr()
    assert generate.main(["--check"]) == 1 and "stale: models.md" in capsys.readouterr().out


def test_every_model_and_every_warning_stands_in_models_md():
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    for entry in read_catalog(bundled_catalog()).values():
        assert f"### {entry.name}\n" in page and entry.license_note in page and entry.limits in page
        assert all(f"`{source.source}`" in page for file in entry.files for source in file.sources)


def test_the_example_of_the_format_is_one(tmp_path):
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0].replace('"..."  ', f'"{"0" * 64}"')
    assert "sha256_prefix" in tomllib.loads(example)["my_model"]["files"]["model"]["fallback"]
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    assert read_catalog(tmp_path / "example.toml")["my_model"].files[0].check == "full"


def test_every_path_that_a_page_names_is_there():
    """Files and folders of the repository, and what links lead to, headings included."""
    root = DOCS.parent
    missing = []
    for page in [root / "README.md", *sorted(DOCS.glob("*.md")), *sorted((root / ".github").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if page.name == "add-a-family.md":
            text = re.sub(r"\S*\bgain\b\S*|\S*test_gain\S*", "", text)  # the family that it makes up
        if page.name == "log.md":
            text = re.sub(r"`[^`]*`", "", text)  # of its day; the links must lead somewhere
        for path in re.findall(r"`((?:sepcli|tests|docs|\.ci)/[\w./-]*\w)/?`", text):
            if not (root / path).exists() and not (root / f"{path}.py").exists():
                missing.append(f"{page.name}: {path}")
        for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
            linked = (page.parent / target) if target else page
            if not linked.exists():
                missing.append(f"{page.name}: {target}")
            elif heading and heading not in _anchors(linked):
                missing.append(f"{page.name}: {target}#{heading}")
    assert not missing, missing


def test_what_the_python_examples_import_is_there():
    missing, found = [], 0
    for page in [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]:
        for example in re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S
        ):
            for node in ast.walk(ast.parse(example)):
                if not isinstance(node, ast.ImportFrom) or "sepcli.models.gain" in node.module:
                    continue  # the family that add-a-family.md makes up has a test of its own
                module = importlib.import_module(node.module)
                names = [name.name for name in node.names if not hasattr(module, name.name)]
                missing += [f"{page.name}: {node.module}.{name}" for name in names]
                found += len(node.names)
    assert found > 10
    assert not missing, missing


def _examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A model that needs no weights, under every name; a song; and `sepcli` as a program."""
    fake_model.install(monkeypatch, tmp_path)
    song("song.wav", seconds=1)
    program = tmp_path / "bin" / "sepcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fake_model "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))


def test_the_examples_in_python_run(fake, capsys):
    *examples, _ = _examples("python.md")
    given = {}
    for example in examples:
        exec(example, given)
    assert set(given["stems"]) == {"drums", "bass", "other", "vocals"}
    mix = given["samples"].T
    assert {stem.shape for stem in given["stems"].values()} == {mix.shape}
    assert list(given["found"]) == ["drums-rest", "vocals"] and given["voice"].shape == mix.shape
    assert list(given["done"].outputs) == ["vocals", "no_drums", "quiet_voice"]
    left, _ = soundfile.read(given["done"].outputs["no_drums"])
    np.testing.assert_allclose(left.T, mix - given["stems"]["drums"], atol=1e-4)
    assert "LUFS" in (said := capsys.readouterr().out) and "1.0 s of 1.0 s" in said
    given["cancel"].set()
    assert given["separate"]("song.wav", "cancelled") is False and not list(Path("cancelled").iterdir())
    given["cancel"].clear()
    assert given["separate"]("song.wav", "cancelled") is True and list(Path("cancelled").rglob("*.wav"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a script of the shell")
def test_the_example_of_another_process_runs(fake, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.6")
    given = {}
    exec(_examples("python.md")[-1], given)
    assert " s left" in capsys.readouterr().out and len(list(Path("again").rglob("*.wav"))) == 4
    kinds = [event["event"] for event in given["events"]("song.wav", "-o", "again", "-m", "fkae")]
    assert kinds[-1] == "error"


def _anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
def test_the_family_that_a_page_makes_up_works_as_written(tmp_path):
    """add-a-family.md: in a copy of the tree its files pass their test, and its entry is in the catalogue."""
    root, page = DOCS.parent, (DOCS / "add-a-family.md").read_text(encoding="utf-8")
    files = re.findall(r"^## \d+\. [^\n]*`(\S+\.py)`\n+```python\n(.*?)```", page, flags=re.M | re.S)
    assert len(files) == 4 and files[-1][0] == "tests/models/test_gain.py"
    without = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(root / "sepcli", tmp_path / "sepcli", ignore=without)
    contract = "tests/models/test_contract.py"
    for name in (
        "tests/__init__.py",
        "tests/models/__init__.py",
        "tests/contracts.py",
        contract,
        "weights.toml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    for name, text in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    entry = re.search(r"^## \d+\. [^\n]*`weights.toml`\n+```toml\n(.*?)```", page, flags=re.M | re.S)[1]
    entry = entry.replace("<40 hex digits>", "0" * 40).replace("<64>", "0" * 64)
    with (tmp_path / "weights.toml").open("a", encoding="utf-8") as catalog:
        catalog.write(f"\n{entry}")

    # A file of the made-up program, which does not say what it is.
    torch.save({"module.share": torch.tensor([0.25, 0.5, 0.25])}, tmp_path / "own.ckpt")
    soundfile.write(tmp_path / "song.wav", np.full((100, 2), 0.5), 44100)
    script = """
import pytest
from sepcli.cli.app import main

assert pytest.main(["-q", "-p", "no:cacheprovider", "tests/models/test_contract.py", "-k", "gain"]) == 0
assert main(["models", "info", "gain"]) == 0
assert main(["separate", "song.wav", "-m", "own.ckpt", "-o", "stems", "--device", "cpu"]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9] passed", done.stdout) and "gain.safetensors" in done.stdout
    stems = {path.stem: soundfile.read(path)[0] for path in (tmp_path / "stems" / "own" / "song").iterdir()}
    assert set(stems) == {"stem1", "stem2", "stem3"}
    assert stems["stem1"].tolist() == [[0.125, 0.125]] * 100


def test_the_readme_counts_the_models():
    (count,) = re.findall(
        r"sepcli knows (\d+) pretrained models", (DOCS.parent / "README.md").read_text("utf-8")
    )
    assert int(count) == len(load_catalog())
