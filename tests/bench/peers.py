"""Today's networks by sepcli and by other programs: time and memory of whole processes, on random weights.

    python -m tests.bench.peers bs-256x12 --msst ENV/bin --audio-separator ENV/bin --unblend ENV/bin

Each other program has an environment of its own, whose `bin` is named: msst 0.1.0, audio-separator 0.47.1,
unblend 1.0.0. A program that lacks a kind of network is left out, and that is said. Each is run twice: with
chunks and overlap as large as in the others, in float32; and as it is by default, where sepcli computes in
bfloat16 if the processor multiplies it and the catalogue's models of this kind allow it. audio-separator reads
its lists of models from the network; here it finds some that hold this model alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sepcli.engine.device import Device, choose_precision
from sepcli.models.config import plain_config
from sepcli.models.family import get_family
from sepcli.models.mdxnet.network import MDXNet
from tests import onnxfiles
from tests.bench import results, sound
from tests.bench.programs import SEPCLI, interleaved, run, shown
from tests.bench.results import Figure, Record

THREADS = 2
OVERLAP = 0.5  # num_overlap 2
HASHED = 10_240_000  # bytes at the end of a file by which other programs know an MDX-Net
PROGRAMS = ("msst", "audio-separator", "unblend")


@dataclass(frozen=True)
class Network:
    """A network, the name of its kind at the training toolkit, and which program has it."""

    family: str
    arch: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    programs: tuple[str, ...] = PROGRAMS
    counterpart: str = "instrumental"

    @property
    def name(self) -> str:
        """Of its files: audio-separator looks for the kind in the name of a RoFormer."""
        return f"bench_{self.family}"

    @property
    def half(self) -> bool:
        """Whether the catalogue's models of this kind may run in bfloat16."""
        return self.family == "roformer"

    @property
    def suffix(self) -> str:
        """Of the checkpoint."""
        return ".onnx" if self.family == "mdxnet" else ".ckpt"


VOCALS = {"sources": ("vocals",)}
NETWORKS = {
    "bs-256x12": Network("roformer", "BSRoformer", "bs_roformer", {**VOCALS, "chunk": 352768}),
    "bs-512x12": Network("roformer", "BSRoformer", "bs_roformer", {**VOCALS, "dim": 512, "hop": 441}),
    "mel-384x6": Network("roformer", "MelBandRoformer", "mel_band_roformer", VOCALS),
    "narrow": Network(
        "roformer",
        "BSRoformer",
        "bs_roformer",
        {**VOCALS, "dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "chunk": 352768},
    ),
    "mdx-hq": Network(
        "mdxnet",
        "MDXNet",
        "",
        {**VOCALS, "nfft": 5120, "bins": 2560, "growth": 48, "folded": True, "deaf": 3},
        ("audio-separator",),
    ),
    "mdx23c": Network("mdx23c", "MDX23C", "mdx23c", {}, ("msst", "audio-separator"), ""),
    "scnet-large": Network(
        "scnet",
        "SCNet",
        "scnet",
        {"dims": (4, 64, 128, 256), "shares": (0.225, 0.372, 0.403)},
        ("msst", "unblend"),
        "",
    ),
}


def prepare(folder: Path, network: Network) -> None:
    """Weights, settings and lists of models for all programs."""
    import tomli_w

    family = get_family(network.family)
    arch = family.archs[network.arch]
    config = arch.config(**network.config)
    torch.manual_seed(0)
    model = arch.build(config).eval()
    checkpoint = folder / f"{network.name}{network.suffix}"
    if isinstance(model, MDXNet):
        onnxfiles.write(checkpoint, model)
        known = {"compensate": 1.0, "mdx_dim_f_set": config.bins, "mdx_n_fft_scale_set": config.nfft}
        known |= {"mdx_dim_t_set": config.frames.bit_length() - 1, "primary_stem": "Vocals"}
        (folder / "mdx_model_data.json").write_text(
            json.dumps({hashlib.md5(checkpoint.read_bytes()[-HASHED:]).hexdigest(): known})
        )
        (folder / "vr_model_data.json").write_text("{}")
    else:
        assert family.export is not None
        exported = family.export(model)
        torch.save(dict(exported.tensors), checkpoint)
        for suffix, text in exported.texts.items():
            checkpoint.with_suffix(suffix).write_text(text)
    plain = plain_config(arch.config())
    differences = {
        key: value
        for key, value in plain_config(config).items()
        if key != "sources" and value != plain.get(key)
    }
    entry = {
        "family": network.family,
        "arch": network.arch,
        "sources": list(config.sources),
        "samplerate": config.samplerate,
        "channels": config.channels,
        "config": differences,
        "files": {"model": {"url": "https://example.invalid/model"}},
        "half": network.half,
    }
    entry |= {"counterpart": network.counterpart} if network.counterpart else {}
    (folder / "catalog.toml").write_text(tomli_w.dumps({"bench": entry}))
    kinds = ("vr", "mdx", "mdx_vip", "demucs", "mdx23c", "mdx23c_vip", "roformer")
    checks: dict[str, Any] = {
        f"{each.removesuffix('_vip')}_download{'_vip' if each.endswith('_vip') else ''}_list": {}
        for each in kinds
    }
    if isinstance(model, MDXNet):
        checks["mdx_download_list"] = {"MDX-Net Model: bench": checkpoint.name}
    else:
        files = {"Model: bench": {checkpoint.name: f"{network.name}.yaml"}}
        checks["mdx23c_download_list" if network.family == "mdx23c" else "roformer_download_list"] = files
    (folder / "download_checks.json").write_text(json.dumps(checks))


def commands(folder: Path, track: Path, network: Network, programs: Mapping[str, Path]) -> dict[str, list[str]]:
    """{what is measured: its command}. track: alone in its folder."""
    out, name = folder / "out", network.name
    checkpoint = folder / f"{name}{network.suffix}"
    ours = [
        *SEPCLI, "separate", str(track), "-m", f"bench={checkpoint}",
        "--catalog", str(folder / "catalog.toml"), "-o", str(out / "sepcli"),
        "--device", "cpu", "--json", "--force", "--no-resume",
    ]  # fmt: skip
    exact = [*ours, "--precision", "float32"]
    # MDX-Net overlaps by a quarter everywhere; for the toolkit's kinds all overlap by a half.
    mdx = network.family == "mdxnet"
    found = {"sepcli, equal": exact if mdx else [*exact, "--overlap", str(OVERLAP)], "sepcli": ours}
    if "msst" in programs:
        found["msst"] = [
            str(programs["msst"] / "msst-inference"), "--model_type", network.kind,
            "--config_path", str(folder / f"{name}.yaml"), "--start_check_point", str(checkpoint),
            "--input_folder", str(track.parent), "--store_dir", str(out / "msst"),
            "--force_cpu", "--disable_detailed_pbar",
            *(["--extract_instrumental"] if network.counterpart else []),
        ]  # fmt: skip
    if "audio-separator" in programs:
        theirs = [
            str(programs["audio-separator"] / "audio-separator"), str(track), "-m", checkpoint.name,
            "--model_file_dir", str(folder), "--output_dir", str(out / "as"), "--output_format", "WAV",
        ]  # fmt: skip
        found["audio-separator, equal"] = theirs if mdx else [*theirs, "--mdxc_overlap", "2"]
        found["audio-separator"] = theirs
    if "unblend" in programs:
        theirs = [
            str(programs["unblend"] / "unblend"), "separate", str(track), "-m", "bench", "--device", "cpu",
            "-o", str(out / "unblend" / "{stem}.{ext}"),
        ]  # fmt: skip
        found["unblend, equal"] = [*theirs, "--split-overlap", str(OVERLAP), "--shifts", "0"]
        found["unblend"] = theirs
    if mdx:  # one way of working serves both
        return {name: found[name] for name in found if not name.endswith(", equal")}
    return found


def versions(programs: Mapping[str, Path]) -> dict[str, str]:
    """What runs in the environment of each program."""
    code = "from importlib.metadata import version; print(*map(version, ['{}', 'torch']), sep=', torch ')"
    return {
        f"{name}, versions": subprocess.run(
            [str(folder / "python"), "-c", code.format(name)],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for name, folder in programs.items()
    }  # fmt: skip


def bench(
    work: Path, label: str, programs: Mapping[str, Path], *, seconds: float, runs: int, long: bool, note: str
) -> Record:
    """long: sepcli's peak on 3 and 30 minutes too."""
    network = NETWORKS[label]
    prepare(work, network)
    (work / "in").mkdir(exist_ok=True)
    track = sound.music(work / "in" / "track.wav", seconds)
    programs = {name: folder for name, folder in programs.items() if name in network.programs}
    if "unblend" in programs:
        os.environ["HOME"] = str(work)  # where it keeps its list of models
        run(
            [
                str(programs["unblend"] / "unblend"), "models", "import",
                str(work / f"{network.name}{network.suffix}"),
                "--name", "bench", "--config", str(work / f"{network.name}.yaml"),
            ],
            THREADS,
        )  # fmt: skip
    measured = commands(work, track, network, programs)
    costs = interleaved(measured, runs, THREADS)
    best = {name: min(each, key=lambda cost: cost.cpu) for name, each in costs.items()}
    figures = []
    for name, cost in best.items():
        figures.append(Figure(f"CPU time, {name}", cost.cpu, "s"))
        figures.append(Figure(f"wall time, {name}", cost.wall, "s"))
        figures.append(Figure(f"peak, {name}", min(each.peak for each in costs[name]) / 1e6, "MB"))
    others = [name for name in best if not name.startswith("sepcli")]
    # Programs that are run in one way only are as equal as they are by default.
    equal = [name for name in others if name.endswith(", equal") or f"{name}, equal" not in best]
    if equal:
        ours = best.get("sepcli, equal", best["sepcli"])
        ratio = ours.cpu / min(best[name].cpu for name in equal)
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
    settings: dict[str, Any] = {"network": label, "audio": f"{seconds:g} s of stereo music at 44.1 kHz"}
    settings |= {"threads": THREADS, "runs": runs, **versions(programs)}
    for name, command in measured.items():
        text = shown(command, work).replace(str(work), ".")
        for program, folder in programs.items():
            text = text.replace(f"{folder}{os.sep}", "") if program in name else text
        settings[name] = text
    settings["precision"] = (
        f"float32; sepcli by default {choose_precision('auto', Device('cpu', ''), network.half).name}"
    )
    missing = {
        name: f"left out; --{name} does it" if name in network.programs else "it has no such network"
        for name in PROGRAMS
        if name not in programs
    }
    settings |= {"note": note} if note else {}
    rows = {name: [cost.as_json() for cost in each] for name, each in costs.items()}
    return Record(f"peers-{label}", settings, figures, rows, missing)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("network", choices=NETWORKS)
    for name in PROGRAMS:
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
