"""The rooms of docs/architecture.md, checked on the source: who may import whom, and what stays lazy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sepcli"

# From the ground up. A file imports only from floors below its room's, or from its own room.
FLOORS = [
    {"errors"},
    {"system", "metrics", "stems"},
    {"sound", "nn"},
    {"engine", "player", "weights"},
    {"models"},
    {"loading"},
    {"data", "batch"},
    {"api", "evaluation"},
    {"training"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PAPERS = {"sepcli.metrics.summary"}  # protocols of the literature bear their papers' names, and so do families


def source_files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, top_level_only=False):
    """Absolute names of what the file imports; not those for type checkers only."""
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


def room(name):
    """The folder, or the file beside the folders, that a module of ours stands in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "sepcli" and len(parts) > 1 else None


def test_every_room_stands_on_a_floor():
    rooms = {room(module_name(path)) for path in source_files()}
    assert rooms == set(FLOOR_OF), "a new room belongs in FLOORS and in docs/architecture.md"


def test_a_file_imports_only_from_rooms_below_its_own():
    wrong = [
        f"{module_name(path)} imports {name}"
        for path in source_files()
        for own in [room(module_name(path))]
        for name in imports(path)
        if room(name) in FLOOR_OF and room(name) != own and FLOOR_OF[room(name)] >= FLOOR_OF[own]
    ]
    assert not wrong, "\n".join(wrong)


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


def test_families_never_import_each_other():
    def family(name):
        parts = name.split(".")
        inside = parts[:2] == ["sepcli", "models"] and len(parts) > 2
        return parts[2] if inside and (PACKAGE / "models" / parts[2]).is_dir() else None

    files = [path for path in source_files() if path.parent.parent == PACKAGE / "models"]
    assert files
    wrong = [
        f"{module_name(path)} imports {name}"
        for path in files
        for name in imports(path)
        if family(name) not in (None, path.parent.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_never_names_a_family():
    families = {folder.name for folder in (PACKAGE / "models").iterdir() if (folder / "__init__.py").exists()}
    core = [
        path
        for path in source_files()
        if room(module_name(path)) not in ("models", "cli") and module_name(path) not in PAPERS
    ]
    assert families and core
    wrong = [
        f"{module_name(path)}: {node.value!r}"
        for path in core
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in families
    ]
    assert not wrong, "a special case becomes a declared property:\n" + "\n".join(wrong)


def test_every_file_opens_with_what_it_does():
    silent = [path for path in source_files() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_torchaudio_is_only_imported_where_it_is_used():
    wrong = [
        module_name(path)
        for path in source_files()
        for name in imports(path, top_level_only=True)
        if name.split(".")[0] == "torchaudio"
    ]
    assert not wrong


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["models", "list"], ["separate", "--help"], ["evaluate", "--help"], ["inspect", "--help"]],
)
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
        "import sepcli.engine.pipeline, sepcli.loading, sepcli.batch.track, sepcli.batch.jobs, sepcli.api\n"
        "from sepcli.models.family import family_names, get_family\n"
        "[get_family(name) for name in family_names()]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
