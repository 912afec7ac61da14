"""LaSAFT in full size: four stems in one pass or in four, real time factor, memory; with one thread."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench import passes, results, sound
from tests.bench.results import Figure, Record

LARGE = {"n_fft": 4096, "n_blocks": 9, "embedding_dim": 64}
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "v2 large": ("LaSAFTv2", LARGE),
    "v2 small": ("LaSAFTv2", {}),
    "v2 light": ("LaSAFTv2", {"internal_channels": 20, "num_tdfs": 12, "activation": "leaky_relu"}),
    "v1 large": ("LaSAFTv1", LARGE),
}


def make(arch_name: str, config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """A checkpoint of random weights, and its stems."""
    import torch

    from sepcli.loading import save_model
    from sepcli.models.lasaft import FAMILY

    arch = FAMILY.archs[arch_name]
    torch.manual_seed(0)
    model = arch.build(arch.config(**config))
    save_model(model.state_dict(), path, family="lasaft", arch=arch_name, config=model.config)
    return model.sources


def bench(
    work: Path,
    configs: Mapping[str, tuple[str, Mapping[str, Any]]] = CONFIGS,
    *,
    seconds: float = 6,
    runs: int = 3,
) -> Record:
    track = sound.music(work / "clip.wav", seconds)
    figures, found = [], {}  # found: what was measured, for each config
    for name, (arch, config) in configs.items():
        file = work / f"{name}.safetensors"
        stems = make(arch, config, file)
        found[name] = passes.measure(file, track, stems, runs=runs)
        best = {what: min(each) for what, each in found[name]["seconds"].items()}
        together, apart = best[passes.ALL], sum(best[stem] for stem in stems)
        target = "<= 0.75" if arch == "LaSAFTv2" else ""
        figures += [
            Figure(f"{name}: four stems in one pass / in four", together / apart, target=target),
            Figure(f"{name}: RTF, four stems", together / seconds),
            Figure(f"{name}: RTF, one stem", apart / len(stems) / seconds),
            Figure(f"{name}: peak memory, four stems", found[name]["peak"] / 1e6, "MB"),
        ]
        print(f"{name}: {together / apart:.3f}", file=sys.stderr, flush=True)
    settings = {
        "audio": f"{seconds:g} s of stereo music at 44.1 kHz",
        "precision": "float32",
        "threads": 1,
        "runs": f"best of {runs}, in turns, after one that is not counted; CPU time",
    }
    return Record("lasaft", settings, figures, found)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        record = bench(work, runs=options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
