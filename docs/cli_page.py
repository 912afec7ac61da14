"""docs/cli.md: options come from the commands themselves, exit codes from errors.py; the rest is written here.

Options are rendered from their declarations, not from the help pages, so the page does not depend on the version
of typer or on the width of a terminal. `python docs/generate.py` calls it.
"""

# ruff: noqa: E501  (the rows of a Markdown table can't be wrapped)

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import events_page
import typer
import written_page

from sepcli import errors
from sepcli.cli.app import app
from sepcli.cli.panels import argument_name
from sepcli.cli.peers import PEERS

EXIT_WORDS = {
    0: "All inputs are done, or were done before.",
    1: "Some inputs failed; the others are done. An input fails if it is missing, unreadable, empty, not audio, without frames, a folder without audio, or has samples that are NaN or infinite. Also: an error inside sepcli; `doctor` if separation can't work.",
    2: "Wrong usage: a bad option or value, a stem that the model lacks, outputs that collide or are in the way. Nothing was separated.",
    3: "The model: an unknown name, a failed download, a wrong hash, a bad checkpoint, a failed upload.",
    4: "The device does not exist, or memory ran out.",
    5: "An output can't be written: no permission, a full disk, a missing encoder. The batch stops there; finished tracks remain.",
    errors.INTERRUPTED: "Stopped by Ctrl-C, cleanly: nothing unfinished is left. A second Ctrl-C ends the process at once. (With `--watch` that is its proper end: 0; so with the next two.)",
    errors.TERMINATED: "Stopped by SIGTERM, in the same way.",
    errors.HUNG_UP: "Stopped by SIGHUP, as when the terminal is closed, in the same way; `nohup` lets a run go on.",
}


def cli() -> str:
    """The text of the page, without its first line."""
    group: Any = typer.main.get_command(app)
    order = [
        "separate",
        "open",
        "train",
        "distill",
        "evaluate",
        "inspect",
        "robustness",
        "dataset",
        "models",
        "doctor",
    ]
    assert set(order) == set(group.commands), "every command has its place"
    commands = []
    for name in order:
        below = getattr(group.commands[name], "commands", None)
        commands += (
            [(name, group.commands[name])]
            if below is None
            else [(f"{name} {one}", command) for one, command in below.items()]
        )
    return (
        HEAD
        + _exit_codes()
        + _rules()
        + events_page.table()
        + _peers()
        + "".join(_command(*one) for one in commands)
    )


def _rules() -> str:
    formats, production = written_page.tables()
    return SEPARATE_RULES.replace("{formats}", formats).replace("{production}", production)


def _peers() -> str:
    text = PEERS_HEAD
    for peer, rows in PEERS.items():
        text += f"\n| {peer} | here |\n|---|---|\n"
        for theirs, ours in rows.items():
            here = f"`{ours}`" if ours.startswith("-") else ours or "what sepcli does anyway"
            text += f"| `{theirs}` | {here} |\n"
    return text


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
        + f"\n\nIf several apply, the first in this order is taken: {order}.\n"
    )


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join(["sepcli", name, "[OPTIONS]", *(argument_name(param) for param in arguments)])
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


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{argument_name(param)}`"
    names = ", ".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag or param.count else f" {param.metavar or param.name.upper()}"
    return f"`{names}{value}`".replace("|", "\\|")


def _default(param: Any) -> str:
    value, shown = param.default, getattr(param, "show_default", None)
    if value is None and isinstance(shown, str):
        return shown if " " in shown else f"`{shown}`"
    if param.param_type_name == "argument" or value is None or value is False or value == () or param.count:
        return ""
    if value is True:
        return f"`{param.opts[0]}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


PEERS_HEAD = """
## Options of other separators

`sepcli separate` takes options of demucs, audio-separator and Spleeter where they mean the same here; this stands on no
help page.
Another option of theirs ends the run with 2 before any work, and the error is the sentence in the table. Options with
the same name and meaning here are left out: `-o`, `--device`, `--shifts`, `--overlap` and `--segment` of demucs, `-m` of
audio-separator. So is `--two-stems`, but the rest is always the mix minus the stem here. Where two have an option of one
name (`-d`, `-s`), it is that of demucs. Defaults are ours: `duo`, where demucs takes `htdemucs`.
"""

HEAD = """\
# The command line

`sepcli separate` is the main command, and its name may be left out: `sepcli song.wav -m htdemucs`, with options first
too. A file that is called like a command needs a path, `./train`. `sepcli models` looks after the weights, `sepcli doctor` after the installation.
`sepcli dataset`, `train`, `distill` and `evaluate` make models and measure them; `inspect` looks into one, and
`robustness` measures how much noise a codec bears.

Results go to standard output, everything else to standard error. An error is two sentences: one says what is wrong, the
other what to do. `SEPCLI_DEBUG=1` (or `-vv`) adds the traceback. In what is printed for people, characters of a name
that would act on the terminal are escaped (`\\n`, `\\x1b`); JSON has the name itself.

`sepcli --install-completion` lets the shell complete commands, options, model names and stems.

| variable | effect |
|---|---|
| `SEPCLI_CATALOG` | more catalogues of models, separated as in `PATH` |
| `SEPCLI_DEBUG` | 1: tracebacks |
| `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN` | the Hugging Face cache and hub, as everywhere |
| `NO_COLOR` | no colours |

"""

SEPARATE_RULES = """
## Rules of a batch

**Inputs.** A folder is searched recursively for every suffix of audio and video, in upper or lower case. These are left out: hidden files and folders, the output folder, and folders that hold a manifest
(`.sepcli.jsonl`). Links to folders are followed once. A file given twice is separated once, with a notice. `-` is standard input, as a track called `stdin`; named
pipes work too. Both are copied to the file system of the output folder first, because a track may have to be read
twice.

`-o -` writes the WAV of one stem to standard output while it is separated: `sepcli song.wav -t vocals -o - | play -`.
Its samples are float, so that nothing has to be lowered; `--bit-depth` makes them integers, and then cuts peaks off.
`--clip gain` and `--strict` wait for the end of the track, and so does standard input. The header states no length
where it is not known before.

**Names.** `--template` names the files inside the output folder by plain substitution. `{model}` is the catalogue's name of
the model; for a file its name without suffix, for `hf://` the last part of the repository. The path of an input below its
INPUT folder is kept, before the part that has `{track}`: `sepcli separate albums -o stems` turns `albums/A/song.flac` into `stems/duo/A/song/vocals.wav`. If
two inputs would get the same names, they are told apart by `{parent}` (as a folder) or `{trackext}` (as a suffix),
with a notice. Names that differ only in characters that paths can't hold, in case on a disk that ignores it, or in how
Unicode composes a letter (`é` as one sign or two) get a number, in the order of their bytes. If that is not enough, the
run ends with 2 before any work and names both. Characters that Linux, macOS or Windows refuse become `_`; names that
are too long are shortened, with a notice. An input or a query is never overwritten, whatever the options.

`--layout` is a template by its name:

| layout | template | song.flac becomes |
|---|---|---|
| `stems-by-track` (as usual) | `{model}/{track}/{stem}.{ext}` | `duo/song/vocals.wav` |
| `tracks-by-stem` | `{model}/{stem}/{track}.{ext}` | `duo/vocals/song.wav` |
| `flat` | `{model}/{track} - {stem}.{ext}` | `duo/song - vocals.wav` |

`{tracknumber}` is the place of an input among those of the command (of a folder its files first), 01 and so on, and
`{stemnumber}` that of a file among the files of its track: `--template '{track}/{stemnumber} {stem}.{ext}'` gives
`song/1 drums.wav`, which programs that sort by name keep in this order. Numbers belong to the command: with other inputs
or stems they are others, and so are the names.

**Several models.** `-m A+B` runs models side by side, and each stem is made of what all of them give that have it. They may
be anything that `-m` takes, and differ in stems, rate, channels and segment; each works as it does alone. The
instrumental of a model of vocals is the mix minus them. A file or model of that very name, with its `+`, goes first.
`--blend` says how a stem becomes one, as in audio-separator:

| way | each sample, or with `_fft` each bin of the spectra (2,048 samples, every 1,024), is |
|---|---|
| `avg_wave`, `avg_fft` | the mean, weighted by `-m A:2+B` |
| `median_wave`, `median_fft` | the median; of spectra that of their real and imaginary parts |
| `min_wave`, `min_fft` | the one of least size: less of what only some models let through |
| `max_wave`, `max_fft` | the one of largest size: more of what only some models have |

Time and memory are the sums of those of the models.

**Chains.** `--then "STEM: MODEL"` gives a stem to another model, whose stems replace it; as often as wanted, in that
order. MODEL may be anything that `-m` takes:

```sh
sepcli separate song.wav -m mel-roformer-kim --then "vocals: karaoke-becruily" --then "lead: dereverb-anvuew"
```

leaves `dry`, `reverb`, `karaoke` and `instrumental`. The models stream: each gets what the one before has finished, and
nothing between them is written. A stem of a name that there is already is called after the one that it is taken from,
`vocals-drums`. Two more kinds of stems are there where `-t` or a submix asks for them: the one that a step takes
(`-t vocals`), and what its model leaves of it (`-t vocals-rest`, that minus the model's stems). What no wanted stem needs
does not run. Where the networks are too large for the memory together, each goes over the whole track, with temporary
files in the output folder between them, and a notice says so. The stems add up to the input where those of each model do.
`models list --task chain` has chains that are made already ([how to make one of your own](models.md#your-own-models)).

**Words for stems.** `-t` and `--two-stems` take stems in any case, `-t Vocals`. A stem that the model has under the very
name that is asked for comes first; else these words have a meaning, and a notice says which one was taken:

| word | what is made | its file |
|---|---|---|
| `acapella` (or `acappella`, `a_cappella`) | the vocals | `vocals` |
| `instrumental`, `accompaniment`, `no_vocals` | the model's own stem of that kind (`accompaniment` of Spleeter); else the mix minus the vocals | the stem's name; else the word |
| `karaoke` | the mix minus the stem `lead`; in a model without it, the same as `instrumental` | the same |
| `no_STEM` | the mix minus STEM | the word |

Such a mix minus a stem needs only the work of that stem, which is not written unless it is asked for as well
(`-t vocals -t instrumental`). Beside other stems it stays what it is: `-t drums -t instrumental` makes the drums, and
the mix minus the vocals. With `--rest` or `--sum exact` it can only go with its own stem. Names of queries are taken as
they are written.

**Submixes.** `--submix NAME=SUM` writes one more file, the sum of stems and of `mix`, the input, with + and - between
them and a gain behind any: `--submix "no_drums=mix-drums" --submix "practice=vocals*-12dB+bass+drums*0.5"`. A gain is a
factor or decibels, 60 dB at most. Spaces count for nothing; the words for stems above can be used, and of names that
hold - or + themselves the longest that fits is taken. The sum is that of the stems before they are rounded to the
format. A submix has the format, names, tags and levels of a stem: if it would clip, it lowers all stems of its track
like one, and a notice says that it was the reason. It needs the work of its stems, which are only written if they are
asked for, too:

| options | what is made | what is written |
|---|---|---|
| `--submix no_drums=mix-drums` | all stems | all stems, `no_drums` |
| `-t vocals --submix no_drums=mix-drums` | vocals, drums | `vocals`, `no_drums` |
| `-t no_drums --submix no_drums=mix-drums` | drums | `no_drums` |

With `--sum exact` the stems and the rest add up to the input; submixes are sums of these files. A stem that the model
lacks, a name that is taken, or a sum that can't be read ends the run with 2 before any work.

**Queries.** `--query [NAME=]FILE` takes a sound out by an example of it, with a model that takes queries
(`sepcli models info`). FILE may have any rate, length and number of channels (of more than two the mean is taken). The
stem is called NAME, or like the file without its suffix. It may have the name of one of the model's own stems, but not
beside it. `-t` adds stems by name; without it only the queries' stems are made.

**What is there already.** `.sepcli.jsonl` in the output folder, the *manifest*, gets a line for each finished track: its
outputs with their sizes and dates, the settings that change samples or files, the version of the engine, and the content
of the input and of the queries (hashed once, then known by size and date). The device, the batch size, `--template` and
what is printed are not among these settings. So each file is judged by itself:

| a file in the output folder | without options | `--no-resume` | `--force` |
|---|---|---|---|
| made from the same input, with the same settings | stays | made again | made again |
| made from the same input, with other settings, as a part of it, or by another version of the engine | replaced, with a notice | the same | the same |
| made from an older version of the same input or query file | replaced, with a notice | the same | the same |
| one of these, but changed since (another size or date) | refused, 2; with the same settings it stays | refused, 2 | replaced |
| made from another input or query | refused, 2 | refused, 2 | replaced |
| not made by sepcli | refused, 2 | refused, 2 | replaced |

A track of which all stems stay is skipped; of others, only the stems that are missing are made. If nothing is missing
but submixes (the rest, an `instrumental` and those of `--submix`, without gains above 1) of stems that stand, these are
added up, and no model is loaded. This is what a new run would give, within the last digit of the files; where they hold less than that (lossy formats, 16 bits at
another rate than the input's or for an input of more bits), the model makes it. All stems of a track have one level: if
one of them would clip, those that stand are made again with it, with a notice. With `--sum exact` each file depends on
all others, so there a track is made as a whole. A submix whose sum has changed is replaced, with a notice.

A refusal comes before any work. Stems appear under their names only when all stems of a track are complete, so after a
kill or a power cut the same command goes on where it stopped.

**The player.** `--player` writes `index.html` into each track's own folder: a page that plays the stems in a browser,
from the disk, without a network. Each stem has a waveform, mute, solo, level and pan; there is a loop, and the mix as it
is heard can be saved as a WAV of 16 bits (of the loop, while it is on). All keys stand at the foot of the page. The
sounds in it are MP3 of 192 kbit/s (96 for mono stems), which all browsers decode, more than two channels brought to
two. A page takes about 2 MB a minute and stem:

| length | what is written | |
|---|---|---|
| up to 1 minute | `index.html` | one file, which can be sent to somebody |
| up to 12 minutes | `index.html`, `player/STEM.js` | all stems on one clock, together to the sample; in memory they take 21 MB a minute and stem |
| longer | `index.html`, `player/STEM.mp3` (1.4 MB a minute) | each stem on a clock of its own, some hundredths of a second apart; no pan, no saved mix. The page says so |

`--dry-run` names the page, and the check of the disk before the work counts what it takes.

The page shows the stems of the run that wrote it; a submix that would sound together with its own stems is muted at
first. It is written when they stand, so a page that can't be written costs
no stem (a warning says why), and `--player` on stems that stand adds it without separating again. A run that replaces a
stem writes its page anew with `--player`, and removes it without. An `index.html` that sepcli did not make stays,
except with `--force`. The output folder gets a page with all tracks below it and a search, and `sepcli open DIR` opens
whichever page DIR has. `--template` must give each track a folder of its own.

**Stem files.** `--format stem.mp4` writes one file a track for DJ programs (NI Stems: Traktor, Mixxx and others),
`MODEL/TRACK.stem.mp4`. Its tracks are the mix, which other players play alone, and four stems that add up to it:

| the stems of the run | drums | bass | everything else | vocals |
|---|---|---|---|---|
| drums, bass, other, vocals | drums | bass | other | vocals |
| with guitar and piano besides | drums | bass | other, with guitar and piano | vocals |
| vocals, instrumental | silence | silence | instrumental | vocals |
| `-t vocals` | silence | silence | no_vocals | vocals |
| guitar, bass, vocals of more (`-t`) | guitar | bass | rest | vocals |

The stem for everything else is the mix minus the three others, as with `--sum exact`. If the model makes more than fit,
a notice says which are in it. The tracks are AAC of 256 kbit/s each (`--bitrate`), or ALAC with `--bit-depth 16` or `24`:
then the integers of the four add up to those of the mix, and the mix is the input (Traktor on Windows reads no ALAC).
If one of the five would clip, one gain lowers all. They are stereo, also for a mono input, at 44.1 or 48 kHz;
surround is refused. The file has the tags and the cover of the input, names and colours of the stems, and the compressor
and limiter of the format turned off. `--submix`, `--skip-silent` and `--player` have no place there and end the run with
2. In `--json` the file is called `stems`; the levels are those of its tracks.

**Videos.** With `--video` the files of a video are videos: its picture, copied untouched, with a stem, the rest or a submix
as its sound. `sepcli separate song.mp4 -t instrumental --video --template "{track}_{stem}.{ext}"` writes the karaoke video
`song_instrumental.mp4`; with a model that has the stem `music`, `-t no_music --video` takes the music out of a film.

| input | output | its sound, the usual one first; `--format` chooses another |
|---|---|---|
| `.mp4` | the same | `m4a` (AAC), `opus`, `flac`, `mp3` |
| `.m4v`, `.mov` | the same | `m4a` (AAC), `mp3` |
| `.webm` | the same | `opus`, `ogg` (Vorbis) |
| `.mkv` and all others | `.mkv` | `m4a` (AAC), `opus`, `flac`, `mp3`, `ogg` |

The new sound takes the place of the audio track that was separated, with its language, and is the first and the default
one. The other audio tracks, subtitles, chapters, covers and attached files are kept, the way the picture is turned, and
the tags; what a container can't hold is named in a warning. Sound and picture stay together as they were: the sound's
first sample keeps its time, and gaps in it become silence (see below), or stay gaps up to 50 ms. Times are rounded to the container's clock, 1 ms in
Matroska and WebM. `--start`, `--duration` and `--preview` have no place here, for a copied picture can begin at a key frame
only. An input without a moving picture fails with the code `no_picture`, and so does one whose picture the container
can't hold (`video`); the others go on. Each file takes the room of the whole picture, which is counted before the run.

**What is written.** The stems have the tags, the cover and the names of channels of their input, as far as their format holds
them; one file of each format was written and read back for this table:

{formats}
The title is `TITLE (STEM)`, that of a stem file the track's. Tempo is a whole number in `m4a` and `stem.mp4`. A video keeps
the tags of its container. Left out everywhere is what describes the mix or its file, as ReplayGain does. `--no-tags` leaves
out everything.

**Productions.** The stems of a WAV or RF64, written as WAV (RF64 from 4 GiB on), keep besides what an audio workstation needs
to put them back in their place. The time reference is that of the stem's first sample. Cue points and loops are kept where
the samples stay in their places. "-" is left out; "the stem's" was changed to what is true of the stem:

{production}
**Previews.** `--preview` separates the loudest 30 seconds of each input (by the sum of squares; `--duration` sets the
length), as a track called `TRACK (preview)`. So the song itself does not replace it.

**Several processes** may share one output folder: give each the same command. A track on which one of them works is left
to it by the others, and what a killed process left is taken over. `--shard I/N` divides the inputs beforehand: 1/4, 2/4,
3/4 and 4/4 for four processes. The parts follow from a hash of the relative path, so they are the same on every machine,
whatever other files there are. Use it where several machines share a folder whose file system has no locks, or where
each has its own folder.

**Watching.** `--watch` goes on after what is in the folders: it separates what arrives there, with the model loaded once.
It needs the extra `watch` (`pip install 'sepcli[watch]'`: watchfiles).

- A file has arrived when its size and dates have stayed the same for 5 seconds. A name that ends in `.part` or `.crdownload`,
  or begins with a dot, is none of an audio file; under its final name the file arrives.
- A file that changes is separated again, and its stems are replaced. One that fails is reported, and tried again when it has
  changed, or at the next start.
- Several folders may be given, and the output folder may be in one of them. A file that sepcli wrote is never an input.
- Names stay as they are: a new file that would get those of another input's stems is told apart by `{trackext}`, `{parent}`
  or a number. Files that arrive together are told apart as in any run. A file in the way fails its own track only.
- Ctrl-C, SIGTERM and SIGHUP stop it, in the middle of a track too, and the exit code is 0, whatever failed before. The same
  command goes on from there: it separates what came meanwhile, and skips what is done.
- It ends by itself with 1 if a watched folder vanishes or is unmounted, with 5 if an output can't be written, and as any run
  does before it begins. So `Restart=on-failure` is right for systemd:

```ini
[Service]
ExecStart=/opt/sepcli/bin/sepcli separate /srv/inbox --watch -m htdemucs -o /srv/stems --progress json
Restart=on-failure
RestartSec=30
```

Where the system reports no changes (a network share), the folders are searched every 30 seconds; with the variable
`WATCHFILES_FORCE_POLLING=1` watchfiles compares them several times a second. Several processes that watch one folder share
the work. `--dry-run`, `--shard` and `-o -` don't go with it.

**A cluster.** `--ray local|auto|HOST:PORT` separates tracks side by side on the nodes of a [Ray](https://docs.ray.io) cluster:
one that is this machine and this run's only, the one that runs here, or the one with that address. It needs the extra `ray`
(`pip install 'sepcli[ray]'`) on all nodes. [At scale](scale.md) says how to begin one.

- Files, manifest, results, exit codes and Ctrl-C are as without it, and so is resuming, here or there. Results come in the
  order in which tracks end.
- Each node has to see the inputs and the output folder under the same paths, unless they are addresses: then workers fetch
  and put files themselves. The same holds for files that `--model`, `--config` or `--query` name. Weights of the catalogue
  are downloaded and checked on each node, once.
- A worker has a GPU, or so many cores as `--threads N` says (up to 4 without it); where a node's memory is for fewer workers,
  it has fewer, and a notice says so. Stems are equal to the bit to those of a
  run here with the same `--threads`, on processors of one kind.
- A track whose worker dies is begun again by another, and fails after three of them with the code `worker_died`. Nodes that
  join get workers within seconds.
- `--device` may be `auto`, `cpu` or `cuda`. `--watch`, `-o -` and `--dry-run` don't go with it.

**Addresses.** INPUT and `-o` may be addresses of an object store: `s3://bucket/albums/ -o s3://bucket/stems/`. They need the
extra `remote` (`pip install 'sepcli[remote]'`: fsspec, s3fs). Whatever protocol fsspec has is taken, with the package that it
asks for: `gs://` (gcsfs) and `az://` (adlfs) go by the same code, and have not been tried. Addresses of the web (http, ftp) are not
taken: download the file first.

- An input is copied into a work folder on this machine (in `TMPDIR`, or in the output folder if that is a local one) when its turn
  comes, and the copy is removed after the track. So no more is on the disk than what is being separated. A folder is searched as a
  local one, and names follow from the path below it.
- Stems are written in the work folder, and uploaded whole when all of the track are complete. An upload that is cut leaves nothing
  under the final name. After an error the track's files that were new are removed; a process that is killed may leave some
  of a track, each of them whole, and the next run makes the others. S3 keeps the parts of a multipart upload (files above 100 MB)
  that was killed until a lifecycle rule of the bucket removes them.
- What was made stands in the folder `.sepcli` of the output folder, an object for each track. So the same command goes on where it
  stopped, and changed inputs and settings are treated as they are locally. A change of an input, or of a stem, is seen by its
  ETag, or its date; only if that is another is the input read to compare it.
- Two processes on one such folder do not share the work, as object stores have no locks: a track that both come to at the same
  time is made twice, and the later stems stay. Give each its own part with `--shard`.
- Credentials, region and endpoint are the library's business: for S3 what AWS's own tools read, such as `AWS_PROFILE`,
  `AWS_ACCESS_KEY_ID` and, for another server, `AWS_ENDPOINT_URL`. A password in an address is shown nowhere.
- A busy server, a cut or a slow transfer is tried again, for about a minute. What stays wrong (no such bucket, a denied or expired key,
  no server) is one sentence: a failed input, exit code 1, or an output that ends the batch, 5. A missing package is 4, before any work.
- With `--ray` each worker fetches its input into the work folder of its node (`TMPDIR` there), and puts its stems into
  `.sepcli/aside` of the output folder. The process that was started gives them their names, by copies that the store makes.
  What a killed run has left in `aside` is removed at the end of the next one with `--ray` that is a day younger. Workers have
  the credentials of their node.
- `--player` and `--watch` don't go with addresses, and `--query`, `--catalog` and `--config` take paths. A submix of stems that stand
  at an address is made by the model, and not by reading them again.

**Failures.** An input that fails is reported and the next one begins. An output that can't be written ends the
batch.

**Damaged inputs.** A file is read to its last byte, whatever its header states. What does not decode becomes silence of
the same length, so that all that follows stays in time, and the result says how much it was and where. The track is
then `damaged`: its stems are written, the exit code is 1, and it has a line of its own at the end. `--strict` writes
nothing for such a track and calls it failed. The next run skips it like a finished one, as long as the input stays as
it is.

**Joined files and times.** Recordings that were joined into one file (MP3s, chained Ogg) are read through; a later part
is brought to the rate and the channels of the first. In a video, sound that begins after the picture gets silence
before it. Where the times of packets go forward by more than 50 ms, silence stands for the sound that is missing there;
times that go backwards, or forward by more than ten minutes, are ignored with a word.

**Audio tracks.** Of a file with several, the one that is marked as its default is taken (else the first), and the result
says so. `--audio-track` takes another one, by its number, language or title.

## Results as JSON

`--json` prints one object for every input (of this shard) on standard output, each on a line of its own, in the order
in which they end. The lines are ASCII. Bytes of a name that are not UTF-8 are escaped as lone surrogates, as in
Python's `os.fsdecode`.

| key | value |
|---|---|
| `input` | the path as found, `-` for standard input |
| `status` | `done`, `damaged` (stems are there, sound was lost), `skipped` or `failed` |
| `outputs` | paths by stem or submix; `{}` for a failed input |
| `audio_seconds`, `seconds` | length of the audio that was separated; time that the work took |
| `realtime` | `audio_seconds` / `seconds` |
| `device`, `precision` | the device that computed it, and in which precision |
| `gain` | the common gain of all stems and submixes; 1.0 unless one of them would have clipped |
| `silent` | the stems that `--skip-silent` left out; they have `levels`, but no path in `outputs` |
| `player` | with `--player`: the page that plays the stems; else `null` |
| `levels` | `{stem: {...}}` of each stem (see below) |
| `options` | the model's own options (`-O`) as they were used, including values that follow from others; `{}` if it has none |
| `damaged_seconds` | how much sound of the input does not decode, or is missing at its end |
| `warnings` | a list of objects with a `code` (see below) and a `message`, a sentence |
| `error` | `null`, or `code` (a stable word), `message`, `remedy` |

| in `levels` | what it says of the stem as it is written, all channels together |
|---|---|
| `peak_dbfs` | the largest sample; 0 is full scale; `null` if every sample is 0 |
| `rms_dbfs` | the root of the mean square, on the same scale |
| `lufs` | the integrated loudness of ITU-R BS.1770-4, gated; `null` if no block of 400 ms is above -70 LUFS |
| `silence` | the share of silent time: of windows of 100 ms whose RMS is below -60 dBFS; 1 is silent throughout |

A lossy file is measured before it is encoded. A skipped track has the levels that were noted when it was made.

| code of a warning | what it says |
|---|---|
| `damaged` | places that do not decode; silence stands there |
| `cut_short` | the file ends before what its header states, or within a packet |
| `gap` | the file holds no sound for some time; silence stands there |
| `late_start` | the sound begins after the picture; silence stands before it |
| `timestamps` | times that can't be right were ignored |
| `joined` | another recording begins in the same file |
| `audio_track` | which of several audio tracks was taken |
| `changed` | a rate or a way of clipping that the format does not allow |
| `tags` | tags that could not be written |
| `channels` | channels without known names, or with other places in the files |
| `clamped`, `sum` | samples beyond full scale were cut off; the stems do not add up there |
| `lowered` | all stems were lowered by the common gain, and which of them would have clipped |
| `video` | what the videos could not keep: tracks that their container can't hold |
| `player` | why the player's page was not written; the stems are there |

The first two make a track `damaged`.

All keys are always there; a value that does not apply is `null`. If the run was stopped or the disk was full, the
inputs that it did not reach have the error code `not_done`. If the whole run fails after the inputs are known (no
model, no device, files in the way), every input gets this error. If it fails before that (a bad option, an unknown
model or stem), there is one object whose `input` is `null`; `--json` of the other commands does the same.

`--dry-run --json` prints the same objects, with the status `planned` instead of `done`, and four more keys: `action`
(`separate`, `replace`, `skip`, `refuse`), `model`, `license` and `download_bytes`.

## Events as JSON

`--progress json` turns all of standard error into one object a line, an *event*; so does `--json` of `train` and
`distill`. [events.schema.json](events.schema.json) is their JSON Schema. All keys of an event are always there.
[Python](python.md#progress-of-another-process) has an example of a program that reads them.

"""
