"""DiCoSe's table of real time factors: four stems of a segment of 11.9 s, relative to the deterministic model.

The networks have full size and random weights. MSDM and ISDM need hundreds of calls for a segment: a few steps
are measured, and the time is scaled by the number of calls.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import results, sampling
from tests.bench.results import Figure, Record


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    arch: str
    paper: float  # its RTF, on a GPU
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0  # calls of the published options over calls of these


# Measured: 2 steps of 2 corrections. Published: 150 steps of 2.
FEW, FEWER = {"steps": 2, "corrections": 2}, 150 / 2
TABLE: Mapping[str, Row] = {
    "deterministic": Row("Deterministic", 0.009),
    "double deterministic": Row("DoubleDeterministic", 0.019),
    "diffusion, 5 steps of 2": Row("Diffusion", 0.117, {"steps": 5, "corrections": 2}),
    "consistency, K = 1": Row("Consistency", 0.023, {"steps": 1}),
    "consistency, K = 2": Row("Consistency", 0.032, {"steps": 2}),
    "consistency, K = 4": Row("Consistency", 0.051, {"steps": 4}),
    "MSDM, 150 steps of 2": Row("MSDM", 0.386, FEW, FEWER),
    "ISDM, 150 steps of 2": Row("ISDM", 1.546, FEW, FEWER),
}


def bench(
    config: Mapping[str, Any] | None = None,
    *,
    archs: Sequence[str] = (),
    runs: int = 1,
    device: str = "cpu",
    note: str = "",
) -> Record:
    """config: differences from the published networks. archs: only these and Deterministic; () = all.

    note: other programs that run on the machine.
    """
    from sepcli.models.dicose import DicoseConfig

    shape = DicoseConfig(**(config or {}))
    seconds = shape.segment / shape.samplerate
    rows = {name: row for name, row in TABLE.items() if not archs or row.arch in (*archs, "Deterministic")}
    times, measured = {}, {}
    for arch in dict.fromkeys(row.arch for row in rows.values()):
        mine = {name: row for name, row in rows.items() if row.arch == arch}
        found = sampling.measure(
            arch, config or {}, [dict(row.options) for row in mine.values()], runs=runs, device=device
        )
        measured[arch] = found
        for (name, row), each in zip(mine.items(), found["seconds"], strict=True):
            times[name] = min(each) * row.scale
            print(f"{name}: {times[name]:.1f} s", file=sys.stderr, flush=True)
    base, paper = times["deterministic"], TABLE["deterministic"].paper
    figures = [Figure("RTF, deterministic", base / seconds)]
    figures += [
        Figure(f"{name} / deterministic (paper: {rows[name].paper / paper:.3g})", value / base)
        for name, value in times.items()
        if name != "deterministic"
    ]
    figures += [
        Figure(f"peak memory, {arch}, {found['parameters'] / 1e6:.0f} M parameters", found["peak"] / 1e6, "MB")
        for arch, found in measured.items()
    ]
    left_out = {name: "asked for without it" for name in TABLE if name not in rows}
    settings = {
        "audio": f"a segment of {seconds:.1f} s, mono, {shape.samplerate:,} Hz; all {len(shape.sources)} stems",
        "precision": "float32",
        "threads": 1,
        "batch": "one segment, its four targets together",
        "runs": f"best of {runs}; {'CPU time' if device == 'cpu' else 'wall time'}",
        "MSDM and ISDM": f"{FEW['steps']} steps of {FEW['corrections']} measured, times {FEWER:g} calls",
        **({"beside it": note} if note else {}),
    }
    return Record("dicose", settings, figures, measured, left_out, device=measured["Deterministic"]["device"])


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--archs", nargs="*", default=[], help="only these (ISDM alone has 6.5 GB of weights)")
    parser.add_argument("--note", default="", help="what else runs on the machine")
    options = parser.parse_args()
    record = bench(archs=options.archs, runs=options.runs, device=options.device, note=options.note)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
