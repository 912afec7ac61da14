"""A batch of many short files of all formats, some of them broken, that is killed again and again.

    python -m tests.bench.soak --count 1000 --kills 3

Two rounds over the same files: one process, and two at once with --shard. Each round is killed (SIGKILL) so
many times, and then ends by itself. Checked: every input has its right result, intact ones have all stems
at their length and level, broken ones have none of a wrong length, nothing unfinished is left, and the
resident memory of a process does not grow with the number of files. The model is a share of the mix
(tests/fake_model.py), so this is about everything around models.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from tests.bench import results
from tests.bench.programs import ROOT
from tests.bench.results import Figure, Record
from tests.sounds import music

RATE = 44100
PLAIN = (("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("aiff", "PCM_16"), ("caf", "PCM_24"))
PLAIN += (("w64", "PCM_16"), ("au", "PCM_16"), ("flac", "PCM_16"), ("flac", "PCM_24"))
LOSSY = (("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"))
PACKED = (("m4a", "aac"), ("m4a", "alac"), ("mka", "flac"), ("wv", "wavpack"), ("tta", "tta"), ("ac3", "ac3"))
PACKED += (("wma", "wmav2"), ("mkv", "aac"), ("webm", "libopus"))
KINDS = [*PLAIN, *LOSSY, *PACKED]


@dataclass(frozen=True)
class Expected:
    """What a file may become: its statuses, and its length in frames where it is known."""

    statuses: frozenset[str]
    frames: int | None
    exact: bool  # to the frame


def packed(path: Path, codec: str, x: np.ndarray) -> None:
    """A file that FFmpeg's libraries write."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000 if codec == "libopus" else RATE, layout="stereo")
        stream.codec_context.bit_rate = 128_000  # lossless codecs ignore it
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _damage(data: bytes, how: int, chance: random.Random) -> tuple[bytes, set[str]]:
    """One kind of damage, and what may become of such a file."""
    if how == 0:
        return b"", {"failed"}
    if how == 1:
        return b"no music at all\n" * 40, {"failed"}
    if how == 2:  # a header alone, or hardly more
        return data[: chance.randrange(1, 60)], {"failed", "damaged", "done"}
    if how == 3:
        return data[: len(data) * 2 // 3], {"damaged", "failed", "done"}
    flipped = bytearray(data)
    for _ in range(20):
        flipped[chance.randrange(len(data) // 3, len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped), {"damaged", "failed", "done"}


def make(folder: Path, count: int, broken: float, seed: int) -> dict[str, Expected]:
    """`count` files in some subfolders; what is expected of each, by its name in the results."""
    chance = random.Random(seed)
    expected = {}
    for number in range(count):
        suffix, kind = KINDS[number % len(KINDS)]
        path = folder / f"disc {number % 7}" / f"{number:04d} {kind}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = chance.randrange(RATE // 10, RATE)
        x = music(frames, seed=number)
        by_ffmpeg = (suffix, kind) in PACKED
        if by_ffmpeg:
            packed(path, kind, x)
        else:
            soundfile.write(path, x.T, RATE, kind, format=suffix.upper())
        statuses, exact = {"done"}, not by_ffmpeg or kind in ("alac", "wavpack", "tta")
        length: int | None = frames
        if chance.random() < broken:
            data, statuses = _damage(path.read_bytes(), number % 5, chance)
            path.write_bytes(data)
            length, exact = None, False
        expected[str(path)] = Expected(frozenset(statuses), length, exact)
    return expected


class Process:
    """One `sepcli separate`, its results, and its memory while it works."""

    def __init__(self, folder: Path, out: Path, log: Path, *options: str):
        self.log = log.open("ab")
        command = [sys.executable, "-m", "tests.fake_model", "separate", str(folder), "-m", "fake"]
        self.process = subprocess.Popen(
            [*command, "-o", str(out), "--json", "--progress", "none", *options],
            stdout=self.log,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self.memory: list[float] = []  # MB

    def running(self) -> bool:
        if self.process.poll() is not None:
            self.log.close()
            return False
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return True
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                self.memory.append(int(line.split()[1]) / 1024)
        return True


def round_(
    folder: Path, out: Path, options: Sequence[Sequence[str]], kills: int, chance: random.Random
) -> tuple[list[float], list[int]]:
    """Processes with these options, killed so often and then left alone: the longest curve of memory, codes."""
    log = out.with_suffix(".jsonl")
    curve: list[float] = []
    for attempt in range(kills + 1):
        until = time.monotonic() + chance.uniform(8, 20)
        processes = [Process(folder, out, log, *each) for each in options]
        while [process for process in processes if process.running()]:
            time.sleep(0.25)
            if attempt < kills and time.monotonic() > until:
                for process in processes:
                    process.process.send_signal(signal.SIGKILL)
        curve = max([curve, *(process.memory for process in processes)], key=len)
    return curve, [process.process.returncode for process in processes]


def check(expected: dict[str, Expected], out: Path) -> list[str]:
    """What is wrong with the results; [] is right."""
    wrong = []
    last: dict[str, dict] = {}
    for line in out.with_suffix(".jsonl").read_text().splitlines():
        try:
            result = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        before = last.get(result["input"])
        # Skipped: it was finished before the kill, whose result may have been lost with it.
        if result["status"] != "skipped" or before is None:
            last[result["input"]] = result
    for name, want in expected.items():
        result = last.get(name)
        if result is None:
            wrong.append(f"{name}: no result")
            continue
        status = result["status"]
        if status not in want.statuses and not (status == "skipped" and want.statuses & {"done", "damaged"}):
            wrong.append(
                f"{name}: {status}, not {sorted(want.statuses)}: {result['error'] or result['warnings']}"
            )
        if status == "failed":
            if result["error"]["code"] in ("internal", "error"):
                wrong.append(f"{name}: {result['error']}")
            continue
        lengths = {soundfile.info(path).frames for path in result["outputs"].values()}
        if len(result["outputs"]) != 4 or len(lengths) != 1:
            wrong.append(f"{name}: stems {result['outputs']}, lengths {lengths}")
        elif want.frames is not None:
            (length,) = lengths
            rate = soundfile.info(next(iter(result["outputs"].values()))).samplerate
            off = abs(length - want.frames * rate / RATE)
            if off > (0 if want.exact else 3000):
                wrong.append(f"{name}: {length} frames, not {want.frames}")
    left = [path for path in out.rglob(".sepcli*") if path.name not in (".sepcli.jsonl", ".sepcli.jsonl.lock")]
    return wrong + [f"left behind: {path}" for path in left]


def bench(work: Path, *, count: int = 1000, kills: int = 3, broken: float = 0.05, seed: int = 0) -> Record:
    chance = random.Random(seed)
    expected = make(work / "music", count, broken, seed)
    figures = [
        Figure("files", count),
        Figure("of these broken", sum(want.frames is None for want in expected.values())),
    ]
    runs: dict[str, object] = {}
    rounds: dict[str, Callable[[], list[list[str]]]] = {
        "one process": lambda: [[]],
        "two shards": lambda: [["--shard", "1/2"], ["--shard", "2/2"]],
    }
    for name, options in rounds.items():
        out = work / name.replace(" ", "-")
        began = time.monotonic()
        curve, codes = round_(work / "music", out, options(), kills, chance)
        wrong = check(expected, out)
        figures.append(Figure(f"wrong results, {name}, killed {kills} times", len(wrong), "", "<= 0"))
        figures.append(Figure(f"time, {name}", time.monotonic() - began, "s"))
        curve = curve[:-8]  # not the last two seconds, in which the process ends
        tenth, half = max(1, len(curve) // 10), len(curve) // 2
        if len(curve) >= 30:
            growth = max(curve[-tenth:]) - max(curve[half - tenth : half])
            figures.append(Figure(f"memory at the end above the middle, {name}", growth, "MB", "<= 10"))
        runs[name] = {
            "exit codes": codes,
            "wrong": wrong[:20],
            "memory, MB": [round(value, 1) for value in curve[:: max(1, len(curve) // 60)]],
        }
    settings = {
        "kinds": ", ".join(f"{suffix} ({kind})" for suffix, kind in KINDS),
        "length": "0.1 to 1 s each",
        "kills": f"{kills} in each round, after 8 to 20 s",
        "memory": "resident, each quarter of a second, of the process that worked longest",
    }
    return Record("soak", settings, figures, runs)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        record = bench(work, count=options.count, kills=options.kills)
    for run in record.runs.values():
        print("\n".join(run["wrong"]), file=sys.stderr)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
