"""RoFormers by sepcli and by other programs: time and memory of whole processes, on one set of random weights.

    python -m tests.bench.roformer bs-256x12 --msst ENV/bin --audio-separator ENV/bin --unblend ENV/bin

Each other program has an environment of its own, whose `bin` is named: msst 0.1.0, audio-separator 0.47.1,
unblend 1.0.0. Each is run twice: with chunks and overlap as large as in the others, and as it is by default.
audio-separator reads its list of models from the network; here it finds one that holds this model alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch

from sepcli.models.config import plain_config
from sepcli.models.roformer import FAMILY
from sepcli.models.roformer.checkpoint import as_published
from sepcli.models.roformer.toolkit import KINDS, write_yaml
from tests.bench import results, sound
from tests.bench.programs import SEPCLI, interleaved, run, shown
from tests.bench.results import Figure, Record

THREADS = 2
OVERLAP = 0.5  # num_overlap 2
NAME = "bench_roformer"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bs-256x12": ("BSRoformer", {"chunk": 352768}),
    "bs-512x12": ("BSRoformer", {"dim": 512, "hop": 441}),
    "mel-384x6": ("MelBandRoformer", {}),
    "narrow": ("BSRoformer", {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "chunk": 352768}),
}


def prepare(folder: Path, network: str) -> str:
    """Weights, settings and lists of models for all programs; the network's name at the toolkit."""
    name, settings = NETWORKS[network]
    arch = FAMILY.archs[name]
    config = arch.config(sources=("vocals",), **settings)
    torch.manual_seed(0)
    torch.save(as_published(arch.build(config)), folder / f"{NAME}.ckpt")
    (folder / f"{NAME}.yaml").write_text(write_yaml(config))
    plain = arch.config()
    differences = {
        key: value
        for key, value in plain_config(config).items()
        if key != "sources" and value != plain_config(plain)[key]
    }
    entry = {
        "family": "roformer",
        "arch": name,
        "sources": ["vocals"],
        "counterpart": "instrumental",
        "samplerate": config.samplerate,
        "channels": config.channels,
        "config": differences,
        "files": {"model": {"url": "https://example.invalid/model"}},
    }
    (folder / "catalog.toml").write_text(tomli_w.dumps({"bench": entry}))
    lists = ("vr", "mdx", "mdx_vip", "demucs", "mdx23c", "mdx23c_vip", "roformer")
    checks: dict[str, Any] = {
        f"{each.removesuffix('_vip')}_download{'_vip' if each.endswith('_vip') else ''}_list": {}
        for each in lists
    }
    checks["roformer_download_list"] = {"Roformer Model: bench": {f"{NAME}.ckpt": f"{NAME}.yaml"}}
    (folder / "download_checks.json").write_text(json.dumps(checks))
    return next(theirs for theirs, ours in KINDS.items() if ours == name)


def commands(folder: Path, track: Path, kind: str, programs: Mapping[str, Path]) -> dict[str, list[str]]:
    """{what is measured: its command}. track: alone in its folder."""
    out = folder / "out"
    ours = [
        *SEPCLI, "separate", str(track), "-m", f"bench={folder / f'{NAME}.ckpt'}",
        "--catalog", str(folder / "catalog.toml"), "-o", str(out / "sepcli"),
        "--device", "cpu", "--precision", "float32", "--json", "--force", "--no-resume",
    ]  # fmt: skip
    found = {"sepcli, equal": [*ours, "--overlap", str(OVERLAP)], "sepcli": ours}
    if "msst" in programs:
        found["msst"] = [
            str(programs["msst"] / "msst-inference"), "--model_type", kind,
            "--config_path", str(folder / f"{NAME}.yaml"),
            "--start_check_point", str(folder / f"{NAME}.ckpt"),
            "--input_folder", str(track.parent), "--store_dir", str(out / "msst"),
            "--force_cpu", "--disable_detailed_pbar", "--extract_instrumental",
        ]  # fmt: skip
    if "audio-separator" in programs:
        theirs = [
            str(programs["audio-separator"] / "audio-separator"), str(track), "-m", f"{NAME}.ckpt",
            "--model_file_dir", str(folder), "--output_dir", str(out / "as"), "--output_format", "WAV",
        ]  # fmt: skip
        found["audio-separator, equal"] = [*theirs, "--mdxc_overlap", "2"]
        found["audio-separator"] = theirs
    if "unblend" in programs:
        theirs = [
            str(programs["unblend"] / "unblend"), "separate", str(track), "-m", "bench", "--device", "cpu",
            "-o", str(out / "unblend" / "{stem}.{ext}"),
        ]  # fmt: skip
        found["unblend, equal"] = [*theirs, "--split-overlap", str(OVERLAP)]
        found["unblend"] = theirs
    return found


def bench(
    work: Path, network: str, programs: Mapping[str, Path], *, seconds: float, runs: int, long: bool, note: str
) -> Record:
    """long: sepcli's peak on 3 and 30 minutes too."""
    kind = prepare(work, network)
    (work / "in").mkdir(exist_ok=True)
    track = sound.music(work / "in" / "track.wav", seconds)
    if "unblend" in programs:
        os.environ["HOME"] = str(work)  # where it keeps its list of models
        run(
            [
                str(programs["unblend"] / "unblend"), "models", "import", str(work / f"{NAME}.ckpt"),
                "--name", "bench", "--config", str(work / f"{NAME}.yaml"),
            ],
            THREADS,
        )  # fmt: skip
    measured = commands(work, track, kind, programs)
    costs = interleaved(measured, runs, THREADS)
    best = {name: min(each, key=lambda cost: cost.cpu) for name, each in costs.items()}
    figures = []
    for name, cost in best.items():
        figures.append(Figure(f"CPU time, {name}", cost.cpu, "s"))
        figures.append(Figure(f"wall time, {name}", cost.wall, "s"))
        figures.append(Figure(f"peak, {name}", min(each.peak for each in costs[name]) / 1e6, "MB"))
    others = [name for name in best if not name.startswith("sepcli")]
    equal = [name for name in others if name.endswith(", equal") or name == "msst"]
    if equal:
        ratio = best["sepcli, equal"].cpu / min(best[name].cpu for name in equal)
        figures.append(Figure("equal chunks and overlap: CPU time over the best other's", ratio, "", "<= 1"))
        defaults = [name for name in others if not name.endswith(", equal")]
        ratio = best["sepcli"].wall / min(best[name].wall for name in defaults)
        figures.append(Figure("defaults: wall time over the best other's", ratio, "", "<= 0.6"))
    if long:
        peaks = {}
        for minutes in (3, 30):
            other = sound.music(work / f"{minutes}.wav", 60 * minutes)
            peaks[minutes] = run(
                [str(other) if part == str(track) else part for part in measured["sepcli"]], THREADS
            )
            figures.append(Figure(f"peak, sepcli, {minutes} min", peaks[minutes].peak / 1e6, "MB"))
        figures.append(
            Figure("peak, 30 min over 3 min", (peaks[30].peak - peaks[3].peak) / 1e6, "MB", "<= 100")
        )
    settings: dict[str, Any] = {"network": network, "audio": f"{seconds:g} s of stereo music at 44.1 kHz"}
    settings |= {"threads": THREADS, "runs": runs}
    for name, command in measured.items():
        text = shown(command, work)
        for program, folder in programs.items():
            text = text.replace(f"{folder}{os.sep}", "") if program in name else text
        settings[name] = text
    missing = {
        name: f"left out; --{name} does it"
        for name in ("msst", "audio-separator", "unblend")
        if name not in programs
    }
    settings |= {"note": note} if note else {}
    rows = {name: [cost.as_json() for cost in each] for name, each in costs.items()}
    return Record(f"roformer-{network}", settings, figures, rows, missing)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("network", choices=NETWORKS)
    for name in ("msst", "audio-separator", "unblend"):
        parser.add_argument(f"--{name}", type=Path, metavar="BIN", help="the folder of its programs")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--long", action="store_true", help="also the peak on 3 and 30 minutes")
    parser.add_argument("--note", default="", help="what else the machine was doing, for instance")
    options = parser.parse_args()
    named = {"msst": options.msst, "audio-separator": options.audio_separator, "unblend": options.unblend}
    programs = {name: folder.absolute() for name, folder in named.items() if folder is not None}
    with results.workplace(options.work) as work:
        record = bench(
            work,
            options.network,
            programs,
            seconds=options.seconds,
            runs=options.runs,
            long=options.long,
            note=options.note,
        )
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
