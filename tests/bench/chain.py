"""What a chain of models costs beside its models one by one: processor time and memory.

    python -m tests.bench.chain

Each in a process of its own (python -m tests.bench.chain SECONDS SPEC [STEP]): models are loaded, then a track
goes through the engine block by block, and what comes out is counted and forgotten. So neither starting nor
files are in the figures.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import programs, results, weights
from tests.bench.results import Figure, Record

THREADS = 2
MB = 1e6


def bench(work: Path, first: str, stem: str, second: str, *, seconds: float = 60, runs: int = 3) -> Record:
    """The chain of `first`, then `second` on one of its stems, beside both alone. The best run counts."""
    kinds = {"first": [first], "second": [second], "chain": [first, f"{stem}: {second}"]}
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, specs in kinds.items():
            command = [sys.executable, "-m", "tests.bench.chain", f"{seconds:g}", *specs]
            found[kind].append(json.loads(programs.run(command, THREADS).output))
            print(kind, found[kind][-1], file=sys.stderr, flush=True)

    def least(kind: str, key: str) -> float:
        return min(run[key] for run in found[kind])

    working = {kind: least(kind, "peak") - least(kind, "loaded") for kind in kinds}
    alone = least("first", "cpu") + least("second", "cpu")
    most = max(working["first"], working["second"])
    figures = [
        *(Figure(f"CPU time, {kind}", least(kind, "cpu"), "s") for kind in kinds),
        Figure("CPU time of the chain over the sum of both", least("chain", "cpu") / alone, "", "<= 1.05"),
        *(Figure(f"memory beside the weights, {kind}", working[kind] / MB, "MB") for kind in kinds),
        Figure("memory of the chain above the larger of both", (working["chain"] - most) / MB, "MB", "<= 200"),
    ]
    names = {kind: " then ".join(spec.rpartition("/")[2] for spec in specs) for kind, specs in kinds.items()}
    settings = {"threads": THREADS, "audio": f"{seconds:g} s of stereo noise", "runs": runs, **names}
    return Record("chain", settings, figures, found)


def one(seconds: float, spec: str, *then: str) -> dict[str, float]:
    """One track through one model or chain. cpu: s, of the engine alone. loaded, peak: bytes of memory."""
    import torch

    from sepcli.engine.device import tune_process
    from sepcli.engine.pipeline import Engine
    from sepcli.engine.settings import Settings
    from sepcli.engine.statistics import Stats
    from sepcli.loading import load_model

    tune_process()
    model = load_model(spec, then=then).model
    engine = Engine(model, Settings(), torch.device("cpu"), torch.float32)
    draw = torch.Generator().manual_seed(0)

    def blocks() -> Any:
        for _ in range(round(seconds * model.samplerate / 65536)):
            yield torch.rand(1, 2, 65536, generator=draw) - 0.5

    stats = engine.measure(blocks()) if model.normalize else None
    assert stats is None or isinstance(stats, Stats)
    loaded, start = _resident(), time.process_time()
    frames = sum(block.shape[-1] for block in engine.separate(blocks(), stats))
    cpu = time.process_time() - start
    assert frames == round(seconds * model.samplerate / 65536) * 65536
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu": round(cpu, 3), "loaded": loaded, "peak": peak}


def _resident() -> int:
    """The bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    if len(sys.argv) > 2 and not sys.argv[1].startswith("-"):
        print(json.dumps(one(float(sys.argv[1]), *sys.argv[2:])))
        return
    parser = results.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        second = weights.make("htdemucs", work).model
        record = bench(work, "duo-vocals", "accompaniment", second, seconds=options.seconds, runs=options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
