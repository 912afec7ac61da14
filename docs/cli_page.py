"""docs/cli.md: the options from the commands themselves, the exit codes from errors.py, the rest written here.

Rendered from the declarations, not from the help pages, so that it does not depend on typer's version or on
the width of a terminal. `python docs/generate.py` calls it.
"""

# ruff: noqa: E501  (the rows of a Markdown table can't be wrapped)

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import typer

from sepcli import errors
from sepcli.cli.app import app

EXIT_WORDS = {
    0: "All inputs are done, or were done before.",
    1: "Some inputs failed; the others are done. Missing, unreadable, empty, not audio, no frames, samples that are NaN or infinite, a folder without audio. Also an error inside sepcli, and `doctor` where separation can't work.",
    2: "Wrong usage: an option or a value, a stem the model lacks, outputs that collide or are in the way. Nothing was separated.",
    3: "The model: unknown name, download, hash, bad checkpoint, an upload that can't be made.",
    4: "The device is absent, or memory ran out.",
    5: "An output can't be written: no permission, disk full, missing encoder. The batch stops there; finished tracks stand.",
    errors.INTERRUPTED: "Stopped by Ctrl-C, cleanly: nothing unfinished is left. A second Ctrl-C ends the process at once.",
    errors.TERMINATED: "Stopped by SIGTERM, likewise.",
}


def cli() -> str:
    group = typer.main.get_command(app)
    order = ["separate", "train", "distill", "evaluate", "inspect", "robustness", "dataset", "models", "doctor"]
    assert set(order) == set(group.commands), "every command has its place"
    commands = []
    for name in order:
        below = getattr(group.commands[name], "commands", None)
        commands += (
            [(name, group.commands[name])]
            if below is None
            else [(f"{name} {one}", command) for one, command in below.items()]
        )
    return HEAD + _exit_codes() + SEPARATE_RULES + "".join(_command(*command) for command in commands)


def _exit_codes() -> str:
    classes = {
        cls.exit_code: name
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, errors.SepcliError) and cls is not errors.SepcliError
    }
    assert set(EXIT_WORDS) == set(errors.EXIT_CODE_ORDER), "every exit code has its words"
    rows = [f"| {code} | {EXIT_WORDS[code]} | {classes.get(code, '')} |" for code in sorted(EXIT_WORDS)]
    order = ", ".join(str(code) for code in errors.EXIT_CODE_ORDER if code)
    return (
        "## Exit codes\n\nThe same for every command.\n\n| code | meaning | in Python |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nWhen several apply, the first of {order} is taken.\n"
    )


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join(["sepcli", name, "[OPTIONS]", *(_argument(param) for param in arguments)])
    text = f"\n## sepcli {name}\n\n```\n{usage}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
    sections: dict[str, list[str]] = {}
    for param in command.params:
        if getattr(param, "hidden", False) or "--help" in param.opts:
            continue
        title = "Arguments" if param in arguments else getattr(param, "rich_help_panel", None) or "Options"
        sections.setdefault(title, []).append(f"| {_names(param)} | {param.help or ''} | {_default(param)} |")
    for title, rows in sections.items():
        text += f"\n| {title} | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return text


def _argument(param: Any) -> str:
    name = (param.metavar or param.name.upper()).strip("[].")
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_argument(param)}`"
    names = ", ".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag or param.count else f" {param.metavar or param.name.upper()}"
    return f"`{names}{value}`".replace("|", "\\|")


def _default(param: Any) -> str:
    value = param.default
    if param.param_type_name == "argument" or value is None or value is False or value == () or param.count:
        return ""
    if value is True:
        return f"`{param.opts[0]}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


HEAD = """\
# The command line

`sepcli separate` is the main command; `sepcli models` looks after the weights, `sepcli doctor` after the
installation. `sepcli dataset`, `train` and `evaluate` make models and measure them, `inspect` looks into one, `robustness` shakes a codec. Results go to standard output, everything else to standard error. Each error is one sentence
that says what is the case and one that says what to do; `SEPCLI_DEBUG=1` (or `-vv`) adds the traceback.

`sepcli --install-completion` makes the shell complete commands, options, model names and stems.

| variable | effect |
|---|---|
| `SEPCLI_CATALOG` | more catalogues of models, separated as in `PATH` |
| `SEPCLI_DEBUG` | 1: tracebacks |
| `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN` | the Hugging Face cache and hub, as everywhere |
| `NO_COLOR` | no colours |

"""

SEPARATE_RULES = """
## Rules of a batch

**Inputs.** A folder is searched recursively for every suffix that libsndfile or ffmpeg may read, in any case,
video included. Hidden files and folders, the output folder, and folders that hold a manifest (`.sepcli.jsonl`)
are left out; links to folders are followed once. A file given twice is separated once, with a notice. A file
that needs ffmpeg where there is none fails with that reason. `-` is standard input, as a track called `stdin`;
named pipes work too. Both are copied to the output folder's file system first, for a track may have to be
read twice.

**Names.** `--template` names the files inside the output folder by plain substitution. The path of an input
below its INPUT folder is mirrored: `sepcli separate albums -o stems` turns `albums/A/song.flac` into
`stems/A/song/vocals.wav`. Two inputs that would get the same names are told apart by `{parent}` (as a folder)
or `{trackext}` (as a suffix) if that is enough, with a notice; otherwise the run ends with 2 before any work
and names both. Characters that Linux, macOS or Windows refuse become `_`; too long names are shortened, with a
notice. An input or a query is never overwritten, whatever the options.

**Queries.** `--query [NAME=]FILE` takes a sound out by an example of it, with a model that takes queries
(`sepcli models info`): a file of any rate, length and channels (of more than two, their mean). Its stem is called NAME, or as the file without its suffix; it may have the name of one of the
model's own stems, but not beside it. `-t` adds stems by name; without it there are only the queries'.

**What is there already.** Each finished track is a line of `.sepcli.jsonl` in the output folder: its outputs
with their sizes, the settings that change samples or files, and the input by content (hashed once, then known
by size and date), as the queries are. The device, the batch size and what is printed are not among these
settings.

| in the output folder | without options | `--no-resume` | `--force` |
|---|---|---|---|
| all outputs, same input, same settings | skipped | made again | skipped |
| some of them missing, or of another size | made again | made again | made again |
| outputs of an older version of the same input or query file | made again | made again | made again |
| outputs of another input or query, or of other settings | refused, 2 | refused, 2 | replaced |
| files that sepcli did not make | refused, 2 | refused, 2 | replaced |

A refusal comes before any work. Stems appear under their names only when all of a track are complete, so after
a kill or a power cut the same command goes on where it was.

**Several processes** may share one output folder. `--shard I/N` gives each its part, by a hash of the relative
path: the parts are the same on every machine, whatever other files there are. Use 1/4, 2/4, 3/4 and 4/4.

**Failures.** An input that fails is reported and the next one begins. An output that can't be written ends the
batch.

## Results as JSON

`--json` prints one object a line on standard output for every input (of this shard), in the order in which
they end. The lines are ASCII; bytes of a name that are not UTF-8 are escaped as lone surrogates, as Python's
`os.fsdecode` has them.

| key | value |
|---|---|
| `input` | the path as found, `-` for standard input |
| `status` | `done`, `skipped` or `failed` |
| `outputs` | paths by stem; `{}` for a failed input |
| `audio_seconds`, `seconds` | length of what was separated; time the work took |
| `realtime` | the first over the second |
| `device`, `precision` | what computed it |
| `gain` | the common gain of all its stems; 1.0 unless one of them would have clipped |
| `options` | the model's own options (`-O`) as they were used, those that follow from others filled in; `{}` if it has none |
| `warnings` | sentences: a truncated file, a rate that had to change |
| `error` | `null`, or `code` (a stable word), `message`, `remedy` |

All keys are always there; what does not apply is `null`. An input that the run did not come to, because it was
stopped or the disk was full, has the error code `not_done`. When the run as a whole fails after the inputs are
known (no model, no device, files in the way), every input gets that error. When it fails before (a bad option,
an unknown model or stem), there is one object whose `input` is `null`; the other commands' `--json` do the same.

`--dry-run --json` prints the same objects with the status `planned` instead of `done`, and `action` (`separate`,
`replace`, `skip`, `refuse`), `model`, `license` and `download_bytes` besides.

`--progress json` turns all of standard error into one object a line, each with an `event`: `notice`, `download`
(`done`, `total` bytes), `start` (`model`, `stems`, `license`, `device`, `precision` and the reasons for these
two), `track` (`number`, `count`), `progress` (`done_seconds`, `total_seconds`, `realtime`, `left_seconds`),
`result`, `summary` and `error`.
"""
