"""How a run of `sepcli separate` goes and ends: over a batch, over folders, as a plan, or to standard output.

Each gives the exit code. The work is jobs.py's, the display reporting.py's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.batch import DEFAULT_TEMPLATE
from sepcli.cli import console
from sepcli.cli.signals import Terminated
from sepcli.errors import INTERRUPTED, SepcliError, UsageError, from_os, worst_exit_code

if TYPE_CHECKING:
    from sepcli.batch.names import Named
    from sepcli.batch.outputspec import OutputSpec
    from sepcli.batch.request import Batch, Request
    from sepcli.batch.results import Result
    from sepcli.weights.entries import Catalog


def look_up_batch(request: Request, inputs: list[str], models: Catalog) -> tuple[Batch, Named | None]:
    """The batch, and its stems and paths as far as the catalogue knows them."""
    from sepcli.batch.names import names_if_known
    from sepcli.batch.request import look_up
    from sepcli.sound.suffixes import AUDIO_SUFFIXES

    if "-" in inputs and sys.stdin.isatty():
        raise UsageError(
            "Standard input is a terminal, not audio.",
            remedy="Pipe a file in, or name it: sepcli separate song.wav.",
        )
    batch = look_up(request, inputs, models, AUDIO_SUFFIXES)
    return batch, names_if_known(batch)


def separate(
    batch: Batch, named: Named | None, json: bool, bars: bool, verbose: int
) -> tuple[int, list[Result]]:
    """Separate, report every result and sum up; the exit code, and the results."""
    from sepcli.batch.jobs import run
    from sepcli.batch.results import unfinished
    from sepcli.cli.reporting import Reporter

    codes = []
    with Reporter(batch, bars=bars, json=json, verbose=verbose) as reporter:
        try:
            for result in run(batch, reporter, named):
                reporter.result(result)
            reporter.summary(stopped=False)
        except SepcliError as problem:  # of the whole run: no model, no device, files in the way
            codes.append(problem.exit_code)
            for result in unfinished(batch, reporter.results, problem):
                reporter.count(result)
            reporter.failed(problem)
            console.error(problem)
        except (KeyboardInterrupt, Terminated) as stop:
            codes.append(stop.exit_code if isinstance(stop, Terminated) else INTERRUPTED)
            for result in unfinished(batch, reporter.results, "the run was stopped"):
                reporter.result(result)
            reporter.summary(stopped=True)
    return worst_exit_code([*codes, *(result.exit_code for result in reporter.results)]), reporter.results


def watch_folders(
    request: Request, folders: list[str], models: Catalog, json: bool, bars: bool, verbose: int
) -> int:
    """Separate what is in the folders, and what arrives there, until somebody stops it: that is its proper end.

    Tracks that failed have been reported, so a stop at whatever point has exit code 0. Another code means that
    it could not go on, and a supervisor may start it again.
    """
    from sepcli.batch.results import unfinished
    from sepcli.batch.watch import watch
    from sepcli.cli.reporting import Reporter
    from sepcli.sound.suffixes import AUDIO_SUFFIXES

    batch, named = look_up_batch(request, [], models)
    with Reporter(batch, bars=bars, json=json, verbose=verbose) as reporter:
        try:
            for result in watch(batch, folders, AUDIO_SUFFIXES, reporter, named):
                reporter.result(result)
        except (KeyboardInterrupt, Terminated):
            for result in unfinished(reporter.batch, reporter.results, "the run was stopped"):
                reporter.result(result)
            reporter.summary(stopped=True)
            return 0
        except SepcliError as problem:
            for result in unfinished(reporter.batch, reporter.results, problem):
                reporter.count(result)
            if reporter.came_to_tracks:
                reporter.summary(stopped=True)
            raise
        reporter.summary(stopped=True)
    return worst_exit_code(result.exit_code for result in reporter.results)


def plan(batch: Batch, named: Named | None, json: bool) -> int:
    """Say what `separate` would do."""
    from sepcli.batch.jobs import preview
    from sepcli.cli.reporting import Reporter, print_plan

    with Reporter(batch, bars=False, json=json, verbose=0, planning=True) as reporter:
        decisions = preview(batch, reporter, named)
    return print_plan(batch, reporter.stems, decisions, json)


def to_stdout(request: Request, inputs: list[str], models: Catalog, bars: bool, verbose: int) -> int:
    """One stem of one input, as WAV, to standard output; nothing else is printed there.

    It is written while it is made, unless something needs all of it before: a gain, or --strict.
    """
    import shutil
    import tempfile
    from dataclasses import replace

    if request.spec.format != "wav":
        raise UsageError(f"-o - writes WAV, not {request.spec.format}.", remedy="Leave --format out.")
    if sys.stdout.isatty():
        raise UsageError(
            "Standard output is a terminal, and a WAV file is not text.",
            remedy="Redirect it (-o - > vocals.wav), or choose a folder with -o.",
        )
    console.take(1)
    stdout = console.stream(1)
    with tempfile.TemporaryDirectory(prefix="sepcli-") as folder:
        request = replace(
            request,
            out=Path(folder) / "out",
            template=DEFAULT_TEMPLATE,
            spec=_streamed(request.spec),
            stdout=stdout.fileno(),
        )
        batch, named = look_up_batch(request, inputs, models)
        count = len(batch.sources) + len(batch.failures)
        if count != 1:
            raise UsageError(
                f"-o - takes one input, not {count}.", remedy="Choose a folder with -o for several."
            )
        # The stems of a checkpoint file are known only when it is loaded.
        asked = [*request.targets, *(query.name for query in batch.queries)]
        if asked:
            asked = list(dict.fromkeys([*asked, *(name for name, _ in request.submixes)]))
        stems = asked if named is None else named.stems.files
        if len(stems) != 1 or (request.spec.rest and named is None):
            raise UsageError(
                f"-o - writes one stem, and here are {', '.join(stems) or 'all of the model'}.",
                remedy="Choose one with -t STEM.",
            )
        code, results = separate(batch, named, json=False, bars=bars, verbose=verbose)
        if request.stream is None and results and results[0].outputs:
            (stem,) = results[0].outputs.values()
            try:
                with open(stem, "rb") as file:
                    shutil.copyfileobj(file, stdout.buffer, 1 << 20)
                stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise from_os(error, 1) from error
        return code


def _streamed(spec: OutputSpec) -> OutputSpec:
    """For a stream samples are float, so that none is beyond full scale and no gain has to be found first."""
    from dataclasses import replace

    if spec.depth == "keep":
        return replace(spec, depth="24" if spec.clip == "clamp" else "32f")
    if spec.clip is None and spec.depth != "32f":
        return replace(spec, clip="clamp")
    return spec
