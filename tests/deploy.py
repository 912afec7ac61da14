"""The steps of docs/deploy/Dockerfile as a script, where there is no Docker.

    python -m tests.deploy FOLDER [NAME=VALUE ...]

The values are build arguments, such as "TORCH=torch==2.11.0 torchaudio==2.11.0". FOLDER takes the place of `/`,
and a virtual environment in it that of the image. What only a system's owner can do (SYSTEM) is left out; all
else is run as it stands, in its order, and one that fails ends it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "docs" / "deploy" / "Dockerfile"
SYSTEM = ("apt-get", "useradd", "chown")
_PATH = re.compile(r"(?<![\w./$}])/(?=(source|wheels|cache|home|var)\b)")  # of the image


@dataclass(frozen=True)
class Step:
    """One instruction, on one line."""

    name: str  # FROM, RUN, ...
    text: str


def steps(text: str) -> Iterator[Step]:
    """The instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield Step(name.upper(), rest.strip())


def run(place: Path, arguments: dict[str, str]) -> None:
    """Carry them all out. CalledProcessError for a RUN that fails."""
    place.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    variables = {**os.environ, "PATH": f"{place}/venv/bin:{os.environ['PATH']}"}
    without = "\n".join(f'{name}() {{ echo "left out: {name} $*"; }}' for name in SYSTEM)
    folder = place
    for step in steps(DOCKERFILE.read_text()):
        print(f"== {step.name} {step.text}", flush=True)
        text = _PATH.sub(f"{place}/", step.text)
        match step.name:
            case "ARG":
                name, _, value = text.partition("=")
                variables[name] = arguments.get(name, "".join(shlex.split(value)))
            case "ENV":
                name, _, value = text.partition("=")
                variables[name] = value
            case "COPY" if not text.startswith("--from"):
                *sources, to = text.split()
                _copy(sources, Path(to), to.endswith("/"))
            case "WORKDIR":
                folder = Path(text)
                folder.mkdir(parents=True, exist_ok=True)
            case "RUN":
                subprocess.run(["bash", "-euc", f"{without}\n{text}"], env=variables, cwd=folder, check=True)


def _copy(sources: list[str], to: Path, into: bool) -> None:
    for source in map(Path, sources):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            at = to / source.name if into else to
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, at)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve(), dict(given.split("=", 1) for given in sys.argv[2:]))
