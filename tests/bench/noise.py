"""What noise costs MSDM, which draws 451 numbers for every sample of three stems (150 steps of 2 corrections).

Two figures, CPU time of 15 steps scaled to 150. Drawing: the numbers alone. In the network's way: the time that
noise adds to the thread that samples, while the network computes somewhere else, as on a GPU; here a call of
the network only sleeps for 20 ms.
"""

from __future__ import annotations

import time

from tests.bench import results
from tests.bench.results import Figure, Record

STEPS, SCALE = 15, 10.0
CALL = 0.02  # s


def bench(samples: int = 262144, *, runs: int = 3) -> Record:
    """samples: the length of a segment."""
    import torch
    from torch import Tensor

    from sepcli.engine.device import tune_process
    from sepcli.engine.noise import Noise
    from sepcli.models.dicose import FAMILY

    class Silent(Noise):
        """Noise that costs nothing."""

        def normal(self, draw: int, source: str, channels: int, length: int) -> Tensor:
            return torch.zeros(len(self.starts), channels, length)

    def elsewhere(x: Tensor, c_noise: Tensor) -> Tensor:
        time.sleep(CALL)
        return x

    tune_process()
    arch = FAMILY.archs["MSDM"]
    config = arch.config(width=16, patch=4, multipliers=(1, 1), factors=(4,), blocks=(1,), attentions=(False,))
    model = arch.build(config).eval()
    model.options = arch.options(steps=STEPS)
    model.stems_network = elsewhere
    mix, noise = torch.randn(1, 1, samples), Noise(0, [0], [0])

    def drawing() -> float:
        start = time.process_time()
        for draw in range(20):
            noise.normal(draw, "bass", 1, samples)
        return (time.process_time() - start) / 20

    def separating(kind: type[Noise]) -> float:
        start = time.thread_time()
        with torch.inference_mode():
            model(mix, noise=kind(0, [0], [0]))
        return time.thread_time() - start

    drawing()
    found = {
        "drawing": [drawing() for _ in range(runs)],
        "with noise": [separating(Noise) for _ in range(runs)],
        "without": [separating(Silent) for _ in range(runs)],
    }
    best = {name: min(each) for name, each in found.items()}
    stretches = 3 * (3 * 150 + 1)  # sources x (the start's, and 2 R - 1 a step)
    segment = f"{samples / 22050:.1f} s of MSDM"
    figures = [
        Figure("drawing, a normal", best["drawing"] / samples * 1e9, "ns"),
        Figure(f"drawing, {segment}", best["drawing"] * stretches, "s"),
        Figure(f"in the network's way, {segment}", (best["with noise"] - best["without"]) * SCALE, "s"),
    ]
    settings = {
        "runs": f"best of {runs}; CPU time",
        "threads": torch.get_num_threads(),
        "network": f"sleeps for {1e3 * CALL:g} ms a call, 300 calls",
    }
    runs_s = {name: [round(seconds, 4) for seconds in each] for name, each in found.items()}
    return Record("noise", settings, figures, runs_s)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    results.finish(bench(runs=options.runs), options.name)


if __name__ == "__main__":
    main()
