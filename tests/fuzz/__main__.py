"""python -m tests.fuzz TARGET [--count N] [--seed S] [--first K]"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.harness import BATCH, MEMORY, SECONDS, fuzz, input_of, work
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=20_000, help="so many inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes that an input may take")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that an input may take")
    parser.add_argument("--save", metavar="FILE", help="only write the first input to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.target, asked.seed, asked.first, asked.count, asked.worker, asked.memory, asked.seconds)
        return 0
    if asked.save:
        with open(asked.save, "wb") as file:
            file.write(input_of(asked.target, asked.seed, asked.first))
        return 0
    findings = done = read = rejected = 0
    slowest, memory, spent = 0.0, 0, 0.0
    while done < asked.count:
        size = min(BATCH, asked.count - done)
        report = fuzz(
            asked.target,
            size,
            asked.seed,
            first=asked.first + done,
            memory=asked.memory,
            seconds=asked.seconds,
        )
        done, read, rejected = done + report.inputs, read + report.read, rejected + report.rejected
        slowest, memory = max(slowest, report.slowest), max(memory, report.memory)
        spent += report.seconds
        findings += len(report.findings)
        for number, what in report.findings:
            print(f"input {number} of seed {asked.seed}: {what}", flush=True)
        print(
            f"{done} inputs, {read} read, {rejected} rejected, {findings} findings; slowest {slowest:.2f} s, "
            f"memory + {memory / 1e6:.0f} MB; {spent:.0f} s",
            flush=True,
        )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
