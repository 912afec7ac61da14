"""On a GPU, what sepcli may choose by itself: batch size, precision, compiling, the order of memory, copies.

Each network has random weights and is made anew for each way. *Separated* is a whole track through the engine,
from main memory to main memory; *a call* is the network alone on one segment, from the device to the device.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import soundfile
import torch
from torch import Tensor

from sepcli.engine import stage
from sepcli.engine.device import choose_device, dtype_of
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from tests.bench import families, peers, sound
from tests.bench.families import Network
from tests.bench.gpu_rows import Day, LeftOut, Part, Runs
from tests.bench.results import Figure

Rows = Mapping[str, Callable[[], Any]]
SHORT = 60.0  # seconds of audio
RUNS = 2  # after one that is not counted
CALLS = 10  # of a network alone
NO_DIFFERENCE = 200.0  # dB, for equal numbers

NETWORKS = {
    "htdemucs": Network(entry="htdemucs"),
    "bs-256x12": Network(family="roformer", arch="BSRoformer", config=peers.NETWORKS["bs-256x12"].config),
    "mdx23c": Network(family="mdx23c", arch="MDX23C"),
    "scnet-large": Network(family="scnet", arch="SCNet", config=peers.NETWORKS["scnet-large"].config),
}
TINY = {
    "htdemucs": Network(
        family="demucs",
        arch="HTDemucs",
        config={
            "sources": ("drums", "vocals"),
            "channels": 4,
            "t_layers": 1,
            "t_heads": 2,
            "dconv_mode": 0,
            "segment": 1,
        },
    ),
    "bs-256x12": Network(
        family="roformer",
        arch="BSRoformer",
        config={"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "chunk": 22_016},
    ),
    "mdx23c": Network(
        family="mdx23c",
        arch="MDX23C",
        config={
            "nfft": 1024,
            "hop": 256,
            "bins": 512,
            "width": 8,
            "growth": 8,
            "scales": 2,
            "blocks": 1,
            "chunk": 22_272,
        },
    ),
    "scnet-large": Network(
        family="scnet", arch="SCNet", config={"dims": (4, 4, 4, 4), "layers": 2, "chunk": 22_050}
    ),
}


@cache
def _made(label: str, dry: bool) -> Separator:
    """With random weights; every path has an audible part, where fresh ones have next to none."""
    [model] = families.made((TINY if dry else NETWORKS)[label])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(0.2)
    return model


@cache
def _music(seconds: float) -> Tensor:
    """[1, 2, T] at 44.1 kHz."""
    clip = torch.from_numpy(soundfile.read(sound.CLIP, dtype="float32")[0].T.copy())
    samples = round(seconds * 44100)
    return clip.repeat(1, -(-samples // clip.shape[-1]))[None, :, :samples]


class _Separating:
    """An engine with its own copy of a network; `seconds` is the best time of a track."""

    def __init__(self, label: str, day: Day, precision: str, batch: int | None = None):
        model = copy.deepcopy(_made(label, day.dry))
        device = choose_device(day.device).torch
        self.engine = Engine(model, Settings(batch_size=batch), device, dtype_of(precision))
        self.mix = _music(day.seconds(SHORT))

    @property
    def batch(self) -> int:
        return self.engine.stage.batches[0].size

    def stems(self) -> Tensor:
        """[S, 1, C, T]."""
        blocks = self.mix.split(65536, dim=-1)
        stats = self.engine.measure(blocks) if self.engine.normalize else None
        return torch.cat(list(self.engine.separate(iter(blocks), stats)), dim=-1)

    def seconds(self, runs: int = RUNS) -> float:
        self.stems()
        return best_of(runs, self.stems)


def best_of(runs: int, work: Callable[[], object]) -> float:
    """Seconds."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def forget() -> None:
    """Give the device's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def snr(result: Tensor, reference: Tensor) -> float:
    """Of the worst stem, in dB: [S, ...] x 2."""
    error = (result - reference).double().square().flatten(1).sum(1)
    ratios = 10 * torch.log10(reference.double().square().flatten(1).sum(1) / error)
    return min(ratios.min().item(), NO_DIFFERENCE)


def _settings(day: Day, **more: str) -> dict[str, Any]:
    return {
        "audio": f"{day.seconds(SHORT):g} s of stereo music at 44.1 kHz",
        "networks": "tiny" if day.dry else "random weights, published sizes",
        "runs": f"best of {RUNS} after one that is not counted",
        **more,
    }


# --- batch size ---

SIZES = (1, 2, 4, 8, 16, 32, 64)


def _batch_row(label: str, day: Day) -> dict[str, Any]:
    """Seconds of each size that there is memory for, and of the automatic one."""
    precision = "float32" if day.dry else "float16"
    separating = _Separating(label, day, precision)
    found: dict[str, Any] = {"auto": separating.seconds(), "chosen": separating.batch, "seconds": {}}
    for size in SIZES[:2] if day.dry else SIZES:
        del separating
        forget()
        separating = _Separating(label, day, precision, size)
        seconds = separating.seconds(1)
        if separating.batch < size:
            break
        found["seconds"][str(size)] = seconds
    return found


def _batch_figures(runs: Runs) -> list[Figure]:
    figures = []
    for label, run in runs.items():
        figures += [Figure(f"{label}, batch {size}", s, "s") for size, s in run["seconds"].items()]
        figures.append(Figure(f"{label}, automatic batch ({run['chosen']})", run["auto"], "s"))
        over = run["auto"] / min(run["seconds"].values())
        figures.append(Figure(f"{label}, automatic over the best", over, "", aim="<= 1.05"))
    return figures


BATCH = Part(
    "batch",
    60,
    lambda day: {label: lambda label=label: _batch_row(label, day) for label in ("htdemucs", "bs-256x12")},
    _batch_figures,
    lambda day: _settings(day, precision="float32" if day.dry else "float16"),
)


# --- precision ---


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Whether these may round their factors to ten bits; torch's own defaults are True and False."""
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = convolutions, products
    try:
        yield
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


# As a user gets it; matrix products in TF32 too; and what halves the memory.
PRECISIONS = {
    "float32": ("float32", True, False),
    "float16": ("float16", True, False),
    "bfloat16": ("bfloat16", True, False),
    "TF32": ("float32", True, True),
}


def _precision_row(label: str, day: Day) -> dict[str, Any]:
    """Seconds and SNR against float32 without TF32."""
    with tf32(False, False):
        reference = _Separating(label, day, "float32").stems()
    found = {}
    for name, (precision, *rounded) in PRECISIONS.items():
        forget()
        with tf32(*rounded):
            separating = _Separating(label, day, precision)
            found[name] = {
                "snr": snr(separating.stems(), reference),
                "seconds": best_of(RUNS, separating.stems),
            }
        del separating
    return found


def _precision_figures(runs: Runs) -> list[Figure]:
    figures = []
    for label, run in runs.items():
        for name in PRECISIONS:
            figures.append(Figure(f"{label}, {name}", run[name]["seconds"], "s"))
            target = ">= 40" if name == "float16" else ""
            figures.append(
                Figure(f"{label}, SNR of {name} against exact float32", run[name]["snr"], "dB", target)
            )
    return figures


PRECISION = Part(
    "precision",
    70,
    lambda day: {label: lambda label=label: _precision_row(label, day) for label in NETWORKS},
    _precision_figures,
    lambda day: _settings(
        day,
        float32="as torch has it: convolutions may round to TF32, matrix products do not",
        TF32="both may",
    ),
)


# --- compiled, or recorded as a graph ---


def _segment(label: str, day: Day, batch: int) -> tuple[Separator, list[Tensor]]:
    """A network ready for whole segments, and two different inputs of it on the device."""
    model = copy.deepcopy(_made(label, day.dry))
    samples, device = model.segment.samples, choose_device(day.device).torch
    assert samples is not None
    model.prepare(samples, device, dtype_of("float32" if day.dry else "float16"))
    music = _music(day.seconds(SHORT))[..., :samples]
    other = music.flip(-1)
    return model, [each.expand(batch, -1, -1).contiguous().to(device) for each in (music, other)]


def _compiled(model: Separator, example: Tensor, day: Day) -> Callable[[Tensor], Tensor]:
    # A dry run tries the way through torch.compile; to build C++ for it would take minutes.
    how = {"backend": "aot_eager"} if day.dry else {"mode": "reduce-overhead"}
    compiled = torch.compile(model, dynamic=False, **how)
    return lambda mix: compiled(mix).clone()  # its memory is the next call's too


def _recorded(model: Separator, example: Tensor, day: Day) -> Callable[[Tensor], Tensor]:
    """A CUDA graph: the same kernels with the same addresses, started at once."""
    fed, side = example.clone(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose their kernels and workspaces before
        for _ in range(3):
            model(fed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = model(fed)

    def replay(mix: Tensor) -> Tensor:
        fed.copy_(mix)
        graph.replay()
        return made.clone()

    return replay


GRAPH, COMPILED = "CUDA graph", "torch.compile"
WAYS = {GRAPH: _recorded, COMPILED: _compiled}


def _compile_row(label: str, way: str, batch: int, day: Day) -> dict[str, Any]:
    """Seconds of a call, plain and this way; and what the way changes, with inputs that change."""
    if way == GRAPH and day.dry:
        raise LeftOut("CUDA graphs need a CUDA device")
    model, inputs = _segment(label, day, batch)
    with torch.inference_mode():
        return _called(model, inputs, way, day)


def _called(model: Separator, inputs: list[Tensor], way: str, day: Day) -> dict[str, Any]:
    """What the row has, of a network that is ready for these two inputs."""

    def waited(call: Callable[[Tensor], Tensor]) -> float:
        def calls() -> None:
            for _ in range(CALLS):
                call(inputs[0])
            if not day.dry:
                torch.cuda.synchronize()

        return best_of(RUNS, calls) / CALLS

    expected = [model(mix).clone() for mix in inputs]
    plain = waited(model)
    start = time.perf_counter()
    call = WAYS[way](model, inputs[0], day)
    made = [call(mix) for mix in (*inputs, inputs[0])]
    first = time.perf_counter() - start
    pairs = [(made[0], expected[0]), (made[1], expected[1]), (made[2], made[0])]
    *errors, changed = [((out - wanted).abs().max() / wanted.abs().max()).item() for out, wanted in pairs]
    return {
        "plain": plain,
        "seconds": waited(call),
        "first": first,
        "difference": max(errors),
        "changed": changed,
    }


def _compile_rows(day: Day) -> Rows:
    asked = [("htdemucs", GRAPH, 1), ("bs-256x12", GRAPH, 1), ("htdemucs", GRAPH, 8), ("htdemucs", COMPILED, 1)]
    # It takes so long that it is the last; also in a dry run.
    asked += [] if day.dry else [("bs-256x12", COMPILED, 1)]
    return {
        f"{label}, {way}, batch {batch}": lambda each=(label, way, batch): _compile_row(*each, day)
        for label, way, batch in asked
    }


def _compile_figures(runs: Runs) -> list[Figure]:
    figures = []
    for row, run in runs.items():
        figures.append(
            Figure(f"{row}: speed over plain calls", run["plain"] / run["seconds"], "x", aim=">= 1.1")
        )
        figures.append(Figure(f"{row}: a call", 1000 * run["seconds"], "ms"))
        figures.append(Figure(f"{row}: until the first result", run["first"], "s"))
        for key, what in (
            ("difference", "difference from plain calls"),
            ("changed", "change by an input in between"),
        ):
            figures.append(Figure(f"{row}: {what}, of the peak", run[key], "", "<= 0.005"))
    return figures


COMPILE = Part(
    "compile",
    130,
    _compile_rows,
    _compile_figures,
    lambda day: _settings(
        day,
        precision="float32" if day.dry else "float16",
        calls=f"{CALLS} of one whole segment, from the device to the device",
        **{"torch.compile": "backend aot_eager" if day.dry else "mode reduce-overhead, fixed shapes"},
    ),
)


# --- the order of memory ---

ORDERS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


def _layout_row(label: str, day: Day) -> dict[str, Any]:
    """Seconds as the network is prepared, and with all its weights in one order or the other."""
    precision = "float32" if day.dry else "float16"
    separating = _Separating(label, day, precision)
    expected = separating.stems()
    found: dict[str, Any] = {"as it is": {"seconds": best_of(RUNS, separating.stems)}}
    for name, order in ORDERS.items():
        del separating
        forget()
        separating = _Separating(label, day, precision)
        for member in separating.engine.stage.ensemble.members:
            member.to(memory_format=order)  # pyright: ignore[reportCallIssue]
        found[name] = {"snr": snr(separating.stems(), expected), "seconds": best_of(RUNS, separating.stems)}
    return found


def _layout_figures(runs: Runs) -> list[Figure]:
    return [
        Figure(f"{label}, {name}", way["seconds"], "s")
        for label, run in runs.items()
        for name, way in run.items()
        if name != "commit"
    ]


LAYOUT = Part(
    "layout",
    40,
    lambda day: {
        label: lambda label=label: _layout_row(label, day) for label in ("mdx23c", "scnet-large", "htdemucs")
    },
    _layout_figures,
    lambda day: _settings(day, precision="float32" if day.dry else "float16"),
)


# --- copies ---

WINDOWS = 64  # of a copy: the largest automatic batch
SAMPLES = 343_980  # of a window: htdemucs


def _copy_row(to_device: bool, pinned: bool, day: Day) -> dict[str, Any]:
    """GB a second between main memory and the device."""
    if pinned and day.dry:
        raise LeftOut("pinned memory needs a CUDA device")
    host = torch.zeros(2 if day.dry else WINDOWS, 2, SAMPLES, pin_memory=pinned)
    there = torch.zeros(host.shape, device=day.device)
    source, target = (host, there) if to_device else (there, host)

    def copied() -> None:
        target.copy_(source, non_blocking=pinned)
        if not day.dry:
            torch.cuda.synchronize()

    copied()
    return {"rate": host.nbytes / best_of(5, copied) / 1e9}


@contextmanager
def _pageable() -> Iterator[None]:
    """Windows go to the device from where they are."""
    pinned, stage.sent = stage.sent, lambda windows, device: windows.to(device)
    try:
        yield
    finally:
        stage.sent = pinned


def _pinned_row(day: Day) -> dict[str, Any]:
    separating = _Separating("htdemucs", day, "float32" if day.dry else "float16")
    found: dict[str, Any] = {"pinned": separating.seconds()}
    expected = separating.stems()
    with _pageable():
        found["pageable"] = separating.seconds()
        found["snr"] = snr(separating.stems(), expected)
    return found


def _copy_rows(day: Day) -> Rows:
    rows: dict[str, Callable[[], Any]] = {"htdemucs": lambda: _pinned_row(day)}
    for where, to_device in (("to", True), ("from", False)):
        for memory, pinned in (("pinned", True), ("pageable", False)):
            row = f"{where} the device, {memory}"
            rows[row] = lambda way=(to_device, pinned): _copy_row(*way, day)
    return rows


def _copy_figures(runs: Runs) -> list[Figure]:
    figures = []
    for row, run in runs.items():
        if row == "htdemucs":
            figures.append(Figure("htdemucs, windows from pinned memory", run["pinned"], "s"))
            figures.append(Figure("htdemucs, windows from pageable memory", run["pageable"], "s"))
            figures.append(Figure("SNR of one against the other, worst stem", run["snr"], "dB", ">= 80"))
        else:
            figures.append(Figure(row, run["rate"], "GB/s"))
    return figures


COPIES = Part(
    "copies",
    30,
    _copy_rows,
    _copy_figures,
    lambda day: _settings(day, copies=f"of {2 if day.dry else WINDOWS} windows of {SAMPLES} samples in stereo"),
)
