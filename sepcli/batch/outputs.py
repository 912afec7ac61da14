"""Where outputs go, decided before any work: names from a template, collisions, room on the disk.

Knows paths and the three systems' rules for names; no audio and no models. How a file gets its final name is
workspace.py's.

A name made here is legal on Linux, macOS and Windows alike, so a folder of stems can move between them, and
differs from the input's name only where it must: in the characters Windows forbids, names of its devices,
trailing dots and spaces, and in length. Names that are not UTF-8 (Linux) pass through byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePath

from sepcli.batch import DEFAULT_TEMPLATE, LAYOUTS, STEMFILE_TEMPLATE
from sepcli.errors import OutputError, UsageError, from_os, parameter

TEMPLATE_FIELDS = ("track", "stem", "ext", "model", "parent", "trackext", "tracknumber", "stemnumber")

NAME_BYTES = 255  # of one path component, on every file system in common use; see `name_limit`
_LEGIBLE = 40  # bytes of a shortened value that are left while another is longer
_FIELD = re.compile(r"\{([^{}]*)\}")
_ILLEGAL = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"]
)
_SEPARATORS = re.compile(r"[/\\]" if os.name == "nt" else "/")


# ---------------------------------------------------------------------------------------------- names


def rest_name(targets: Collection[str]) -> str:
    """The name of the residual: `no_vocals` where vocals are the only target, else `rest`."""
    return f"no_{next(iter(targets))}" if len(targets) == 1 else "rest"


def choose_template(template: str | None, layout: str | None, *, packs: bool) -> str:
    """How files are named: by the user's template, by a layout (a key of LAYOUTS), or as usual.

    packs: whether a track becomes one file. UsageError for both at once, and for a layout that can't be.
    """
    if layout is None:
        return template or (STEMFILE_TEMPLATE if packs else DEFAULT_TEMPLATE)
    if layout not in LAYOUTS:
        raise UsageError(
            f"{parameter('layout', layout)} is unknown; the choices are {', '.join(LAYOUTS)}.",
            remedy="Choose one of these.",
        )
    if template is not None:
        raise UsageError(
            f"{parameter('layout', layout)} is short for {parameter('template', LAYOUTS[layout])}, so the two "
            "can't go together.",
            remedy="Leave out one of them.",
            code="template",
        )
    if packs:
        raise UsageError(
            f"{parameter('layout', layout)} arranges files of single stems, and here a track becomes one file.",
            remedy=f"Leave it out, or name the files with {parameter('template')}.",
            code="template",
        )
    return LAYOUTS[layout]


def check_template(template: str, stems: Collection[str]) -> None:
    """Raises UsageError for a template that can't give good names, whatever the inputs are.

    stems: the names of all outputs of one track; with more than one, `{stem}` or its number must tell them
    apart.
    """
    fields = _FIELD.findall(template)
    allowed = " ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
    unknown = [name for name in fields if name not in TEMPLATE_FIELDS]
    if unknown:
        raise UsageError(
            f"The template '{template}' has the unknown field {{{unknown[0]}}}; the fields are {allowed}.",
            remedy=f"The default is {parameter('template', DEFAULT_TEMPLATE)}.",
            code="template",
        )
    parts = _SEPARATORS.split(template)
    if not parts[-1].strip():
        problem = "does not end in a file name"
    elif not parts[0] or re.match(r"[A-Za-z]:", template) or template.startswith("\\"):
        problem = "is an absolute path"
    elif any(part.strip() in ("..", ".") for part in parts):
        problem = "contains '.' or '..' as a folder"
    elif len(stems) > 1 and {"stem", "stemnumber"}.isdisjoint(fields):
        problem = f"has no {{stem}}, so {', '.join(stems)} would all get one name"
    else:
        return
    raise UsageError(
        f"The template '{template}' {problem}; it names a file inside the output folder with {allowed}.",
        remedy=f"Put folders elsewhere with {parameter('out')}; the default is "
        f"{parameter('template', DEFAULT_TEMPLATE)}.",
        code="template",
    )


def page_folder(template: str, outputs: Mapping[str, Path]) -> Path | None:
    """The track's own folder, in which its stems are; None where the template gives it none.

    It is the last folder that has the track in its name.
    """
    parts = _SEPARATORS.split(template)[:-1]
    found = [at for at, part in enumerate(parts) if "{track}" in part]
    if not found or not outputs:
        return None
    return next(iter(outputs.values())).parents[len(parts) - 1 - found[-1]]


def check_pages(template: str, tracks: Sequence[Mapping[str, Path]]) -> None:
    """Raises UsageError where the template leaves tracks without a folder of their own for the player's page.

    tracks: the paths of each by stem.
    """
    seen: set[Path] = set()
    for outputs in tracks:
        folder = page_folder(template, outputs)
        if folder is None or folder in seen:
            problem = "gives it none" if folder is None else f"gives two of them '{_printable(str(folder))}'"
            raise UsageError(
                f"{parameter('player', True)} writes a page into each track's own folder, and the template "
                f"'{template}' {problem}.",
                remedy=f"Name a folder by {{track}}, as in {parameter('template', DEFAULT_TEMPLATE)}.",
                code="template",
            )
        seen.add(folder)


def output_path(
    out: Path,
    template: str,
    values: Mapping[str, str],
    *,
    below: PurePath | str = "",
    limit: int = NAME_BYTES,
    notice: Callable[[str], None] | None = None,
) -> Path:
    """The path of one output: `out` / the template filled with `values`, with `below` before its {track}.

    template: has passed `check_template`; substitution is plain, a value is never looked at for fields.
    values: one for every field the template uses; ext and trackext without their dots.
    below: the input's folder relative to the INPUT it was found under, mirrored. It stands before the part of
        the template that names the track; before all of it where none does.
    limit: bytes a name may have there, see `name_limit`. notice: told of every name that was shortened.

    The result is always inside `out`: a value's `/` or `..` becomes an ordinary part of a name.
    """
    names: list[str] = []
    parts = _SEPARATORS.split(template)
    place = next((at for at, part in enumerate(parts) if "{track}" in part or "{parent}" in part), 0)
    for at, part in enumerate(parts):
        if at == place:
            for folder in PurePath(below).parts:
                names.append(_component("{folder}", {"folder": folder}, limit, notice))
        name = _component(part, values, limit, notice)
        if name:  # a folder like {parent} may be empty, for a file at the root of a drive
            names.append(name)
    path = out.joinpath(*names)
    if path == out:
        raise UsageError(
            f"The template '{template}' gives no file name for the track '{values.get('track', '')}'.",
            remedy="Put {track} into the template.",
            code="template",
        )
    return path


def legal_name(name: str) -> str:
    """`name` with only what some system refuses replaced by underscores."""
    name = _ILLEGAL.sub("_", name)
    kept = name.rstrip(". ")
    name = kept + "_" * (len(name) - len(kept))
    base, dot, suffix = name.partition(".")
    if base.rstrip(" ").upper() in _DEVICES:  # Windows takes `nul.wav` for the device, whatever the suffix
        name = f"{base}_{dot}{suffix}"
    return name


def short_name(name: str) -> str:
    """A legal name for a copy of a file, with its suffix and as much else of its name as fits everywhere."""
    stem, suffix = os.path.splitext(legal_name(name))
    return _cut(stem, 120) + _cut(suffix, 20)


def name_key(name: str) -> str:
    """Equal for names that are one file on some system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def name_limit(folder: Path) -> int:
    """How many bytes a name in `folder` (which need not exist yet) may have.

    255 nearly everywhere, 143 on an encrypted home folder. Where the system counts UTF-16 units (Windows,
    macOS), 255 bytes of UTF-8 always fit.
    """
    try:
        return min(NAME_BYTES, os.pathconf(_nearest(folder), "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):  # no pathconf on Windows
        return NAME_BYTES


def _component(part: str, values: Mapping[str, str], limit: int, notice: Callable[[str], None] | None) -> str:
    """One folder or file name: fields filled, made legal, the longest value shortened until it fits."""
    fields = _FIELD.findall(part)
    values = {field: _ILLEGAL.sub("_", values[field]) for field in fields}
    full = name = legal_name(_FIELD.sub(lambda match: values[match[1]], part))
    shortened = dict(values)
    while (excess := len(os.fsencode(name)) - limit) > 0:
        longest = max(fields, key=lambda field: len(os.fsencode(shortened[field])), default=None)
        room = 0
        if longest is not None:
            size = len(os.fsencode(shortened[longest]))
            room = size - -(-excess // fields.count(longest))
            if room < _LEGIBLE < size:  # then another one gets shorter too
                room = _LEGIBLE
        if longest is None or room < 16:
            raise UsageError(
                f"The template part '{part}' alone fills the {limit} bytes that a file name may have.",
                remedy=f"Shorten {parameter('template')}.",
                code="template",
            )
        # The hash is of the whole value, so two long names that differ only at the end stay two.
        digest = hashlib.sha256(os.fsencode(values[longest])).hexdigest()[:8]
        shortened[longest] = f"{_cut(values[longest], room - 9)}~{digest}"
        name = legal_name(_FIELD.sub(lambda match: shortened[match[1]], part))
    if name != full and notice:
        notice(f"The name '{_printable(full)}' is longer than {limit} bytes; it became '{_printable(name)}'.")
    return name


def _cut(text: str, size: int) -> str:
    """The longest beginning of `text` of at most `size` bytes that splits no UTF-8 character."""
    raw = os.fsencode(text)
    if len(raw) <= size:
        return text
    end = size
    while end > max(0, size - 3) and raw[end] & 0xC0 == 0x80:  # a continuation byte would open the remainder
        end -= 1
    return os.fsdecode(raw[:end])


def _printable(text: str) -> str:
    """For messages: bytes that are not UTF-8 as question marks, since no terminal or JSON can hold them."""
    return text.encode("utf-8", "replace").decode()


# ---------------------------------------------------------------------------------------------- collisions


def collision_key(path: Path, *, fold: bool | None = None) -> str:
    """A key that is equal for two paths which would be the same file.

    fold: whether the file system ignores case, as `folds_case` finds out; None = by the system's custom.
    Accents composed or decomposed count as one always: macOS stores them alike, and two names that look the
    same help nobody.
    """
    text = unicodedata.normalize("NFC", os.path.abspath(path))
    if fold is None:
        fold = sys.platform in ("darwin", "win32")
    return unicodedata.normalize("NFC", text.casefold()) if fold else text


def folds_case(folder: Path) -> bool:
    """Whether the file system of `folder` (which need not exist yet) takes `A` and `a` for one name.

    Found out from names that are there, without writing: an exFAT stick folds on Linux, a Mac's disk may not.
    """
    there = _nearest(folder)
    try:
        with os.scandir(there) as entries:
            names = [entry.path for entry, _ in zip(entries, range(64), strict=False)]
    except OSError:
        names = []
    for name in [*names, os.fspath(there)]:
        head, tail = os.path.split(name)
        other = os.path.join(head, tail.swapcase())
        if other == name:
            continue
        try:
            return os.path.samefile(name, other)
        except OSError:
            return False
    return sys.platform in ("darwin", "win32")


# ---------------------------------------------------------------------------------------------- room


def check_writable(folder: Path) -> None:
    """Create `folder` and a file in it, then remove the file. OutputError where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".sepcli-", dir=folder)
        os.close(descriptor)
        os.remove(name)
    except OSError as error:
        raise from_os(error, folder) from error


def check_space(folder: Path, needed: int, *, work: bool = False) -> None:
    """Raises OutputError `disk_full` if the file system of `folder` has less than `needed` bytes free.

    work: they are needed for unfinished files only, on the way to or from an address.
    """
    free = shutil.disk_usage(_nearest(folder)).free
    if free < needed and work:
        raise OutputError(
            f"One track needs about {_size(needed)} in '{_printable(str(folder))}' while it is separated, "
            f"but only {_size(free)} are free.",
            remedy="Free some space, or name a folder on another disk in the variable TMPDIR.",
            code="disk_full",
        )
    if free < needed:
        raise OutputError(
            f"The results need about {_size(needed)} in '{_printable(str(folder))}', "
            f"but only {_size(free)} are free.",
            remedy=f"Free some space, choose another folder with {parameter('out')}, or write smaller files: "
            f"{parameter('format', 'flac')}.",
            code="disk_full",
        )


def _nearest(folder: Path) -> Path:
    """`folder`, or the closest folder above it that exists."""
    folder = Path(os.path.abspath(folder))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _size(count: int) -> str:
    """Bytes for people: 1.5 GB."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} bytes"
