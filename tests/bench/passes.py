"""All stems in one pass, compared with a pass for each stem; in one process and in turns.

    python -m tests.bench.passes WEIGHTS TRACK RUNS [STEM...]

As in inprocess.py: from an array to an array, float32 on the CPU, the first pass is not counted. CPU time, on
which other programs of the machine have little influence. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import programs

ALL = "all"


def measure(file: Path, track: Path, stems: Sequence[str], *, runs: int) -> dict[str, Any]:
    """Run this file in a process with one thread.

    seconds: {"all" or a stem: [seconds of each run]}. peak: bytes of memory of a process that makes all stems.
    """
    command = [sys.executable, "-m", "tests.bench.passes", str(file), str(track), str(runs), *stems]
    return json.loads(programs.run(command, 1).output)


def main() -> None:
    import soundfile
    import torch

    from sepcli.engine.device import tune_process
    from sepcli.engine.pipeline import Engine
    from sepcli.engine.settings import Settings
    from sepcli.loading import load_model

    file, track, runs, *stems = sys.argv[1:]
    tune_process()
    mix = torch.from_numpy(soundfile.read(track, dtype="float32")[0].T.copy())[None]  # [1, C, T]

    def engine(stem: str) -> Engine:
        model = load_model(file, targets=None if stem == ALL else [stem]).model
        return Engine(model, Settings(), torch.device("cpu"), torch.float32)

    def separate(engine: Engine) -> float:
        start = time.process_time()
        out = torch.cat(list(engine.separate(iter(mix.split(65536, dim=-1)))), dim=-1)
        seconds = time.process_time() - start
        assert out.shape == (len(engine.sources), *mix.shape) and out.isfinite().all()
        return seconds

    engines = {ALL: engine(ALL)}
    separate(engines[ALL])
    peak = peak_bytes()
    engines |= {stem: engine(stem) for stem in stems}
    turns = [{name: round(separate(each), 4) for name, each in engines.items()} for _ in range(int(runs))]
    print(json.dumps({"seconds": {name: [turn[name] for turn in turns] for name in engines}, "peak": peak}))


def peak_bytes() -> int:
    """This process's largest resident set so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
