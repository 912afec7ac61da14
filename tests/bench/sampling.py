"""One network of the DiCoSe family with random weights: all stems of one segment, with several sets of options.

    python -m tests.bench.sampling '{"arch": ..., "config": {...}, "options": [{...}, ...], "runs": 1,
                                     "device": "cpu"}'

In a process of its own, so that the memory of other networks does not count. From an array to an array,
float32; nothing is loaded or written. A tenth of a second is separated before, and not counted. On a CPU, CPU
time is measured, on which other programs have little influence; on a GPU, wall time. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench import programs
from tests.bench.passes import peak_bytes


def measure(
    arch: str,
    config: Mapping[str, Any],
    options: Sequence[Mapping[str, Any]],
    *,
    runs: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """seconds: [of each run] for each of `options`. parameters: how many. peak: bytes of memory."""
    asked = {"arch": arch, "config": config, "options": options, "runs": runs, "device": device}
    return json.loads(programs.run([sys.executable, "-m", "tests.bench.sampling", json.dumps(asked)], 1).output)


def main() -> None:
    import torch

    from sepcli.engine.device import tune_process
    from sepcli.engine.pipeline import Engine
    from sepcli.engine.settings import Settings
    from sepcli.models.dicose import FAMILY

    asked = json.loads(sys.argv[1])
    arch, device = FAMILY.archs[asked["arch"]], torch.device(asked["device"])
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    tune_process()
    torch.manual_seed(0)
    model = arch.build(arch.config(**asked["config"])).eval()
    # One segment is one chunk only without overlap.
    engine = Engine(model, Settings(overlap=0, batch_size=1), device, torch.float32)
    mix = 0.1 * torch.randn(1, 1, model.segment.samples)

    def separate() -> float:
        start = clock()
        stems = torch.cat(list(engine.separate(iter([mix]))), dim=-1)
        seconds = clock() - start
        assert stems.shape == (len(model.sources), *mix.shape) and stems.isfinite().all()
        return seconds

    found = []
    for options in asked["options"]:
        if arch.options is not None:
            model.options = arch.options(**options)
        with torch.inference_mode():
            model(mix[..., : model.segment.multiple].to(device)).cpu()
        found.append([round(separate(), 4) for _ in range(asked["runs"])])
    on_gpu = device.type == "cuda"
    print(
        json.dumps(
            {
                "seconds": found,
                "parameters": sum(p.numel() for p in model.parameters()),
                "peak": torch.cuda.max_memory_reserved() if on_gpu else peak_bytes(),
                "device": torch.cuda.get_device_name() if on_gpu else "",
            }
        )
    )


if __name__ == "__main__":
    main()
