"""Whether a trained LaSAFT hears what it is asked for: by its label or by a piece of audio.

SI-SDR of vocals and of drums in windows of 4 s where they are heard, the mean over all windows of the songs:

    mix      the mixture itself as the estimate: a separation must be better
    own      the output for this stem's label or query
    others   the outputs for the labels or queries of other stems: the mean of their values

A query is the loudest 6 s of a stem, either of the same song (windows that overlap it are left out) or of
another song. Values below -30 dB count as -30 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

import sepcli
from sepcli.data.layouts import find_tracks
from sepcli.metrics.sdr import Sums
from tests.bench import results
from tests.bench.results import Figure, Record

ASKED = ("vocals", "drums")
WINDOW, QUERY = 4.0, 6.0  # seconds
HEARD, FLOOR = 10 ** (-50 / 20), -30.0  # RMS of a stem in a window that counts; dB


def songs(data: Path) -> dict[str, tuple[dict[str, np.ndarray], int]]:
    """{song: ({stem: [C, T]}, Hz)}."""
    found = {}
    for track in find_tracks(data):
        stems = {}
        for name, path in track.stems.items():
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            stems[name] = audio.T
        found[track.name] = (stems, rate)
    return found


def loudest(stem: np.ndarray, rate: int) -> int:
    """The first sample of a stem's loudest QUERY seconds."""
    size = round(QUERY * rate)
    energy = np.concatenate([[0.0], np.cumsum(np.square(stem, dtype=np.float64).sum(0))])
    return int(np.argmax(energy[size:] - energy[:-size]))


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    sums = Sums(1, len(reference), reference.shape[1])
    sums.add(reference[None], estimate[None])
    return float(np.nan_to_num(np.maximum(sums.si_sdr()[0], FLOOR), nan=FLOOR))


def rows(
    stems: Mapping[str, np.ndarray],
    rate: int,
    estimates: Mapping[str, np.ndarray],
    name: str,
    avoid: Mapping[str, int],
) -> Iterator[tuple[float, float, float]]:
    """(mix, own, others) for each window of the stem `name`. avoid: {stem: first sample of its query}."""
    mix, size = sum(stems.values()), round(WINDOW * rate)
    assert isinstance(mix, np.ndarray)
    for start in range(0, mix.shape[1] - size + 1, size):
        window = slice(start, start + size)
        reference = stems[name][:, window]
        taken = any(start < at + QUERY * rate and at < start + size for at in avoid.values())
        if taken or np.sqrt(np.mean(reference**2)) < HEARD:
            continue
        others = [si_sdr(reference, each[:, window]) for stem, each in estimates.items() if stem != name]
        yield (
            si_sdr(reference, mix[:, window]),
            si_sdr(reference, estimates[name][:, window]),
            float(np.mean(others)),
        )


def measured(
    title: str, model: str, material: Mapping[str, tuple[dict[str, np.ndarray], int]], queries_from: str | None
) -> list[Figure]:
    """queries_from: the "same" or the "other" song; None: labels instead of queries."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ASKED}
    for song, (stems, rate) in material.items():
        mix, avoid, queries = sum(stems.values()), {}, {}
        if queries_from is not None:
            giver = next(name for name in material if (name == song) == (queries_from == "same"))
            pool, pool_rate = material[giver]
            starts = {name: loudest(stem, pool_rate) for name, stem in pool.items()}
            size = round(QUERY * pool_rate)
            queries = {name: (pool[name][:, at : at + size], pool_rate) for name, at in starts.items()}
            avoid = starts if giver == song else {}
        estimates = sepcli.separate(model, mix, rate, queries=queries or None, device="cpu")
        for name in ASKED:
            if name in stems and name in estimates:
                found[name] += rows(stems, rate, estimates, name, avoid)
    figures = []
    for name, values in found.items():
        mix_db, own, others = np.mean(values, axis=0)
        figures += [
            Figure(f"{title}, {name}: SI-SDR of the mix, {len(values)} windows", mix_db, "dB"),
            Figure(f"{title}, {name}: above the mix", own - mix_db, "dB", ">= 0"),
            Figure(f"{title}, {name}: above what others' give", own - others, "dB", ">= 3"),
        ]
    return figures


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--label", required=True, help="run of --preset lasaft-small")
    parser.add_argument("--query", required=True, help="run of --preset lasaft-query-small")
    parser.add_argument("--note", default="", help="how they were trained, for the record")
    parser.add_argument("--data", type=Path, required=True, help="validation songs in stems")
    options = parser.parse_args()
    material = songs(options.data)
    figures = measured("label", options.label, material, None)
    figures += measured("stored latent", options.query, material, None)
    figures += measured("query of the same song", options.query, material, "same")
    figures += measured("query of another song", options.query, material, "other")
    settings = {
        "songs": ", ".join(material),
        "windows": f"{WINDOW:g} s",
        "queries": f"{QUERY:g} s",
        **({"models": options.note} if options.note else {}),
    }
    results.finish(Record("conditioning", settings, figures), options.name)


if __name__ == "__main__":
    main()
