"""The `sepcli` program: its commands, and how every command ends.

Does not know what the commands do. Every exception becomes one clear message and an exit code of
`sepcli.errors`; a traceback is shown only with SEPCLI_DEBUG=1 or -vv. Imports no torch, so that `--help` is
instant.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO

import typer

from sepcli import __version__
from sepcli.cli import console, fallbacks
from sepcli.cli.options import option_text
from sepcli.cli.program import USUAL, Later, Program, SeparateCommand, completed
from sepcli.cli.signals import Terminated, catch_signals
from sepcli.errors import (
    DISK_FULL,
    INTERRUPTED,
    DeviceError,
    SepcliError,
    SepcliWarning,
    UsageError,
    from_os,
    spelled,
)

# In the order of the help page.
COMMANDS = {
    "separate": Later("sepcli.cli.separate", "separate", cls=SeparateCommand),
    "open": Later("sepcli.cli.open", "open_page"),
    "train": Later("sepcli.cli.train", "train"),
    "distill": Later("sepcli.cli.distill", "distill"),
    "evaluate": Later("sepcli.cli.evaluate", "evaluate"),
    "inspect": Later("sepcli.cli.inspect", "inspect"),
    "robustness": Later("sepcli.cli.robustness", "robustness"),
    "doctor": Later("sepcli.cli.doctor", "doctor", needs_arguments=False),
    "models": Later("sepcli.cli.models", "app"),
    "dataset": Later("sepcli.cli.dataset", "app"),
}


class Sepcli(Program):
    """The program with all its commands."""

    later = COMMANDS


app = typer.Typer(
    name="sepcli",
    cls=Sepcli,
    rich_markup_mode=None,  # plain help pages: rich's would take twice the CPU time of all the rest
    pretty_exceptions_enable=False,  # unexpected exceptions are ours to report (`main`)
    context_settings={"help_option_names": ["-h", "--help"]},
)
# click's base class of errors, found through a public name: from 0.2x on, typer brings a click of its own.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]


# When the program ends, Python does not look for circles among all objects: 0.2 s with torch.
atexit.register(gc.freeze)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sepcli {__version__}\n")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def sepcli(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take music apart into stems: vocals, drums, bass and more.

    Start with `sepcli song.wav`, which is short for `sepcli separate song.wav`. `sepcli models list` shows the
    models, and `sepcli COMMAND --help` the options of a command.
    """
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(UsageError.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (docs/cli.md) is returned, not raised. arguments: sys.argv by default."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    if "--json" in arguments and not {"--help", "-h", "--version"}.intersection(arguments):
        console.take(1)
    try:
        return _main(arguments)
    finally:
        console.give_back()


def _main(arguments: list[str]) -> int:
    with spelled(option_text), warnings.catch_warnings():
        return _run(arguments)


def _open_closed_streams() -> None:
    """Put something in the place of standard streams that are closed, or the next file would get their number.

    Messages then go nowhere. So do results in a Windows program without a console; elsewhere standard output is
    opened for reading, so that whoever writes to it gets an error, as is custom.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        writable = name == "stderr" or (name == "stdout" and os.name == "nt")
        descriptor = os.open(os.devnull, os.O_WRONLY if writable else os.O_RDONLY)
        if descriptor != number and os.name != "nt" and not _is_open(number):
            os.dup2(descriptor, number)
            os.close(descriptor)
            descriptor = number
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _run(arguments: list[str]) -> int:
    """One command, and every way in which it can end."""
    catch_signals()
    fallbacks.allow()
    console.report_as("text")
    if not sys.warnoptions and not _wants_traceback(arguments):
        warnings.simplefilter("ignore")  # those of libraries are for programmers
        warnings.simplefilter("default", SepcliWarning)
        warnings.filterwarnings("always", fallbacks.WARNING)
        take = fallbacks.told(console.notice)
        warnings.showwarning = lambda message, *_: take(str(message))
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="sepcli", standalone_mode=False)
        console.stream(1).flush()  # here, where a full disk is still ours to report
        return code if isinstance(code, int) else 0
    except SepcliError as problem:
        return _fail(problem, arguments, problem)
    except (KeyboardInterrupt, typer.Abort):  # Abort: Ctrl-C or the end of input at a question
        console.say("Stopped.")
        return INTERRUPTED
    except Terminated as stop:
        console.say("Stopped.")
        return stop.exit_code
    except ClickException as problem:
        return _bad_command_line(problem, arguments)
    except BrokenPipeError:
        return _reader_left(arguments)
    except OSError as problem:
        return _fail(_of_a_stream(problem) or _internal(problem), arguments, problem)
    except SystemExit as stop:  # typer and rich make this of a broken pipe
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _reader_left(arguments)
    except MemoryError as problem:
        return _fail(
            DeviceError(
                "The memory of this machine is exhausted.",
                code="memory",
                remedy="Close other programs, or use a smaller --batch-size or --segment.",
            ),
            arguments,
            problem,
        )
    except Exception as problem:  # noqa: BLE001
        return _fail(_internal(problem), arguments, problem)


def _internal(problem: Exception) -> SepcliError:
    """What nobody foresaw."""
    return SepcliError(
        f"An error inside sepcli: {type(problem).__name__}: {problem}.",
        code="internal",
        remedy="Please report it with what SEPCLI_DEBUG=1 prints in addition.",
    )


def _of_a_stream(problem: OSError) -> SepcliError | None:
    """The error of a standard stream that can't be written; None if the exception is of something else.

    Files have errors of their own everywhere: an OSError without a file's name comes from a stream.
    """
    if problem.filename is not None:
        return None
    for number in (1, 2):
        try:
            console.stream(number).flush()
        except OSError:
            return from_os(problem, number)
    unbuffered = {*DISK_FULL, errno.EBADF}  # errors that flush does not raise again
    return from_os(problem, 1) if problem.errno in unbuffered else None


def _reader_left(arguments: Sequence[str]) -> int:
    """The reader of our output is gone: no error for a list (`| head`), but one for stems and for a program."""
    _discard(console.stream(1))
    page = {"--help", "-h", "--dry-run"}.intersection(arguments) or not _separates(arguments)
    if page and "--json" not in arguments:
        return 0
    problem = from_os(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)), 1)
    _try(lambda: console.error(problem), console.stream(2))
    return problem.exit_code


def _separates(arguments: Sequence[str]) -> bool:
    """Whether the command is `separate`, named or left out."""
    group: Any = typer.main.get_command(app)
    own = {name for param in group.params for name in param.opts}
    try:
        return completed(arguments, group.commands, own)[:1] == [USUAL]
    except UsageError:
        return False


def _fail(problem: SepcliError, arguments: Sequence[str], cause: BaseException) -> int:
    """Say what failed, on whichever of the standard streams can still be written; the exit code."""

    def on_standard_error() -> None:
        if _wants_traceback(arguments):
            import traceback

            traceback.print_exception(cause, file=sys.stderr)
        console.error(problem)
        console.stream(2).flush()

    if "--json" in arguments:
        _try(lambda: console.print_json(console.failure_object(problem)), console.stream(1))
    _try(console.stream(1).flush, console.stream(1))
    _try(on_standard_error, console.stream(2))
    return problem.exit_code


def _try(write: Callable[[], object], stream: TextIO) -> None:
    """Write to a stream; where it takes no more, whatever else is written there is dropped."""
    try:
        write()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send what is still written there nowhere, or the interpreter would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _wants_traceback(arguments: Sequence[str]) -> bool:
    """Whether tracebacks are to be shown, also before the options are parsed."""
    verbose = sum(
        argument.count("v") if argument.strip("v") == "-" else argument == "--verbose" for argument in arguments
    )
    return console.wants_tracebacks(verbose)


def _bad_command_line(problem: BaseException, arguments: Sequence[str]) -> int:
    """Report an option that does not exist, or a value that it can't take. Always exit code 2."""
    context = getattr(problem, "ctx", None)
    if type(problem).__name__ == "NoArgsIsHelpError":  # its message is the help page
        sys.stderr.write(problem.format_message() + "\n")  # type: ignore[attr-defined]
        return UsageError.exit_code
    command = context.command_path if context is not None else "sepcli"
    message = problem.format_message()  # type: ignore[attr-defined]
    return _fail(UsageError(message, remedy=f"See `{command} --help`."), arguments, problem)
