"""The commands that the pages tell a reader to type: found, parsed by the real command line, run where small.

    python -m tests.recipes        lists them all, page by page

A page is tested as a whole: `parse` checks every command of it, in blocks and in its sentences. A `Kitchen` is
the folder in which the commands of a page are run one after another. There, models that would have to be
downloaded are tiny ones of random weights under the same names (`SEPCLI_CATALOG`, a hub on loopback), trainings
take two steps of tiny networks, and files are a second long. Everything else is as the page says.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import typer
from huggingface_hub import constants

from sepcli.cli.app import ClickException, app, main
from sepcli.cli.peers import PEERS
from sepcli.errors import UsageError
from sepcli.loading import save_model
from sepcli.models.config import make_config
from sepcli.models.family import get_family
from sepcli.training.config import preset_names, read_preset
from sepcli.training.run import RunFolder
from tests.fakehub import FakeHub
from tests.tracks import make_track, read

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("benchmarks.md", "cli.md", "models.md")  # from the parser, the catalogue and measurements
DATED = ("log.md",)  # what was typed then
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"] + [
    path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in GENERATED + DATED
]
OPERATORS = ("&&", "|", ">")

# --- what is on a page -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A line of a page, without its comment; `words` as a shell splits them."""

    page: str
    line: str
    block: int = 0  # which of the page's

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def simple(self) -> bool:
        """One program and no redirection."""
        return not set(self.words) & set(OPERATORS)

    def programs(self) -> Iterator[list[str]]:
        """The words of each program that it starts, without `.venv/bin/`."""
        words: list[str] = []
        for word in [*self.words, "&&"]:
            if word in OPERATORS:
                if words:
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]
                words = []
            else:
                words.append(word)

    def arguments(self) -> Iterator[list[str]]:
        """What each `sepcli` in it gets, by whatever program that is started."""
        for words in self.programs():
            if "sepcli" in words:
                yield words[words.index("sepcli") + 1 :]


def blocks(text: str) -> Iterator[str]:
    """What stands between ```sh and ```, and what is indented and has a `sepcli`, in the page's order."""
    fence = None
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("```"):
            if fence == "sh":
                yield "\n".join(lines)
            fence, lines = (line[3:], []) if fence is None else (None, [])
        elif fence is not None or line.startswith("    "):
            lines.append(line)
        else:
            if any(line.startswith("    sepcli ") for line in lines):
                yield "\n".join(lines)
            lines = []


def commands(page: Path) -> list[Command]:
    """Every line of it to type."""
    return [
        Command(page.name, line.strip(), k)
        for k, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        for line in block.replace("\\\n", " ").splitlines()
        if shlex.split(line, comments=True)
    ]


def mentions(page: Path) -> list[list[str]]:
    """Words of inline code that is a command, or begins with an option: `sepcli doctor`, `--shifts 2`."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    if page.stem == "coming-from":  # the first column has other programs' words
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.M)
    code = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [shlex.split(span) for span in code if span.startswith(("sepcli ", "--"))]


# --- parsing ------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> str | None:
    """What the real command line has against it, None where it would begin to work."""
    try:
        idle()[0].main(args=list(arguments), prog_name="sepcli", standalone_mode=False)
    except ClickException as problem:
        return problem.format_message()
    except UsageError as problem:
        return str(problem)
    for option, name in pairwise(arguments):
        if option == "--preset" and name not in preset_names():
            return f"no preset {name}"
    return None


@cache
def idle() -> tuple[Any, dict[str, Any]]:
    """sepcli's click command, which parses and does nothing; and those below it, {"models list": ...}."""
    command = typer.main.get_command(app)
    for leaf in leaves(command).values():
        leaf.callback = lambda **given: None
    return command, leaves(command)


def leaves(command: Any, path: str = "") -> dict[str, Any]:
    found = {}
    for name, child in command.commands.items():
        inner = f"{path} {name}".strip()
        found |= leaves(child, inner) if hasattr(child, "commands") else {inner: child}
    return found


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def theirs() -> set[str]:
    """The options of other separators that `separate` knows."""
    return {word for rows in PEERS.values() for row in rows for word in re.findall(r"--?[a-z][\w*-]*", row)}


def unknown(words: Sequence[str]) -> list[str]:
    """The commands and options in a mention that sepcli does not have; a mention need not be complete."""
    programs = idle()[1]
    asked = [word.split("=")[0] for word in words if word.startswith("--")] + ["--help"]
    if words[0] != "sepcli":
        known = set().union(*map(options, programs.values()), theirs())
        return [option for option in asked if option not in known | {"--help", "--version"}]
    if words[1:] and "." in words[1]:  # an input: the command was left out
        words = ["sepcli", "separate", *words[1:]]
    names = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
    groups = {name.split()[0] for name in programs}
    for name in (" ".join(names[:2]), names[0] if names else ""):
        if name in programs:
            return [option for option in asked if option not in options(programs[name]) | {"--help"}]
    return [] if names and names[0] in groups and len(names) == 1 else [" ".join(words)]


# --- running ------------------------------------------------------------------------------------------------

# Tiny networks, as `[NAME.config]` of a catalogue or `--set model.config` of a training has them.
TINY: dict[str, dict[str, Any]] = {
    "BandSplit": dict(dim=4, blocks=1, squeeze=2, bottleneck=8, mask_dim=8, segment=0.5),
    "HTDemucs": dict(channels=8, depth=2, t_layers=1, t_heads=2, bottom_channels=0, segment="1/4", nfft=512),
    "LaSAFTv2": dict(
        n_fft=256, hop_length=64, num_frame=16, margin=192, n_blocks=5, internal_channels=6,
        n_internal_layers=3, min_bn_units=4, embedding_dim=8, num_tdfs=3, dk=5,
    ),
    "Deterministic": dict(
        width=16, patch=4, multipliers=[1, 2, 2], factors=[4, 2], blocks=[1, 1], attentions=[False, True],
        heads=2, head_features=4, segment=4096,
    ),
    "Codec": dict(samplerate=8000, filters=2, latent=4, ratios=[2, 2], lstm_layers=1, window=640),
    "LatentDiffusion": dict(
        samplerate=8000, filters=2, latent=4, ratios=[2, 2], lstm_layers=1, widths=[8, 16], factors=[1, 2],
        blocks=[1, 1], attentions=[False, True], injections=[False, True], heads=2, head_features=4, groups=2,
        features=8, segment=640,
    ),
}  # fmt: skip
TINY["LaSAFTQuery"] = TINY["LaSAFTv2"] | dict(
    query_n_fft=256, query_channels=[4, 4, 4, 6, 6, 8, 8], query_hidden=10
)
TINY["Diffusion"] = TINY["Consistency"] = TINY["Deterministic"]

FOUR = ("drums", "bass", "other", "vocals")
SLAKH = ("bass", "drums", "guitar", "piano")


@dataclass(frozen=True)
class Model:
    """A tiny model that the catalogue of a kitchen holds; `bag`: of one network for each source."""

    family: str
    arch: str
    sources: tuple[str, ...]
    samplerate: int = 44100
    channels: int = 2
    config: Mapping[str, Any] | None = None  # where it is not that of TINY
    bag: bool = False

    def save(self, path: Path) -> None:
        """Its weights, drawn."""
        arch = get_family(self.family).archs[self.arch]
        torch.manual_seed(0)
        sources = {} if self.arch == "Codec" else {"sources": list(self.sources)}
        config = make_config(arch, sources | self.values())
        save_model(arch.build(config).state_dict(), path, family=self.family, arch=self.arch, config=config)

    def values(self) -> dict[str, Any]:
        """Its configuration, as TOML has it, without the sources."""
        return TINY[self.arch] | dict(self.config or {})

    def entry(self, name: str, hub: FakeHub, folder: Path) -> str:
        """Its table in a catalogue; its weights are put on the hub."""
        path = folder / f"{name}.safetensors"
        self.save(path)
        table = {"family": self.family, "arch": self.arch, "sources": list(self.sources)}
        table |= {"samplerate": self.samplerate, "channels": self.channels, "config": self.values()}
        if self.arch == "Codec":
            table |= {"published_overlap": 0.01}
        if self.bag:
            table["members"] = [{"file": "model", "weights": {source: 1}} for source in self.sources]
        table["files"] = {"model": hub.add_url(path.name, path)}
        return f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items()) + "\n"


def toml(value: Any) -> str:
    """A value as TOML writes it; tables inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


PUBLISHED = {
    "htdemucs": Model("demucs", "HTDemucs", FOUR),
    "htdemucs_ft": Model("demucs", "HTDemucs", FOUR, bag=True),
    "lasaft-v2-large": Model("lasaft", "LaSAFTv2", ("vocals", "drums", "bass", "other")),
    "dicose-det": Model("dicose", "Deterministic", SLAKH, 22050, 1),
    "dicose-diffusion": Model("dicose", "Diffusion", SLAKH, 22050, 1),
    "dicose-cd": Model("dicose", "Consistency", SLAKH, 22050, 1),
    "encodec-48k": Model("ldm", "Codec", ("reconstruction",), 8000, 2, dict(codebooks=16, codebook_size=8)),
}
SHORT = {
    "run.steps_per_epoch": 2,
    "run.batch_size": 4,
    "run.valid_seconds": 0.1,
    "run.workers": 0,
    "data.examples": 4,
    "data.skip_silent": 0,
    "data.segment": 0.25,
}


class Kitchen:
    """A folder with music in it, where the commands of a page are run as they stand."""

    def __init__(self, folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.hub = folder, hub
        self.said = ""  # what the last command wrote to standard output
        environment = hub.env(folder / "home", NO_COLOR="1", HF_TOKEN="hf_me", PYTHONPATH=str(ROOT))
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        hub.tokens["hf_me"] = {"owner"}
        # The client reads these when it is imported, which another test may have done.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.setattr(RunFolder, "draw", lambda run: None)  # curves take longer than these networks
        monkeypatch.chdir(folder)
        self.monkeypatch = monkeypatch

    def models(self, *names: str) -> None:
        """Puts tiny ones under these names."""
        text = "".join(PUBLISHED[name].entry(name, self.hub, self.folder) for name in names)
        (self.folder / "catalog.toml").write_text(text, encoding="utf-8")
        self.monkeypatch.setenv("SEPCLI_CATALOG", str(self.folder / "catalog.toml"))

    def trained(self, folder: str, model: Model) -> None:
        """A run's folder with a model of random weights."""
        (self.folder / folder).mkdir(parents=True)
        model.save(self.folder / folder / "model.safetensors")

    def songs(self, folder: str, stems: Sequence[str], **how: Any) -> None:
        """A dataset of one track of noise."""
        how = {"seconds": 1.0, "samplerate": 44100} | how
        levels = {stem: 0.1 + 0.02 * k for k, stem in enumerate(stems)}
        make_track(self.folder / folder, "noise", levels, seed=len(folder), **how)

    def files(self, *names: str, seconds: float = 1.0, samplerate: int = 44100, channels: int = 2) -> None:
        """Pieces of music of their own."""
        for k, name in enumerate(names):
            place = make_track(
                self.folder / "drawn", name, {"noise": 0.1}, seconds=seconds, channels=channels,
                samplerate=samplerate, seed=k,
            )  # fmt: skip
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(self.folder / name, read(place / "mixture.wav").T, samplerate)

    def cook(self, ran: Sequence[Command]) -> None:
        """Runs them in this order, in one folder, as somebody who tries all that a page has."""
        for command in ran:
            self.run(command)

    def run(self, command: Command) -> None:
        """Runs it; fails the test with what it said where it fails."""
        if not command.simple:
            return self._run_in_a_shell(command)
        (words,) = command.programs()
        assert words[0] == "sepcli", f"what is {words[0]}?"
        arguments = [*words[1:], *shortened(words[1:])]
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(arguments)
        self.said = out.getvalue()
        assert code == 0, f"exit {code}: sepcli {shlex.join(arguments)}\n{self.said}{error.getvalue()}"
        return None

    def _run_in_a_shell(self, command: Command) -> None:
        """With a `sepcli` on the PATH, and a `play` that keeps what it is given as `played`."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, does in (
            ("sepcli", f'exec "{sys.executable}" -m sepcli "$@"'),
            ("play", "exec cat > played"),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.line],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout
        assert done.returncode == 0, f"{command.line}\n{done.stdout}{done.stderr}"


def shortened(arguments: Sequence[str]) -> list[str]:
    """The options that make a training or distillation one of two steps and tiny networks."""
    if arguments[0] not in ("train", "distill"):
        return ["--device", "cpu"] if arguments[0] in ("separate", "evaluate", "robustness", "inspect") else []
    preset = read_preset(arguments[arguments.index("--preset" if "--preset" in arguments else "--student") + 1])
    settings = {f"model.config.{key}": value for key, value in TINY[preset["model"]["arch"]].items()} | SHORT
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={toml(value)}")]
    return [*given, "--max-steps", "2", "--device", "cpu"]


if __name__ == "__main__":
    for page in PAGES:
        for command in commands(page):
            sys.stdout.write(f"{page.name}: {command.line}\n")
