"""The metrics of `sepcli evaluate` compared with museval: CPU time, and how much the values differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from sepcli.metrics.bsseval import BssEval
from sepcli.metrics.sdr import Sums
from tests.bench import results
from tests.bench.results import Figure, Record

RATE = 44100  # Hz
BLOCK = 65536  # samples, as tracks are read

Signals = np.ndarray  # [S, C, T] float64


def signals(seconds: float, stems: int = 4) -> tuple[Signals, Signals]:
    """Stereo stems of different colours and levels, and estimates that are filtered, leak and are noisy."""
    rng, samples = np.random.default_rng(0), int(seconds * RATE)
    colours = np.cos(np.arange(64) * np.linspace(0.05, 1.5, stems)[:, None]) * np.hanning(64)
    colours[:, 0] = 1  # no band is empty: museval's own filters would be off by rounding
    references = rng.standard_normal((stems, 2, samples))
    for k, stem in enumerate(references):
        stem[:] = [0.1 * (k + 1) * np.convolve(channel, colours[k], "same") for channel in stem]
    smeared = 0.9 * references + 0.2 * np.roll(references, 3, axis=-1)
    return references, smeared + 0.2 * references[::-1] + 0.05 * rng.standard_normal(references.shape)


def by_sepcli(references: Signals, estimates: Signals, *, filters: bool) -> dict[str, np.ndarray]:
    """In blocks, as tracks are read. filters: ISR, SIR and SAR; else SDR alone."""
    stems, channels, samples = references.shape
    found: Any = BssEval(stems, channels, RATE) if filters else Sums(stems, channels, RATE)
    for at in range(0, samples, BLOCK):
        found.add(references[..., at : at + BLOCK], estimates[..., at : at + BLOCK])
    return found.result() if filters else {"sdr": found.museval_sdr()}


def by_museval(references: Signals, estimates: Signals) -> dict[str, np.ndarray]:
    """All four metrics at once: museval can't give SDR alone."""
    import museval

    swapped = [np.ascontiguousarray(each.transpose(0, 2, 1)) for each in (references, estimates)]
    return dict(zip(("sdr", "isr", "sir", "sar"), museval.evaluate(*swapped, win=RATE, hop=RATE), strict=True))


def timed(work: Callable[[], dict[str, np.ndarray]]) -> tuple[float, dict[str, np.ndarray]]:
    """CPU seconds of all threads, and the result of the call."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def bench(*, seconds: float = 10, runs: int = 3) -> Record:
    references, estimates = signals(seconds)
    ways: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "sepcli, SDR": lambda: by_sepcli(references, estimates, filters=False),
        "sepcli, ISR, SIR and SAR": lambda: by_sepcli(references, estimates, filters=True),
        "museval, all four": lambda: by_museval(references, estimates),
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(runs):  # in turns
        for name, work in ways.items():
            cost, values[name] = timed(work)
            costs[name].append(cost)
    best = {name: min(each) for name, each in costs.items()}
    ours, theirs = values["sepcli, SDR"] | values["sepcli, ISR, SIR and SAR"], values["museval, all four"]
    apart = {name: float(np.abs(ours[name] - theirs[name]).max()) for name in theirs}
    figures = [
        *(Figure(f"CPU time, {name}", cost, "s") for name, cost in best.items()),
        Figure("museval / sepcli, SDR", best["museval, all four"] / best["sepcli, SDR"], "", ">= 100"),
        Figure("museval / sepcli, all four", best["museval, all four"]
               / (best["sepcli, SDR"] + best["sepcli, ISR, SIR and SAR"])),
        Figure("largest difference, SDR", apart["sdr"], "dB", "<= 1e-09"),
        *(Figure(f"largest difference, {name.upper()}", apart[name], "dB", "<= 1e-06")
          for name in ("isr", "sir", "sar")),
    ]  # fmt: skip
    settings = {
        "audio": f"{seconds:g} s of four stereo stems at 44.1 kHz, float64",
        "museval": version("museval"),
        "numpy": np.__version__,
        "runs": f"best of {runs}, in turns",
    }
    each_run = {name: [round(cost, 4) for cost in each] for name, each in costs.items()}
    return Record("metrics", settings, figures, each_run)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    results.finish(bench(runs=options.runs), options.name)


if __name__ == "__main__":
    main()
