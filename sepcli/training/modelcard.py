"""The texts that go with a trained model: its model card, and its entry for a catalogue.

Knows run folders and the two texts; nothing of the hub. Everything comes from the run: the checkpoint says
which network it is for, and is loaded as a proof; config.toml has the training, metrics.jsonl the scores. Only
the checkpoint must be there. Paths on this machine and names of broken files are not published.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sepcli import __version__
from sepcli.engine.separator import Queryable
from sepcli.errors import ModelError, UsageError, from_os, parameter
from sepcli.loading import OWN_FORMAT, load_model
from sepcli.models.config import make_config
from sepcli.models.family import Arch, get_family
from sepcli.training.config import to_toml
from sepcli.weights.checkpoint import read_checkpoint
from sepcli.weights.download import file_sha256
from sepcli.weights.modelspec import RUN_FILE

CONFIG, METRICS, CURVES = "config.toml", "metrics.jsonl", "curves.png"
SCORE = "score"  # the key of a validation's mean over the sources, in metrics.jsonl

# The hub's identifiers for licences of weights; another licence is "other" there, with its name beside it.
HUB_LICENSES = frozenset(
    "mit apache-2.0 bsd-2-clause bsd-3-clause isc unlicense cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0"
    " cc-by-sa-4.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
    " openrail gpl-3.0 agpl-3.0 lgpl-3.0 mpl-2.0 odbl odc-by pddl".split()
)


@dataclass(frozen=True)
class Run:
    """What a run folder holds. scores: {"score": mean over sources, source: score} in uSDR; {} if unknown."""

    folder: Path
    sha256: str  # of its checkpoint
    bytes: int  # of the same
    family: str
    arch: str
    config: Any  # the network's
    sources: tuple[str, ...]
    samplerate: int  # Hz
    channels: int
    segment: float | None  # seconds of a call
    parameters: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # config.toml without places
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None  # after which the weights were taken
    has_curves: bool = False
    min_query: float | None = None  # seconds; of a model that takes queries

    @property
    def checkpoint(self) -> Path:
        return self.folder / RUN_FILE


def read_run(folder: Path) -> Run:
    """Read the run in `folder`. ModelError where it has no checkpoint of sepcli's that can be loaded."""
    path = folder / RUN_FILE
    if not path.is_file():
        there = "is not a folder" if folder.exists() else "does not exist"
        fact = f"has no {RUN_FILE}" if folder.is_dir() else there
        raise ModelError(
            f"'{folder}' is no run: it {fact}.",
            remedy="Name the folder that `sepcli train -o` wrote.",
            code="no_run",
        )
    own = read_checkpoint(path).metadata.get(OWN_FORMAT)
    if own is None:
        raise ModelError(
            f"'{path}' does not say which network it is for.",
            remedy="Only checkpoints that sepcli wrote can be published.",
            code="no_run",
        )
    said = json.loads(own)
    model = load_model(str(path)).model  # a model that can't be loaded here would be of no use to others
    settings = _settings(folder / CONFIG)
    scores, steps = _scores(folder / METRICS)
    if settings.get("run", {}).get("valid_metric", "usdr") != "usdr":
        scores = {}  # of another kind; a card has decibels
    return Run(
        folder,
        file_sha256(path),
        path.stat().st_size,
        said["family"],
        said["arch"],
        make_config(_arch(said), said["config"]),
        tuple(model.sources),
        model.samplerate,
        model.channels,
        None if model.segment.samples is None else model.segment.samples / model.samplerate,
        sum(parameter.numel() for parameter in model.parameters()),
        settings,
        scores,
        steps,
        (folder / CURVES).is_file(),
        model.min_query if isinstance(model, Queryable) else None,
    )


def _arch(said: Mapping[str, Any]) -> Arch:
    return get_family(said["family"]).archs[said["arch"]]


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return without_places(tomllib.loads(_read(path).decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"'{path}' is not TOML: {error}.",
            remedy="Correct it, or move it away: the model can do without it.",
        ) from error


def without_places(value: Any) -> Any:
    """Settings in which absolute paths are cut to their last part: where users keep their music is private."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~"):
                return kind(value).name
    return value


def public_metrics(path: Path) -> bytes:
    """metrics.jsonl without lines that name files, and without a line that a kill cut off."""
    lines = _read(path).decode().splitlines()
    return "".join(f"{line}\n" for line in lines if _json(line) and "problem" not in _json(line)).encode()


def _read(path: Path) -> bytes:
    """A file of the run. ModelError where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise from_os(error, path, reading=ModelError) from error


def _scores(path: Path) -> tuple[dict[str, float], int | None]:
    """Scores of the validation that chose the weights, and its step: the last line of a validation names it."""
    lines = [_json(line) for line in _read(path).decode().splitlines()] if path.is_file() else []
    validations = [line for line in lines if isinstance(line.get("valid"), dict)]
    best = validations[-1].get("best") if validations else None
    if not isinstance(best, dict):
        return {}, None
    for line in validations:
        found = line["valid"].get(best.get("weights"))
        if line.get("step") == best.get("step") and isinstance(found, dict):
            numbers = {str(key): float(value) for key, value in found.items() if isinstance(value, int | float)}
            return numbers, line["step"]
    return {}, None


def _json(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:  # cut off by a kill
        return {}
    return value if isinstance(value, dict) else {}


# --- the card ---


def check_license(name: str | None) -> None:
    """Refuse what can't be the identifier of a licence: UsageError."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", name):
        raise UsageError(
            f"{parameter('license', name)} is no licence identifier.",
            remedy="Give one such as mit, cc-by-4.0 or cc0-1.0.",
        )


def card(run: Run, repo: str, branch: str, license: str | None) -> str:
    """README.md for the hub: a head in YAML, which the hub can search, and what a user wants to know."""
    at = "" if branch == "main" else f"@{branch}"
    spec = f"hf://{repo}{at}/{RUN_FILE}"
    channels = {1: "mono", 2: "stereo"}.get(run.channels, f"{run.channels} channels")
    facts = [
        ("stems", ", ".join(run.sources) or "none of its own: one for each query"),
        *([("queries", f"of {run.min_query:.2g} s at least")] if run.min_query is not None else []),
        ("audio", f"{run.samplerate} Hz, {channels}"),
        ("network", f"{run.arch} of the family `{run.family}`"),
        ("parameters", f"{run.parameters:,}"),
        ("segment", "any length" if run.segment is None else f"{run.segment:g} s"),
        ("file", f"{RUN_FILE}, {run.bytes:,} bytes, sha256 `{run.sha256}`"),
        ("licence of the weights", license or "not stated: ask the author before you use or share them"),
    ]
    text = (
        _head(run, license)
        + f"""
# {repo.partition("/")[2]}

A model for music source separation: {_what(run)}. {_about(run)}

## Use

```
pip install sepcli
sepcli separate song.wav --model {spec}{_query(run, " --query NAME=example.wav")}
```

```python
import sepcli

model = sepcli.load("{spec}")
stems = sepcli.separate(model, audio, samplerate{_query(run, ', queries={"NAME": "example.wav"}')})
print(stems["{run.sources[0] if run.sources else "NAME"}"].shape)    # (channels, frames)
```

## Model

| | |
|---|---|
"""
        + "".join(f"| {key} | {value} |\n" for key, value in facts)
    )
    config = _differences(run.config)
    if config:
        text += f"\nThe network's settings, where they differ from its defaults:\n\n{_fenced(config)}"
    return text + _scores_text(run) + _training_text(run)


def _head(run: Run, license: str | None) -> str:
    tags = ["audio-source-separation", "music-source-separation", "sepcli", run.family, *run.sources]
    lines = ["---", "library_name: sepcli", "pipeline_tag: audio-to-audio"]
    if license is not None:
        known = license.lower() in HUB_LICENSES
        lines += [f"license: {license.lower() if known else 'other'}"]
        lines += [] if known else [f"license_name: {license.lower()}"]
    # Quoted: a stem called `no` or `1` would be something else in YAML.
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags)), "---", ""]
    return "\n".join(lines)


def _about(run: Run) -> str:
    about = run.settings.get("about")
    return f"{about.strip().rstrip('.')}." if isinstance(about, str) and about.strip() else ""


def _scores_text(run: Run) -> str:
    if not run.scores:
        return ""
    rows = [(source, run.scores[source]) for source in run.sources if source in run.scores]
    rows += [("mean", run.scores[SCORE])] if SCORE in run.scores else []
    return (
        f"\n## Scores\n\nuSDR in dB on the validation tracks of the training, {_after(run)}. They chose these"
        " weights, so other music may score lower.\n\n| stem | uSDR |\n|---|---|\n"
        + "".join(f"| {source} | {value:.2f} |\n" for source, value in rows)
    )


def _after(run: Run) -> str:
    return f"after {run.steps:,} steps" if run.steps is not None else "at the best step"


def _training_text(run: Run) -> str:
    text = "\n## Training\n\n"
    data = training_data(run)
    if data:
        text += f"Trained on {data}.\n\n"
    if run.settings:
        text += f"All settings are in [{CONFIG}]({CONFIG}).\n\n"
    if run.has_curves:
        text += f"![Loss and scores over steps]({CURVES})\n\n"
    return text + f"Trained and published with sepcli {__version__}.\n"


def training_data(run: Run) -> str:
    """The folders of [[data.train]] by name, as config.toml states them; "" where it doesn't."""
    data = run.settings.get("data")
    sources = data.get("train") if isinstance(data, Mapping) else None
    words = []
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, Mapping) and isinstance(source.get("path"), str):
            stems = source.get("stems")
            words.append(source["path"] + (f" (only {', '.join(stems)})" if stems else ""))
    return "; ".join(words)


def _what(run: Run) -> str:
    wanted = "the sound of a recorded example (a query)"
    if not run.sources:
        return f"it takes {wanted} out of a mix"
    return f"it takes a mix apart into {_listed(run.sources)}" + (
        f", or takes {wanted} out of it" if run.min_query is not None else ""
    )


def _query(run: Run, text: str) -> str:
    """`text` in the examples of a model that can do nothing without a query."""
    return "" if run.sources else text


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _fenced(tables: Mapping[str, Any]) -> str:
    return f"```toml\n{to_toml(tables)}```\n"


# --- the entry ---


def entry(run: Run, repo: str, commit: str, license: str | None) -> str:
    """The model as a table of weights.toml or of any --catalog file, pinned to `commit`."""
    table: dict[str, Any] = {
        "family": run.family,
        "arch": run.arch,
        "sources": list(run.sources),
        "samplerate": run.samplerate,
        "channels": run.channels,
        "license": license or "unspecified",
    }
    if run.min_query is not None:
        table["min_query"] = run.min_query
    if data := training_data(run):
        table["training_data"] = data
    if config := _differences(run.config):
        table["config"] = config
    table["files"] = {
        "model": {"repo": repo, "revision": commit, "path": RUN_FILE, "bytes": run.bytes, "sha256": run.sha256}
    }
    if SCORE in run.scores:
        table["scores"] = [
            {
                "metric": "uSDR (mean over tracks)",
                "set": "the run's validation tracks",
                "by": "ours",
                "value": round(run.scores[SCORE], 2),
                "stems": {stem: round(run.scores[stem], 2) for stem in run.sources if stem in run.scores},
                "note": "They chose these weights.",
            }
        ]
    return to_toml({repo.partition("/")[2]: table})


def _differences(config: Any) -> dict[str, Any]:
    """The network's settings that differ from its Config's defaults; without `sources`, a key of its own."""
    found = {}
    for one in fields(config):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        value = getattr(config, one.name)
        if one.name != "sources" and value != default:
            found[one.name] = _toml(value)
    return found


def _toml(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, list | tuple):
        return [_toml(item) for item in value]
    return [] if value is None else value  # TOML has no None; our networks take an empty list for it
