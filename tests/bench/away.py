"""Many short real files from an object store through Ray and back, with a node killed in mid-batch.

    python -m tests.bench.away [--files 200] [--music tests/data/feelings.flac] [--target vocals]

An S3 server on loopback and three nodes of a core each, as processes of this machine. The same files are
separated here first, from folder to folder with the same number of threads. Then: seconds, how often each input
has a result, how many tracks were begun again, and whether the stems are the same, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import soundfile

from tests.s3server import S3Server

NODES = 3


def cut(music: Path, folder: Path, count: int) -> list[Path]:
    """So many clips of 2 to 3 s from all over the file, no two alike."""
    samples, rate = soundfile.read(music, dtype="int16", always_2d=True)
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        length = rate * (20 + number % 11) // 10
        start = (len(samples) - length) * number // count
        paths.append(folder / f"{number:04}.wav")
        soundfile.write(paths[-1], samples[start : start + length], rate)
    return paths


def separate(*options: str, killing=None, after: int = 0) -> tuple[float, Counter, str]:
    """(seconds, results by input and status, what was said); `killing` is called after so many results."""
    command = [sys.executable, "-m", "sepcli", "separate", "-m", "duo", "--threads", "1", "--json", *options]
    began, results = time.monotonic(), Counter()
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                result = json.loads(line)
                results[Path(result["input"]).name, result["status"]] += 1
                if killing is not None and len(results) == after:
                    killing()
        seconds = time.monotonic() - began
        said.seek(0)
        text = " ".join(said.read().split())
    assert process.returncode == 0, text
    return seconds, results, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--music", type=Path, default=Path(__file__).parents[1] / "data" / "feelings.flac")
    parser.add_argument("--target", action="append", default=[])
    given = parser.parse_args()
    from ray.cluster_utils import Cluster

    targets = [word for target in given.target for word in ("-t", target)]
    with tempfile.TemporaryDirectory() as place, S3Server() as server:
        server.reset()
        clips = cut(given.music, Path(place) / "clips", given.files)
        length = sum(soundfile.info(clip).duration for clip in clips)
        for clip in clips:
            server.put(f"clips/{clip.name}", clip.read_bytes())
        out = Path(place) / "stems"
        seconds, _, _ = separate(str(clips[0].parent), "-o", str(out), *targets)
        print(f"{len(clips)} files, {length:.0f} s of audio")
        print(f"here, from folder to folder, 1 thread: {seconds:.0f} s", flush=True)
        os.environ |= {**server.environment, "RAY_worker_niceness": "0"}
        cluster = Cluster()
        try:
            nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
            seconds, results, said = separate(
                *("s3://bucket/clips/", "-o", "s3://bucket/stems/", "--ray", cluster.address, *targets),
                killing=lambda: cluster.remove_node(nodes[-1], allow_graceful=False),
                after=given.files // 5,
            )
        finally:
            cluster.shutdown()
        names = [name.removeprefix("stems/") for name in server.names() if name.startswith("stems/")]
        stems = {name: server.get(f"stems/{name}") for name in names if not name.startswith(".sepcli/")}
        here = {path.relative_to(out).as_posix(): path for path in out.rglob("*.wav")}
        same = sum(content == here[name].read_bytes() for name, content in stems.items() if name in here)
        lines = [name for name in names if name.startswith(".sepcli/") and name.endswith(".json")]
        left = [name for name in names if name.startswith(".sepcli/") and name not in lines]
        print(f"Ray, {NODES} nodes of a core, from and to S3, one killed: {seconds:.0f} s")
        print(f"results: {dict(Counter(status for _, status in results))}")
        print(f"most results of an input: {max(results.values())}")
        print(f"begun again: {said.count('another one begins again')}")
        print(f"stems: {len(stems)} of {len(here)}; the same bytes as here: {same}")
        print(f"lines of the manifest: {len(lines)}; left besides: {left}")
        print(f"requests to the store: {len(server.seen)}")


if __name__ == "__main__":
    main()
