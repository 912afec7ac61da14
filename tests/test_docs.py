"""The generated pages are what their sources say now."""

from __future__ import annotations

import importlib.util
import re
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


def test_every_path_that_a_page_names_is_there():
    """Files and folders of the repository, and what links lead to, headings included."""
    root = DOCS.parent
    missing = []
    for page in [root / "README.md", *sorted(DOCS.glob("*.md"))]:
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


def _anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
