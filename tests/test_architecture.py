"""The layers of docs/architecture.md, checked on the source: who may import whom, and what stays lazy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sepcli"

# A file imports only from groups above its own, or from its own group without cycles.
GROUPS = {
    "A": ["errors", "entries", "entryfile", "catalog"],
    "B": ["separator", "chunking", "noise", "audio", "encode", "ffmpeg", "formats", "id3", "sndfile", "tags",
          "wav", "replacing", "resample", "stft", "device", "download", "transfer", "checkpoint", "unpickling",
          "background", "processes"],
    "C": ["nn", "diffusion", "losses"],
    "D": ["family", "models"],
    "E": ["ensemble", "loading", "pipeline", "feed", "levels", "outputspec", "outputs", "workspace", "manifest",
          "track", "inputs", "queries", "modelspec", "plan", "jobs", "api", "modelcard", "publish"],
    "F": ["data", "metrics", "evaluation", "training"],
    "G": ["cli"],
}
GROUP_OF = {module: group for group, modules in GROUPS.items() for module in modules}


def source_files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, top_level_only=False):
    """Absolute names of sepcli modules that the file imports; not those for type checkers only."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name):
    return name.split(".")[1] if name.startswith("sepcli.") else None


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_a_file_imports_only_from_its_own_group_or_above(path):
    own = top(module_name(path))
    assert own in GROUP_OF, f"{path.name} stands in no group: add it to docs/architecture.md and to this test"
    for name in imports(path):
        other = top(name)
        if other in GROUP_OF:
            assert GROUP_OF[other] <= GROUP_OF[own], f"group {GROUP_OF[own]} imports {name}"


def test_no_cycles():
    modules = {module_name(path): path for path in source_files()}
    graph = {
        name: {found for found in imports(path) if found in modules and found != name}
        for name, path in modules.items()
    }
    done, active = set(), []

    def visit(name):
        assert name not in active, f"import cycle: {' -> '.join([*active, name])}"
        if name not in done:
            active.append(name)
            for other in graph[name]:
                visit(other)
            active.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", [p for p in source_files() if "models" in p.parts], ids=module_name)
def test_families_never_import_each_other(path):
    parts = module_name(path).split(".")
    if len(parts) < 3:
        return
    for name in imports(path):
        if name.startswith("sepcli.models."):
            assert name.split(".")[2] == parts[2]


# Protocols of the literature bear their papers' names, and so do families.
PAPERS = {"sepcli.metrics.summary"}
CORE = [p for p in source_files() if GROUP_OF.get(top(module_name(p))) in "ABCEF"
        and module_name(p) not in PAPERS]


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_the_core_never_names_a_family(path):
    families = [folder.name for folder in (PACKAGE / "models").iterdir() if (folder / "__init__.py").exists()]
    names = {node.value for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not names & set(families), "a special case becomes a declared property (docs/architecture.md)"


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_every_file_opens_with_what_it_does(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_torchaudio_is_only_imported_where_it_is_used(path):
    assert not any(name.split(".")[0] == "torchaudio" for name in imports(path, top_level_only=True))


@pytest.mark.parametrize(
    "argv", [["--help"], ["models", "list"], ["separate", "--help"], ["evaluate", "--help"],
             ["inspect", "--help"]])
def test_the_shell_answers_without_torch(argv):
    code = (
        f"import sys; from sepcli.cli.app import main; sys.argv = ['sepcli', *{argv!r}]\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'soundfile' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_separation_never_imports_torchaudio():
    code = (
        "import sys; sys.modules['torchaudio'] = None\n"  # an import of it now fails
        "import sepcli.pipeline, sepcli.loading, sepcli.track, sepcli.jobs, sepcli.api\n"
        "from sepcli.family import family_names, get_family\n"
        "[get_family(name) for name in family_names()]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
