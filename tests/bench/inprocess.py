"""The separation alone, without starting a process, loading a model, reading or writing a file.

    python -m tests.bench.inprocess {sepcli|demucs} NAME WEIGHTS TRACK DEVICE PRECISION BATCH RUNS

Each program has a process of its own, because the settings of one (allocator, caches, cudnn) would change the
other. From an array to an array, both on the CPU, with the track's normalisation; the first pass is not
counted. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import programs
from tests.bench.weights import Weights


def measure(
    program: str,
    weights: Weights,
    track: Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    batch: str = "auto",
    runs: int = 3,
    threads: int = 1,
) -> dict[str, Any]:
    """Run this file in a process. seconds: of each pass; peak: bytes of a GPU's memory; device: its name."""
    command = [sys.executable, "-m", "tests.bench.inprocess", program, weights.name, str(weights.file)]
    command += [str(track), device, precision, batch, str(runs)]
    found = json.loads(programs.run(command, threads).output)
    print(f"{program} {precision} batch {batch}: {min(found['seconds']):.3f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    import soundfile
    import torch

    program, name, file, track, device, precision, batch, runs = sys.argv[1:]
    mix = torch.from_numpy(soundfile.read(track, dtype="float32")[0].T.copy())  # [C, T]
    weights = Weights(name, Path(file))
    if program == "sepcli":
        separate, chosen_batch = sepcli(weights, device, precision, None if batch == "auto" else int(batch))
    else:
        separate, chosen_batch = demucs(weights, device), lambda: 1
    seconds = []
    for _ in range(int(runs) + 1):
        start = time.perf_counter()
        stems = separate(mix)
        seconds.append(time.perf_counter() - start)
        assert stems.device.type == "cpu" and stems.shape[-2:] == mix.shape  # so the device has finished
    on_gpu = device.startswith("cuda")
    found = {
        "seconds": [round(value, 4) for value in seconds[1:]],
        "first": round(seconds[0], 4),
        "batch": chosen_batch(),
        "peak": torch.cuda.max_memory_reserved() if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "",
    }
    print(json.dumps(found))


Separate = Callable[[Any], Any]  # [C, T] -> [S, C, T]
Batch = Callable[[], int]  # segments in a call; known after the first separation


def sepcli(weights: Weights, device: str, precision: str, batch: int | None) -> tuple[Separate, Batch]:
    """As `sepcli separate` works: one engine for all tracks, blocks in and out."""
    import torch

    from sepcli.engine.device import choose_device, choose_precision, tune_process
    from sepcli.engine.pipeline import Engine, measure
    from sepcli.engine.settings import Settings
    from sepcli.loading import load_model

    tune_process()
    model = load_model(weights.model).model
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen, model.half).dtype
    engine = Engine(model, Settings(batch_size=batch), chosen.torch, dtype)

    def separate(mix: torch.Tensor) -> torch.Tensor:
        blocks = mix[None].split(65536, dim=-1)
        stats = measure(iter(blocks)) if engine.normalize else None
        return torch.cat(list(engine.separate(iter(blocks), stats)), dim=-1)[:, 0]

    return separate, lambda: engine.stage.batches[0].size


def demucs(weights: Weights, device: str) -> Separate:
    """As the command `demucs` works."""
    import torch
    from demucs.api import Separator

    separator = Separator(weights.name, weights.repo, device=device, shifts=0)
    return lambda mix: torch.stack(list(separator.separate_tensor(mix)[1].values()))


if __name__ == "__main__":
    main()
