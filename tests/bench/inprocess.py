"""The separation alone, without starting a process, loading a model, reading or writing a file.

    python -m tests.bench.inprocess '{"program": ["sepcli", MODEL] | ["demucs", NAME, REPO] |
                                      ["msst", KIND, CONFIG, CHECKPOINT], "track": TRACK, "device": "cpu",
                                      "precision": "float32", "batch": null, "overlap": 0.25, "runs": 3}'

Each program has a process of its own, because the settings of one (allocator, caches, cudnn) would change the
other. From an array to an array, both on the CPU, with the track's normalisation; the first pass is not
counted. Precision, batch and overlap are for sepcli; the others have their own. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import programs
from tests.bench.weights import Weights


def ours(weights: Weights) -> list[str]:
    """`program` for sepcli with these weights."""
    return ["sepcli", weights.model]


def theirs(weights: Weights) -> list[str]:
    """`program` for demucs with these weights."""
    return ["demucs", weights.name, str(weights.repo)]


def measure(
    program: Sequence[str],
    track: Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    batch: int | None = None,
    overlap: float = 0.25,
    runs: int = 3,
    threads: int = 1,
    python: str = sys.executable,
    **environment: str,
) -> dict[str, Any]:
    """Run this file in a process. python: of the program's environment; environment: variables.

    seconds: of each pass; first, first_cpu: of the one before, and the processor's; batch: segments in
    a call; peak: bytes of a GPU's memory; device: its name.
    """
    asked = {"program": [*program], "track": str(track), "device": device, "precision": precision}
    asked |= {"batch": batch, "overlap": overlap, "runs": runs}
    command = [python, "-m", "tests.bench.inprocess", json.dumps(asked)]
    found = json.loads(programs.run(command, threads, **environment).output.splitlines()[-1])
    told = (
        f"{program[0]} {precision} batch {batch or 'auto'}: {min(found['seconds'] or [found['first']]):.3f} s"
    )
    print(told, file=sys.stderr, flush=True)
    return found


def main() -> None:
    import soundfile
    import torch

    asked = json.loads(sys.argv[1])
    mix = torch.from_numpy(soundfile.read(asked["track"], dtype="float32")[0].T.copy())  # [C, T]
    name, *which = asked["program"]
    chosen_batch: Batch = lambda: 1  # noqa: E731
    if name == "sepcli":
        separate, chosen_batch = sepcli(*which, asked)
    else:
        separate = {"demucs": demucs, "msst": msst}[name](*which, asked["device"])
    seconds, cpu = [], []
    for _ in range(asked["runs"] + 1):
        start, used = time.perf_counter(), time.process_time()
        stems = separate(mix)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
        assert stems.device.type == "cpu" and stems.shape[-2:] == mix.shape  # so the device has finished
    on_gpu = asked["device"].startswith("cuda")
    found = {
        "seconds": [round(value, 4) for value in seconds[1:]],
        "first": round(seconds[0], 4),
        "first_cpu": round(cpu[0], 4),
        "batch": chosen_batch(),
        "peak": torch.cuda.max_memory_reserved() if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "",
    }
    print(json.dumps(found))


Separate = Callable[[Any], Any]  # [C, T] -> [S, C, T]
Batch = Callable[[], int]  # segments in a call; known after the first separation


def sepcli(model: str, asked: dict[str, Any]) -> tuple[Separate, Batch]:
    """As `sepcli separate` works: one engine for all tracks, blocks in and out."""
    import torch

    from sepcli.engine.blend import Blend
    from sepcli.engine.chain import Chain
    from sepcli.engine.device import choose_device, choose_precision, tune_process
    from sepcli.engine.pipeline import Engine
    from sepcli.engine.settings import Settings
    from sepcli.loading import load_model

    tune_process()
    loaded = load_model(model).model
    chosen = choose_device(asked["device"])
    dtype = choose_precision(asked["precision"], chosen, loaded.half).dtype
    settings = Settings(batch_size=asked["batch"], overlap=asked["overlap"])
    engine = Engine(loaded, settings, chosen.torch, dtype)

    def separate(mix: torch.Tensor) -> torch.Tensor:
        blocks = mix[None].split(65536, dim=-1)
        stats = engine.measure(blocks) if engine.normalize else None
        return torch.cat(list(engine.separate(iter(blocks), stats)), dim=-1)[:, 0]

    several = isinstance(loaded, Blend | Chain)  # each of which has its own batches
    return separate, lambda: 1 if several else engine.stage.batches[0].size


def demucs(name: str, repo: str, device: str) -> Separate:
    """As the command `demucs` works."""
    import torch
    from demucs.api import Separator

    separator = Separator(name, Path(repo), device=device, shifts=0)
    return lambda mix: torch.stack(list(separator.separate_tensor(mix)[1].values()))


def msst(kind: str, config: str, checkpoint: str, device: str) -> Separate:
    """As `msst-inference` works, by the configuration file."""
    import torch
    from msst.inference import Separator

    separator = Separator(
        config_path=config,
        checkpoint_path=checkpoint,
        model_type=kind,
        force_cpu=device == "cpu",
        detailed_progress=False,
    )
    return lambda mix: torch.stack([torch.as_tensor(stem) for stem in separator.separate(mix.numpy()).values()])


if __name__ == "__main__":
    main()
