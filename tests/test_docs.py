"""The generated pages are what their sources say now."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sepcli.weights.catalog import bundled_catalog, read_catalog

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
        assert f"## {entry.name}\n" in page and entry.license_note in page and entry.limits in page
        assert all(f"`{file.source}`" in page for file in entry.files)


def test_the_example_of_the_format_is_one(tmp_path):
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0].replace('"..."  ', f'"{"0" * 64}"')
    assert "sha256_prefix" in tomllib.loads(example)["my_model"]["files"]["model"]["fallback"]
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    assert read_catalog(tmp_path / "example.toml")["my_model"].files[0].check == "full"
