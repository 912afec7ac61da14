"""What the first GPU that can be had is to tell, in nine minutes: the most valuable part first.

    python -m tests.bench.gpu_day --msst ENV/bin       measures until the time is up
    python -m tests.bench.gpu_day --msst ENV/bin       once more: only what is missing
    python -m tests.bench.gpu_day --dry                all parts on a CPU, with tiny networks, in about a minute

Each part is a process of its own, which is ended when its time is up, and each row of it is written as it
comes: results/gpu_day-PART-CARD.json. What failed is named in there, and tried again by the next run; --again
PART measures a part anew. A dry run writes into its work folder, shows that every part works, and measures
nothing of worth.

Needs the dependency group `dev`; msst 0.1.0 has an environment of its own, whose `bin` is named. Exit code: 0
where no row failed or had no time, 1 where one did, 2 without CUDA.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import results
from tests.bench.gpu_choices import BATCH, COMPILE, COPIES, LAYOUT, PRECISION
from tests.bench.gpu_rivals import HTDEMUCS, ROFORMER, TESTED
from tests.bench.gpu_rows import LEFT_OUT, TIME, Day, Part

PARTS = {part.name: part for part in (TESTED, HTDEMUCS, ROFORMER, BATCH, PRECISION, COMPILE, LAYOUT, COPIES)}
BUDGET = 540.0  # seconds
LEAST = 15.0  # seconds: a process that loads torch and a network has measured nothing before
DRY = "dry run on a CPU"


def run(day: Day, parts: Sequence[Part], budget: float) -> bool:
    """Measure what is missing, part after part. True: no row failed or had no time."""
    end = time.monotonic() + budget
    for part in parts:
        if part.missing(day):
            _measure(day, part, end if day.dry else min(end, time.monotonic() + part.most), min(LEAST, budget))
        else:
            print(f"{part.name}: done before", file=sys.stderr, flush=True)
    return not any(not why.startswith(LEFT_OUT) for part in parts for why in part.missing(day).values())


def _measure(day: Day, part: Part, end: float, least: float) -> None:
    """One process for the part, and after a row that fails another for the rows behind it."""
    before, again = None, True
    while (missing := part.missing(day)) != before and (again or TIME in missing.values()):
        left = end - time.monotonic()
        if left < least:
            print(f"{part.name}: no time is left", file=sys.stderr, flush=True)
            return
        _apart(day, part, left, again)
        before, again = missing, False


def _apart(day: Day, part: Part, seconds: float, again: bool) -> None:
    """The part in a process of its own: nothing that goes wrong there concerns the next one."""
    command = [sys.executable, "-m", "tests.bench.gpu_day", "--inside", part.name]
    command += ["--work", str(day.work), "--folder", str(day.folder)]
    command += ["--dry"] if day.dry else []
    command += ["--msst", str(day.msst)] if day.msst else []
    command += [] if again else ["--go-on"]
    process = subprocess.Popen(command, cwd=results.ROOT, process_group=0)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"{part.name}: its {seconds:.0f} s are up", file=sys.stderr, flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the programs that it has started
            process.wait()


def show(day: Day, parts: Sequence[Part]) -> None:
    """The figures, and what is missing."""
    for part in parts:
        print(f"\n{part.name}: {part.file(day).name}")
        for figure in part.figures(part.measured(day)):
            wanted = "".join(f"   ({name} {bound})" for name, bound in _bounds(figure) if bound)
            print(f"  {figure.name}: {figure.value:.4g} {figure.unit}{wanted}")
        for row, why in part.missing(day).items():
            print(f"  not measured: {row}: {why}")


def _bounds(figure: results.Figure) -> tuple[tuple[str, str], ...]:
    return ("target", figure.target), ("aim", figure.aim)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS")
    parser.add_argument("--dry", action="store_true", help="on a CPU with tiny networks")
    parser.add_argument("--only", nargs="+", default=[*PARTS], choices=PARTS, metavar="PART")
    parser.add_argument("--again", nargs="+", default=[], choices=PARTS, metavar="PART", help="forget its rows")
    parser.add_argument("--msst", type=Path, metavar="BIN", help="the folder of its programs")
    parser.add_argument("--work", type=Path, help="keep audio, weights and stems in this folder")
    parser.add_argument("--folder", type=Path, help="of the results")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)  # this part, in this process
    parser.add_argument("--go-on", action="store_true", help=argparse.SUPPRESS)  # behind what has failed
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        print("no CUDA device; --dry tries everything on a CPU", file=sys.stderr)
        raise SystemExit(2)
    with results.workplace(options.work) as work:
        folder = options.folder or (work / "results" if options.dry else results.FOLDER)
        device, card = ("cpu", DRY) if options.dry else ("cuda", torch.cuda.get_device_name())
        msst = options.msst.absolute() if options.msst else None
        day = Day(device, card, work, folder.absolute(), msst)
        if options.inside:
            PARTS[options.inside].fill(day, again=not options.go_on)
            return
        parts = [PARTS[name] for name in options.only]
        for name in options.again:
            PARTS[name].file(day).unlink(missing_ok=True)
        whole = run(day, parts, options.budget)
        show(day, parts)
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
