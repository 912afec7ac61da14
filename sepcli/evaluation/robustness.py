"""How much noise the latents of a codec bear: how well a sound comes back, by strength and place of the noise.

    x -> encoder -> z -> quantiser -> codes -> their vectors -> decoder -> y            SDR of y beside x

    identity      y = x + s eps                  no codec; s is the noise's deviation, full scale being 1
    unquantised   z + s std(z) eps               is decoded
    before        z + s std(z) eps               is quantised and decoded
    after         codes + s std(codes) eps       are cut off to whole numbers, looked up and decoded

This is the study of LDM-dmx (section III-B, table I), with std taken over a window. The paper's figures tell
two things that its text does not: the noise of `identity` is not matched to the level of the sound, and codes
are cut off, not rounded (hence a loss of 10 dB at s = 1e-6). All strengths get the same eps, so a column of the
table shows what the strength does, and nothing else.

Each pair of place and strength is a stem of one Separator, which the engine runs as any other: memory does not
depend on a track's length. Everything is at the codec's rate. Knows Coders and tracks, none by name.

Axes: B batch, S stems, C channels, T samples, D values and N latents, Q codebooks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepcli.data.layouts import StemTrack, find_tracks
from sepcli.engine.noise import Noise
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Coder, Separator
from sepcli.engine.settings import Settings
from sepcli.engine.streams import InputStream
from sepcli.errors import InputError, Notice, UsageError, from_os, missing, parameter
from sepcli.evaluation.scoring import Block, InStep, Material
from sepcli.metrics import plots
from sepcli.metrics.sdr import Sums, frame_samples
from sepcli.models.family import entry_can
from sepcli.sound.resample import resampled
from sepcli.weights.entries import Entry

PLACES = {
    "identity": "no codec",
    "unquantised": "no quantiser",
    "before": "before the quantiser",
    "after": "after the quantiser",
}
STRENGTHS = (0.0, 1e-6, 1e-3, 0.01, 0.1, 1.0)  # the paper's
NUMBERS_NAME, PICTURE_NAME = "robustness.json", "robustness.png"

TrackProgress = Callable[[str, float, float | None], None]  # (track, seconds done, seconds in all)


class Contaminated(Separator):
    """A codec as a separator: each stem is the sound that comes back under another noise (see the file's head).

    places, strengths: of the noise; the stems are all pairs of them. bandwidth: of the quantiser, in kbit/s;
    None: all of it.
    """

    def __init__(
        self,
        codec: Coder,
        places: Sequence[str],
        strengths: Sequence[float],
        bandwidth: float | None = None,
    ):
        super().__init__()
        self.codec = codec
        self.cases = [(place, strength) for place in places for strength in strengths]
        self.sources = tuple(f"{place} {strength:g}" for place, strength in self.cases)
        self.samplerate, self.channels, self.segment = codec.samplerate, codec.channels, codec.segment
        self.normalize, self.bandwidth = codec.normalize, bandwidth

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """Prepare the codec (see Separator)."""
        self.codec.prepare(samples, device, dtype)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        assert noise is not None
        codec = self.codec
        z, scale = codec.encode(mix)
        drawn = noise.every(codec.hop)
        eps = {
            "identity": noise.normal(0, "identity", mix.shape[1], mix.shape[2]),
            "latent": drawn.normal(0, "latent", z.shape[1], z.shape[2]),
        }
        eps = {name: each.to(mix.device) for name, each in eps.items()}
        codes: Tensor | None = None
        if any(place == "after" for place, _ in self.cases):
            codes = codec.quantize(z, self.bandwidth)
            eps["after"] = drawn.normal(0, "code", len(codes), z.shape[2]).to(mix.device).transpose(0, 1)
        made = []
        for place, strength in self.cases:
            if place == "identity":
                made.append(mix + strength * eps["identity"])
                continue
            if place == "after":
                assert codes is not None
                heard = codec.dequantize(_shaken(codes, strength, eps["after"], codec.codebook_size))
            else:
                heard = z + strength * _deviation(z) * eps["latent"]
                if place == "before":
                    heard = codec.dequantize(codec.quantize(heard, self.bandwidth))
            made.append(codec.decode(heard, scale, mix.shape[-1]))
        return torch.stack(made, 1)


def _shaken(codes: Tensor, strength: float, eps: Tensor, size: int) -> Tensor:
    """Codes [Q, B, N] and normals of that shape -> codes with noise on them, cut off to existing codes."""
    spread = codes.transpose(0, 1).float()  # [B, Q, N]
    noise = strength * _deviation(spread).transpose(0, 1) * eps
    return (codes + noise).long().clamp(0, size - 1)


def _deviation(z: Tensor) -> Tensor:
    """[B, D, N] -> [B, 1, 1]: the standard deviation over a whole item; 0 for a single value."""
    return z.flatten(1).std(1, correction=0)[:, None, None]


# --- a study -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """The result of a study."""

    model: str
    stem: str
    strengths: tuple[float, ...]
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]  # {track: {place: SDRs in dB, one for each strength}}
    settings: Mapping[str, Any] = field(default_factory=dict)

    def means(self) -> dict[str, tuple[float, ...]]:
        """{place: means over the tracks in dB, one for each strength}."""
        places = list(next(iter(self.scores.values())))
        return {
            place: tuple(
                float(np.mean([each[place][k] for each in self.scores.values()]))
                for k in range(len(self.strengths))
            )
            for place in places
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, with the means, for JSON."""
        return {**asdict(self), "mean": self.means()}


def codes(entry: Entry) -> bool:
    """Whether a model of the catalogue is a codec. Its weights are not needed to tell."""
    return entry_can(entry, Coder)


def no_codec(model: str, catalog: Mapping[str, Entry]) -> UsageError:
    """The error for a model that is no codec."""
    others = ", ".join(entry.name for entry in catalog.values() if codes(entry))
    return UsageError(
        f"The model '{model}' is no codec: it has no latents to put noise on.",
        code="no_codec",
        remedy=f"Choose one with {parameter('model')}: {others or 'none in this catalogue'}, or a run that "
        "trained one.",
    )


def find_sounds(data: Path, layout: str, stem: str) -> list[StemTrack]:
    """The tracks that have the stem, without their other stems. UsageError where none has it."""
    tracks = find_tracks(data, layout)
    found = [
        replace(track, stems={stem: track.stems[stem]}, mixture=None) for track in tracks if stem in track.stems
    ]
    if not found:
        there = sorted({name for track in tracks for name in track.stems})
        raise UsageError(
            f"No track has the stem {stem}; there are {', '.join(there)}.",
            code="unknown_stem",
            remedy=f"Choose one of them with {parameter('stem')}.",
        )
    return found


def check_strengths(strengths: Sequence[float]) -> None:
    """Raise UsageError unless the strengths are different numbers from 0 on."""
    if (
        not strengths
        or len(set(strengths)) < len(strengths)
        or not all(math.isfinite(each) and each >= 0 for each in strengths)
    ):
        raise UsageError(
            "The strengths of the noise must be different numbers from 0.",
            remedy=f"For example {parameter('strengths', '0,0.01,0.1,1')}.",
        )


def study(
    codec: Coder,
    tracks: Sequence[StemTrack],
    stem: str,
    *,
    model: str = "",
    strengths: Sequence[float] = STRENGTHS,
    bandwidth: float | None = None,
    cut: Settings | None = None,
    seconds: float | None = None,
    device: torch.device | None = None,
    notice: Notice = lambda text: None,
    progress: TrackProgress = lambda track, done, total: None,
) -> Study:
    """The SDR at every place and strength, for each track that is not silent.

    codec: a Coder. Without codebooks it has the places `identity` and `unquantised` only, and a notice says so.
    cut: how tracks are cut, and the seed of the noise. By default windows do not overlap: where two windows are
    mixed, their noise is averaged, and less of it is left. seconds: only the beginning of each track.
    UsageError for a bandwidth or strengths that can't be; InputError where all tracks are silent or one can't
    be read.
    """
    check_strengths(strengths)
    places = list(PLACES)
    if not codec.codebooks:
        if bandwidth is not None:
            raise UsageError(
                f"'{model}' has no codebooks, so it has no bandwidth.",
                remedy=f"Leave {parameter('bandwidth')} out, or choose a codec with a quantiser.",
            )
        places = ["identity", "unquantised"]
        notice(f"'{model}' has no codebooks: noise before and after a quantiser is left out.")
    contaminated = Contaminated(codec, places, strengths, bandwidth)
    cut = cut or Settings(overlap=0)
    engine = Engine(contaminated, cut, device or torch.device("cpu"), torch.float32)
    scores: dict[str, dict[str, tuple[float, ...]]] = {}
    for track in tracks:
        found = _track(engine, Material(track, seconds), stem, progress)
        if found is None:
            notice(f"{track.name} is left out: its {stem} is silent.")
            continue
        each = dict(zip(contaminated.cases, found, strict=True))
        scores[track.name] = {place: tuple(each[place, s] for s in strengths) for place in places}
    if not scores:
        raise InputError(
            f"The {stem} of every track is silent.",
            code="silent",
            remedy="Choose other tracks, or another stem.",
        )
    return Study(
        model,
        stem,
        tuple(strengths),
        scores,
        {
            "samplerate": codec.samplerate,
            "window": engine.stage.plans[0].size,
            "overlap": cut.overlap,
            "seed": cut.seed,
            "seconds": seconds,
            "codebooks": codec.codebooks,
            "bandwidth": bandwidth,
        },
    )


def _track(engine: Engine, material: Material, stem: str, progress: TrackProgress) -> list[float] | None:
    """The SDR in dB of every stem of the engine; None where the track is silent."""
    name, sums = material.track.name, None
    with closing(InputStream(material.mix, engine, material.samplerate, material.channels)) as stream:
        stream.measure()
        width = stream.channel_map.groups * engine.channels
        with closing(InStep(_heard(material, stream, engine), width)) as reference:
            for out in stream.separate(lambda done, total: progress(name, done, material.seconds)):
                made = out.flatten(1, 2).numpy()  # [S, G Cm, n]
                if sums is None:
                    sums = Sums(len(made), width, frame_samples(engine.samplerate))
                sums.add(np.broadcast_to(reference.take(made.shape[-1]), made.shape), made)
    return None if sums is None or not sums.present().all() else sums.usdr().tolist()


def _heard(material: Material, stream: InputStream, engine: Engine) -> Generator[Block]:
    """The sound as the codec gets it, in [G Cm, n] blocks: G groups of channels, Cm channels of the model."""
    for block in resampled(material.mix(), material.samplerate, engine.samplerate, material.channels):
        yield stream.channel_map.split(block).reshape(-1, block.shape[1])


def write(found: Study, folder: Path, notice: Notice = lambda text: None) -> list[Path]:
    """Write the numbers, and a picture if there is noise; their paths. OutputError.

    Without matplotlib there is no picture, and `notice` is told so.
    """
    numbers, picture = folder / NUMBERS_NAME, folder / PICTURE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers.write_text(json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        lines, levels = _lines(found)
        if not lines:
            return [numbers]
        if lacking := missing("matplotlib"):
            notice(f"The picture is left out: {lacking}")
            return [numbers]
        title = f"{found.model}: {found.stem} that come back, mean of {len(found.scores)} tracks"
        plots.line_plot(picture, title, "SDR in dB", "deviation of the noise", lines, levels)
    except OSError as error:
        raise from_os(error, folder) from error
    return [numbers, picture]


def _lines(found: Study) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """(a line for each place, the levels without noise that belong to no other place), for the picture."""
    lines: dict[str, dict[str, float]] = {}
    levels: dict[str, float] = {}
    quiet = {"unquantised": "no quantiser, no noise", "before": "quantiser, no noise"}
    for place, values in found.means().items():
        pairs = list(zip(found.strengths, values, strict=True))
        if noisy := {f"{s:g}": value for s, value in pairs if s > 0}:
            lines[PLACES[place]] = noisy
        if place in quiet and 0 in found.strengths:
            levels[quiet[place]] = values[found.strengths.index(0)]
    return lines, levels


def table(found: Study) -> Iterator[list[str]]:
    """The rows of a table as text: the head, then a row for each strength. Each place is a column."""
    means = found.means()
    yield ["NOISE", *(PLACES[place].upper() for place in means)]
    for k, strength in enumerate(found.strengths):
        yield [f"{strength:g}", *(f"{values[k]:.2f}" for values in means.values())]
