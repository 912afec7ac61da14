"""Options of other separators: taken for ours where they mean the same, else answered with ours in a sentence.

A row says how they write it and what it is here. Words in capitals are values. What begins with "-" is ours,
"" is what sepcli does anyway, and everything else is the answer. A value in small letters is that value only;
a name with * is all that begin so. docs/cli.md is made from these rows. Options that are called the same here
have no row: -o, --device, --shifts, --overlap, --segment and --two-stems of demucs, -m of audio-separator. A
name that two of them have (-d, -s) is taken for demucs'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sepcli.errors import UsageError

_PIECES = "Every track is separated in pieces; --segment SECONDS makes them shorter."
_LIST = "Use `sepcli models list`."
_REDUCED = "Use --precision float16; the default, auto, takes it where model and device are made for it."
_BLENDED = "Name all models in one place: -m A+B, with weights -m A:2+B."

DEMUCS = {
    "-n, --name NAME": "-m NAME",
    "-d DEVICE": "--device DEVICE",
    "--flac": "--format flac",
    "--mp3": "--format mp3",
    "--mp3-bitrate KBITS": "--bitrate KBITS",
    "--mp3-preset N": "Leave it out; --bitrate decides how good an MP3 is.",
    "--int24": "--bit-depth 24",
    "--float32": "--bit-depth 32f",
    "--filename TEXT": "--template {model}/TEXT",
    "--clip-mode clamp": "--clip clamp",
    "--clip-mode none": "--clip none",
    "--clip-mode rescale": "Use --clip gain, the default; it lowers all stems of a track alike.",
    "--other-method minus": "",
    "--other-method add": "Leave it out; the rest is the mix minus the stem (minus) here.",
    "--other-method none": "Use -t STEM in place of --two-stems STEM; it writes no rest.",
    "--no-split": _PIECES,
    "-j, --jobs N": "Leave it out; sepcli uses all cores, and several processes may share an output folder.",
    "--repo DIR": "Name the file of the model: -m FILE, or -m NAME=FILE for a model of the catalogue.",
    "-s, --sig SIG": "Name the file of the model: -m FILE.",
    "--list-models": _LIST,
}

AUDIO_SEPARATOR = {
    "--model_filename NAME": "-m NAME",
    "--output_dir DIR": "-o DIR",
    "--output_format FORMAT": "--format FORMAT",
    "--output_bitrate KBITS": "--bitrate KBITS",
    "--sample_rate HZ": "--sample-rate HZ",
    "--single_stem STEM": "-t STEM",
    "--demucs_shifts N": "--shifts N",
    "--demucs_overlap SHARE": "--overlap SHARE",
    "--demucs_segment_size N": "Use --segment SECONDS, or leave it out.",
    "--demucs_segments_enabled BOOL": _PIECES,
    "--chunk_duration SECONDS": "Leave it out; memory does not grow with the length of a file.",
    "--custom_output_names JSON": "Use --template TEXT; it names the files of all stems.",
    "--normalization PEAK": "Leave it out; levels stay as they are, and --clip says what happens to peaks.",
    "--amplification PEAK": "Leave it out; levels stay as they are.",
    "--invert_spect": "Leave it out; --rest writes the mix minus the stems, sample by sample.",
    "--use_soundfile": "",
    "--use_autocast": _REDUCED,
    "--use_native_fp16": _REDUCED,
    "--use_torch_compile": "Leave it out; nothing is compiled here.",
    "--use_directml": "Use --device cpu, cuda, mps or xpu; `sepcli doctor` shows what there is.",
    "--extra_models NAMES": _BLENDED,
    "--ensemble_algorithm uvr_max_spec": "--blend max_fft",
    "--ensemble_algorithm uvr_min_spec": "--blend min_fft",
    "--ensemble_algorithm ensemble_wav": "Use --blend WAY; the quieter one of whole stretches is none of them.",
    "--ensemble_algorithm WAY": "--blend WAY",
    "--ensemble_weights NUMBERS": _BLENDED,
    "--ensemble_preset NAME": "-m NAME",
    "--list_presets": "Use `sepcli models list --search preset`.",
    "--model_file_dir DIR": "Set HF_HOME to the folder for downloads.",
    "--download_model_only": "Use `sepcli models download NAME`.",
    "-l, --list_models": _LIST,
    "--list_filter STEM": "Use `sepcli models list --target STEM`.",
    "--list_limit N": _LIST,
    "--list_format FORMAT": "Use `sepcli models list --json`.",
    "-e, --env_info": "Use `sepcli doctor`.",
    "--debug": "Use -vv, or -q to hear of errors only.",
    "--log_level LEVEL": "Use -v, -vv or -q.",
    "--mdx_enable_denoise": "-O denoise=true",
    "--mdx_* VALUE": "Use --overlap SHARE, --segment SECONDS or --batch-size N; they are for all models.",
    "--vr_* VALUE": "Leave it out; it is for VR models, which sepcli does not have.",
    "--mdxc_* VALUE": "Use --overlap SHARE, --segment SECONDS or --batch-size N; they are for all models.",
}

SPLEETER = {
    "-p, --params_filename NAME": "-m NAME",
    "--output_path DIR": "-o DIR",
    "-c, --codec FORMAT": "--format FORMAT",
    "-b KBITS": "--bitrate KBITS",
    "-f, --filename_format TEXT": "--template TEXT",
    "--offset SECONDS": "--start SECONDS",
    "--mwf": "Use -O mwf=true with a model of Spleeter.",
}

PEERS: Mapping[str, Mapping[str, str]] = {
    "demucs": DEMUCS,
    "audio-separator": AUDIO_SEPARATOR,
    "spleeter": SPLEETER,
}

_FIELDS = {"{filename}": "{track}", "{instrument}": "{stem}", "{codec}": "{ext}"}


def _template(text: str) -> str:
    """Spleeter's fields as ours."""
    for theirs, ours in _FIELDS.items():
        text = text.replace(theirs, ours)
    return text


def _kbits(text: str) -> str:
    return text.lower().removesuffix("k")


# Their values as ours, where they are written differently.
_CHANGES = {
    "-b": _kbits,  # 128k
    "-c": str.lower,
    "--codec": str.lower,
    "-f": _template,
    "--filename_format": _template,
    "--output_format": str.lower,  # WAV
    "--output_bitrate": _kbits,  # 320k
    "--model_filename": lambda text: text.removesuffix(".yaml"),  # htdemucs_ft.yaml
}


@dataclass(frozen=True)
class Theirs:
    """An option of another separator, with what it is here."""

    peer: str
    value: str  # its name, such as NAME; "" for a flag
    ours: Mapping[str, str]  # by its value, where the value matters; else by ""


@cache
def _table() -> dict[str, Theirs]:
    """Every name that they have."""
    table: dict[str, Theirs] = {}
    for peer, rows in PEERS.items():
        for theirs, ours in rows.items():
            for text in theirs.split(", "):
                name, value = names_and_value(text, theirs)
                literal = value if value.islower() else ""
                known = table.get(name)
                table[name] = Theirs(peer, value, {**(known.ours if known else {}), literal: ours})
    return table


def names_and_value(text: str, row: str) -> tuple[str, str]:
    """One name of a row, and the value at the row's end: ("-n", "-n, --name NAME") -> ("-n", "NAME")."""
    last = row.split()[-1]
    return text.split()[0], "" if last.startswith("-") else last


def translated(arguments: Sequence[str], valued: Collection[str]) -> list[str]:
    """The arguments of `separate` with our options in place of theirs.

    valued: our options that take a value, which is not looked at. UsageError for an option of theirs that means
    something else here.
    """
    return [word for words in _translated(list(arguments), valued) for word in words]


def _translated(left: list[str], valued: Collection[str]) -> Iterator[list[str]]:
    while left:
        word = left.pop(0)
        if word == "--":
            yield [word, *left]
            return
        if word in valued:
            yield [word, *left[:1]]
            del left[:1]
            continue
        found = _find(word)
        if found is None:
            yield [word]
            continue
        name, theirs, value = found
        if value is None and theirs.value and left:
            value = left.pop(0)
        yield _ours(name, theirs, value)


def _find(word: str) -> tuple[str, Theirs, str | None] | None:
    """The option of theirs in a word, with the value if it stands in the same word: --name=NAME, -nNAME."""
    if not word.startswith("-"):
        return None
    table = _table()
    name, equals, value = word.partition("=")
    if not word.startswith("--") and word[:2] in table and table[word[:2]].value and len(word) > 2:
        return word[:2], table[word[:2]], word[2:].removeprefix("=")
    starred = next((key for key in table if key.endswith("*") and name.startswith(key[:-1])), "")
    theirs = table.get(name) or table.get(starred)
    return None if theirs is None else (name, theirs, value if equals else None)


def _ours(name: str, theirs: Theirs, value: str | None) -> list[str]:
    """UsageError with the answer where there is no equal."""
    if "" not in theirs.ours and value not in theirs.ours:
        raise UsageError(
            f"{theirs.peer} takes {', '.join(theirs.ours)} with {name}, not {value or 'nothing'}.",
            remedy="`sepcli separate --help` has our own options.",
            code="peer_option",
        )
    ours = theirs.ours.get(value or "", theirs.ours.get("", ""))
    if ours and not ours.startswith("-"):
        raise UsageError(
            f"{name} is an option of {theirs.peer} that sepcli does not have.", remedy=ours, code="peer_option"
        )
    changed = _CHANGES.get(name, str)(value) if value is not None else ""
    if value is None and theirs.value:  # forgotten: our option says so
        return ours.split()[:1]
    placeholder = theirs.value if theirs.value.isupper() else None
    return [word.replace(placeholder, changed) if placeholder else word for word in ours.split()]
