"""What a network attends to in a song: weights of its latent sources over time, above the mix's spectrogram.

    audio -> model's rate and channels -> windows -> frames -> columns -> picture

    window   |---|=======================|---|                       = kept: a margin away from both ends
    window                           |---|=======================|---|

Knows readers of audio and Inspectable separators, none by name. Memory does not depend on the length of the
song, because many frames become few columns. (The pictures are Figs. 13 and 14 of "LaSAFT-Net v2".)

Axes: T samples, N frames, K rows of the spectrogram, L latent sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepcli.engine.chunking import StreamBuffer
from sepcli.engine.device import told_of_memory
from sepcli.engine.pipeline import Progress
from sepcli.engine.separator import Inspectable, Separator
from sepcli.engine.streams import DECODED_AHEAD
from sepcli.errors import UsageError, parameter, require
from sepcli.models.family import entry_can
from sepcli.nn.stft import centred_stft
from sepcli.sound.channels import ChannelMap
from sepcli.sound.decode import AudioReader
from sepcli.sound.probe import AudioInfo
from sepcli.sound.resample import resampled
from sepcli.system.background import prefetch
from sepcli.system.files import atomic_output
from sepcli.weights.entries import Entry

PICTURES = (".png", ".svg", ".pdf")
COLUMNS = 1200  # a picture has at most so many; each is about a pixel wide
ROWS = 240  # of the spectrogram
LOWEST = 30.0  # Hz, where the spectrogram begins
RANGE = 80.0  # dB below the loudest point; what is quieter is drawn as nothing
SILENT_PEAK = -100.0  # dB; where nothing is louder, the whole spectrogram is drawn as nothing
BRIGHTEST = 0.999  # of all weights this share is below the brightest colour: single frames may jump
DPI = 150


@dataclass(frozen=True)
class Attention:
    """The attention over a song. A column is the mean of `every` frames, the last one of the rest."""

    weights: Mapping[str, NDArray[np.float32]]  # {stem: [columns, L]}; the weights of a column add up to 1
    power: NDArray[np.float32]  # [columns, K] of the mixture; a sine of full scale has 1 in its row, at most
    rows: NDArray[np.float64]  # [K + 1] Hz: the edges of the rows, equally far apart in octaves
    frames: int  # N
    every: int  # how many frames become a column
    frame_seconds: float  # from one frame to the next
    start: float  # seconds into the song
    seconds: float  # how much of the song it is
    level: int  # see separator.Inspectable
    warnings: tuple[str, ...] = ()  # about the file

    @property
    def edges(self) -> NDArray[np.float64]:
        """[columns + 1] seconds into the song: halfway between the frames, and both ends of the song."""
        between = self.frame_seconds * (np.arange(self.every, self.frames, self.every) - 0.5)
        return self.start + np.concatenate([[0], between, [self.seconds]])

    def means(self) -> dict[str, tuple[list[float], list[float]]]:
        """{stem: (each latent source's mean over time, its standard deviation between columns)}."""
        counts = np.diff(np.append(np.arange(0, self.frames, self.every), self.frames))  # frames in each column
        found = {}
        for stem, weights in self.weights.items():
            mean = np.average(weights, axis=0, weights=counts)
            deviation = np.sqrt(np.average((weights - mean) ** 2, axis=0, weights=counts))
            found[stem] = mean.tolist(), deviation.tolist()
        return found


# --- models ---


def inspectable(entry: Entry) -> bool:
    """Whether a model of the catalogue can show its attention. Its weights are not needed to tell."""
    return entry_can(entry, Inspectable)


def shows_none(model: str, catalog: Mapping[str, Entry]) -> UsageError:
    """The error for a model without attention to latent sources."""
    others = ", ".join(entry.name for entry in catalog.values() if inspectable(entry))
    return UsageError(
        f"The model '{model}' has no attention to latent sources that could be drawn.",
        remedy=f"Choose one that has it with {parameter('model')}: {others or 'none in this catalogue'}, or a "
        "checkpoint of such a network.",
        code="no_attention",
    )


# --- listening ---


class Columns:
    """Averages a series of rows, of any length, to `most` columns at most, each of equally many rows.

    When there would be more columns, two neighbours become one.
    """

    def __init__(self, most: int):
        self.every, self.count = 1, 0  # how many rows become a column; how many rows there were
        self._most = most
        self._done: NDArray[np.float32] | None = None
        self._open: NDArray[np.float32] | None = None  # rows that do not fill a column yet

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add rows [n, D]."""
        self.count += len(rows)
        if self._open is not None:
            rows = np.concatenate([self._open, rows])
        done, left = self._filled(rows, self.every)
        if self._done is not None:
            done = np.concatenate([self._done, done])
        while len(done) > self._most:
            whole, odd = self._filled(done, 2)
            # A column without a neighbour becomes rows again: as many as it was made of, all equal to it.
            left = np.concatenate([np.repeat(odd, self.every, axis=0), left])
            done = whole
            self.every *= 2
        self._done, self._open = done, left

    def take(self) -> NDArray[np.float32]:
        """The columns [columns, D]; the last one is the mean of the rows that are left over."""
        assert self._done is not None and self._open is not None, "nothing was added"
        if not len(self._open):
            return self._done
        return np.concatenate([self._done, self._open.mean(axis=0, keepdims=True)])

    @staticmethod
    def _filled(rows: NDArray[np.float32], each: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means over `each` rows, and the rows that are left over."""
        whole = len(rows) // each * each
        means = rows[:whole].reshape(-1, each, rows.shape[1]).mean(axis=1)
        return means, rows[whole:]


def listen(
    model: Separator,
    path: Path,
    info: AudioInfo | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    level: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    columns: int = COLUMNS,
    progress: Progress | None = None,
) -> Attention:
    """The attention of an Inspectable model over a file, or over a part of it.

    model: narrowed to the wanted stems; it is prepared for `device`. start, duration: seconds. level: 1 is the
    last before the output. columns: at most so many. progress: called with audio seconds done, and in all.
    UsageError for a level that the model lacks; InputError as for AudioReader; DeviceError where memory runs
    out.
    """
    assert isinstance(model, Inspectable), "see `inspectable` and `shows_none`"
    if not 1 <= level <= model.attention_levels:
        raise UsageError(
            f"There is no level {level}: this model attends at levels 1 (the last before its "
            f"output) to {model.attention_levels}.",
            remedy=f"Choose one of these with {parameter('level')}.",
        )
    device = torch.device("cpu") if device is None else device
    reader = AudioReader(path, info, start=start, duration=duration)
    expected = None if reader.expected is None else reader.expected / reader.samplerate
    kept = Columns(columns)
    spectrogram = _Spectrogram(model.samplerate, model.attention_hop, device)
    latents, done = 0, 0
    with told_of_memory(f"Use {parameter('device', 'cpu')}, or close other programs."):
        model.prepare(_call(model), device, dtype)
        with torch.inference_mode(), closing(prefetch(_blocks(reader, model), DECODED_AHEAD)) as blocks:
            for window, frames in _windows(blocks, model):
                window = window.to(device)
                maps = model.attention_maps(window[None], level)[0, :, frames]  # [S, n, L]
                latents = maps.shape[2]
                rows = [*maps, spectrogram(window)[frames]]
                kept.add(torch.cat(rows, dim=1).cpu().numpy())
                done += maps.shape[1]
                if progress is not None:
                    progress(done * model.attention_hop / model.samplerate, expected)
    found = kept.take()
    cuts = [latents * number for number in range(1, len(model.sources) + 1)]
    *weights, power = np.split(found, cuts, axis=1)
    return Attention(
        weights=dict(zip(model.sources, weights, strict=True)),
        power=power,
        rows=spectrogram.edges,
        frames=kept.count,
        every=kept.every,
        frame_seconds=model.attention_hop / model.samplerate,
        start=start,
        seconds=reader.frames_read / reader.samplerate,
        level=level,
        warnings=tuple(reader.warnings),
    )


def _call(model: Separator) -> int:
    """How many samples the model takes in a call: its segment."""
    assert model.segment.samples is not None, "an Inspectable model has calls of one length"
    return model.segment.samples


def _blocks(reader: AudioReader, model: Separator) -> Iterator[Tensor]:
    """Blocks [C, T] at the model's rate and channels. A surround file becomes the mean of its pairs."""
    channels = ChannelMap(reader.channels, model.channels)
    for block in resampled(reader, reader.samplerate, model.samplerate, reader.channels):
        yield torch.from_numpy(channels.split(block).mean(axis=0))


def _windows(blocks: Iterator[Tensor], model: Any) -> Iterator[tuple[Tensor, slice]]:
    """The model's calls: (samples [C, T], which frames of the call are kept).

    All kept frames together are centred on the samples 0, hop, 2 hop ... A short last stretch is centred in
    real audio, as in a separation.
    """
    samples, hop = _call(model), model.attention_hop
    frames, lead = samples // hop + 1, -(-model.segment.margin // hop)
    most, first = frames - 2 * lead, 0
    buffer = StreamBuffer(blocks)
    while True:
        buffer.reach((first - lead) * hop + samples)
        left = most if buffer.end is None else min(most, -(-buffer.end // hop) - first)
        if left <= 0:
            return
        before = (frames - left) // 2
        yield buffer.read((first - before) * hop, samples), slice(before, before + left)
        first += left
        buffer.forget((first - frames) * hop)


class _Spectrogram:
    """Windows [C, T] -> power [N, K], in rows whose edges are equally far apart in octaves.

    Transforms are four hops long, so that low tones are told apart. A row is the mean of the bins that it
    covers, or of parts of them.
    """

    def __init__(self, samplerate: int, hop: int, device: torch.device):
        nfft, nyquist = 4 * hop, samplerate / 2
        self.hop = hop
        self.edges = np.geomspace(min(LOWEST, nyquist / 2), nyquist, ROWS + 1)
        self.window = torch.hann_window(nfft, device=device)
        middles = np.arange(nfft // 2 + 1) * samplerate / nfft
        half = samplerate / nfft / 2
        low, high = self.edges[:-1], self.edges[1:]
        covered = np.minimum(high, middles[:, None] + half) - np.maximum(low, middles[:, None] - half)
        share = covered.clip(min=0) / (high - low)
        self.share = torch.from_numpy(share.astype(np.float32)).to(device)  # [F, K]

    def __call__(self, wave: Tensor) -> Tensor:
        spec = centred_stft(wave, self.window, self.hop) * (2 / self.window.sum())  # [C, F, N]
        return spec.abs().square().mean(dim=0).T @ self.share


# --- the picture ---


def check_picture(path: Path, inputs: Mapping[str, Path], *, force: bool) -> None:
    """Raise UsageError where no picture may be written: another ending, an input, a file that is there.

    inputs: {what it is: where}, never overwritten. DeviceError where matplotlib is missing.
    """
    require("matplotlib")
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"'{path}' has no ending of a picture.",
            remedy=f"Name the output with one of {', '.join(PICTURES)}.",
        )
    for what, source in inputs.items():
        if path.exists() and source.exists() and os.path.samefile(path, source):
            raise UsageError(
                f"The output '{path}' is {what}.",
                code="input_is_output",
                remedy=f"Choose another with {parameter('out')}; an input is never overwritten.",
            )
    if os.path.lexists(path) and not force:
        raise UsageError(
            f"The output '{path}' exists.",
            code="exists",
            remedy=f"Choose another with {parameter('out')}, or replace it with {parameter('force')}.",
        )


def draw(found: Attention, path: Path, title: str) -> None:
    """Draw a panel for each stem, with the spectrogram below, over the time of the song. OutputError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    stems = list(found.weights)
    figure = Figure(figsize=(11, 1.25 * len(stems) + 3.2), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    panels = figure.subplots(
        len(stems) + 1, 1, sharex=True, squeeze=False, height_ratios=[1.0] * len(stems) + [1.8]
    )[:, 0]
    every_weight = np.concatenate([weights.ravel() for weights in found.weights.values()])
    most = float(np.quantile(every_weight, BRIGHTEST))
    for axes, stem in zip(panels, stems, strict=False):
        weights = found.weights[stem]
        latents = weights.shape[1]
        image = axes.pcolormesh(
            found.edges,
            np.arange(latents + 1) + 0.5,
            weights.T,
            vmin=0,
            vmax=most,
            cmap="viridis",
            rasterized=True,
        )
        axes.set_title(stem, loc="left", fontsize=10, parse_math=False)
        axes.set_ylabel("latent source", fontsize=9)
        axes.set_yticks(range(1, latents + 1, -(-latents // 6)))
    figure.colorbar(
        image,
        ax=list(panels[:-1]),
        label="attention",
        pad=0.01,
        fraction=0.03,
        extend="max" if every_weight.max() > most else "neither",
    )
    axes = panels[-1]
    decibels = 10 * np.log10(np.maximum(found.power.T, 1e-20))
    decibels -= max(float(decibels.max()), SILENT_PEAK)
    image = axes.pcolormesh(
        found.edges, found.rows / 1000, decibels, vmin=-RANGE, vmax=0, cmap="magma", rasterized=True
    )
    axes.set_yscale("log")
    ticks = [
        kilohertz
        for kilohertz in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
        if found.rows[0] <= 1000 * kilohertz <= found.rows[-1]
    ]
    axes.set_yticks(ticks, [f"{kilohertz:g}" for kilohertz in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("mixture", loc="left", fontsize=10)
    axes.set_ylabel("kHz", fontsize=9)
    axes.set_xlabel("time (s)", fontsize=9)
    axes.set_xlim(found.start, found.start + found.seconds)
    figure.colorbar(image, ax=[axes], label="dB", pad=0.01, fraction=0.03)
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
    with atomic_output(path, shared=True) as beside:
        figure.savefig(beside, dpi=DPI)
