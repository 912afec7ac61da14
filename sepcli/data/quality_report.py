"""The files that `sepcli dataset filter` writes: a report from which the next run goes on, a list, a picture.

    report.json   settings, and the verdict on every song with its matrix; replaced as a whole after each song
    kept.txt      the names of the songs to keep, one in a line
    matrix.png    the mean matrix and the songs that break the rule most, in the colours of the decision

Knows verdicts and files; nothing of models or audio. matplotlib is imported only where the picture is drawn.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sepcli.data.quality import Matrix, Row, Rule, Verdict, violation
from sepcli.errors import OutputError, SepcliError, UsageError, from_os, parameter
from sepcli.system.files import atomic_write

REPORT, KEPT, PICTURE = "report.json", "kept.txt", "matrix.png"
VERSION = 1  # of report.json
SHOWN_SONGS = 11  # in the picture, besides the mean
_LIMITS = ("keep_above", "off_below")  # they concern the decision only: other values need no new measurement

# Colours that can be told apart without telling red from green (Okabe and Ito's blue and vermilion).
_FINE, _BROKEN, _NOT_JUDGED = "#0072b2", "#d55e00", "#dddddd"


class Report:
    """The report in a folder. `known` are the verdicts of an earlier run of the same kind, by song."""

    def __init__(self, folder: Path, made_with: Mapping[str, Any], rule: Rule, *, force: bool = False):
        """made_with: all that changes a matrix besides the rule: the data, the model, how it runs.

        UsageError where the folder has a report that was made in another way, unless `force` begins anew.
        OutputError where the folder can't be written.
        """
        self.folder, self.rule = folder, rule
        measured = {key: value for key, value in asdict(rule).items() if key not in _LIMITS}
        self.made_with = json.loads(json.dumps({**made_with, **measured}))  # as it is when it is read again
        self.verdicts: list[Verdict] = []
        self.known: dict[str, Verdict] = {}
        before = self._read()
        if before is None or force:
            pass
        elif before.get("version") != VERSION or before.get("made_with") != self.made_with:
            raise UsageError(
                f"'{folder / REPORT}' was made in another way: {self._difference(before)}.",
                remedy=f"Choose another folder ({parameter('out')}), or begin anew ({parameter('force')}).",
                code="exists",
            )
        else:
            self.known = {song["name"]: _verdict(song) for song in before["songs"]}
        with self._written():
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, verdict: Verdict) -> None:
        """Add the verdict on the next song, and write the report."""
        self.verdicts.append(verdict)
        self.write()

    def write(self) -> None:
        """Write report.json and kept.txt. Songs of an interrupted run stay in the report until their turn."""
        told = {verdict.name for verdict in self.verdicts}
        later = [verdict for name, verdict in self.known.items() if name not in told]
        self._replace(
            REPORT,
            json.dumps(
                {
                    "version": VERSION,
                    "made_with": self.made_with,
                    "keep_above": self.rule.keep_above,
                    "off_below": self.rule.off_below,
                    "mean": mean_matrix(self.verdicts),
                    "songs": [_described(verdict) for verdict in [*self.verdicts, *later]],
                },
                indent=1,
            )
            + "\n",
        )
        kept = [verdict.name for verdict in self.verdicts if verdict.status == "kept"]
        self._replace(KEPT, "".join(f"{name}\n" for name in kept))

    def finish(self, *, picture: bool = True) -> None:
        """End a whole run: forget songs that are no longer in the data, and draw the picture, if `picture`."""
        self.known = {}
        self.write()
        with self._written():
            if picture and any(verdict.matrix for verdict in self.verdicts):
                draw(self.verdicts, self.rule, self.folder / PICTURE)
            else:
                (self.folder / PICTURE).unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        """The report that is there; {} for a file that is no report, None where there is no file."""
        try:
            with open(self.folder / REPORT, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise from_os(error, self.folder / REPORT, reading=OutputError) from error
        except ValueError:
            return {}  # not ours: refused, unless forced
        return found if isinstance(found, dict) else {}

    def _difference(self, before: Mapping[str, Any]) -> str:
        """What was different when the report that is there was made."""
        then = before.get("made_with")
        if before.get("version") != VERSION or not isinstance(then, dict):
            return "it is no report of this version"
        keys = [key for key in [*self.made_with, *then] if then.get(key) != self.made_with.get(key)]
        return "; ".join(
            "it is of another model"
            if key == "weights"
            else f"its {key} is {then.get(key)}, not {self.made_with.get(key)}"
            for key in dict.fromkeys(keys)
        )

    def _replace(self, name: str, text: str) -> None:
        with self._written(), atomic_write(self.folder / name, shared=True) as beside:
            beside.write_text(text, encoding="utf-8", errors="surrogateescape")

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Turns an OSError within the context into our own error."""
        try:
            yield
        except OSError as error:
            raise from_os(error, self.folder) from error


def mean_matrix(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """The mean matrix in %: each stem's row over the songs that have one. Rows in the order of columns."""
    rows: dict[str, list[Mapping[str, float]]] = {}
    for verdict in verdicts:
        for stem, shares in verdict.matrix.items():
            rows.setdefault(stem, []).append(shares)
    parts = list(next(iter(rows.values()))[0]) if rows else []
    return {
        stem: {part: sum(row[part] for row in rows[stem]) / len(rows[stem]) for part in parts}
        for stem in parts
        if stem in rows
    }


# --- verdicts as JSON ---


def _described(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is in the report."""
    return {
        "name": verdict.name,
        "status": verdict.status,
        "reasons": list(verdict.reasons),
        "notes": list(verdict.notes),
        "error": None
        if verdict.error is None
        else {"code": verdict.error.code, "message": verdict.error.message, "remedy": verdict.error.remedy},
        "matrix": verdict.matrix,
        "segments": {row.stem: {"judged": row.judged, "all": row.segments} for row in verdict.rows},
        "audio_seconds": round(verdict.audio_seconds, 3),
        "seconds": round(verdict.seconds, 3),
        "files": dict(verdict.files),
    }


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict on a song, for JSON. The dates of its files are not part of it."""
    described = _described(verdict)
    del described["files"]
    return described


def _verdict(song: Mapping[str, Any]) -> Verdict:
    """A verdict as it was in the report: the reverse of `_described`."""
    error = song["error"]
    rows = tuple(
        Row(stem, song["matrix"].get(stem, {}), count["judged"], count["all"])
        for stem, count in song["segments"].items()
    )
    return Verdict(
        song["name"],
        rows,
        tuple(song["reasons"]),
        tuple(song["notes"]),
        None if error is None else SepcliError(error["message"], remedy=error["remedy"], code=error["code"]),
        song["audio_seconds"],
        song["seconds"],
        song["files"],
    )


# --- the picture ---


def draw(verdicts: Sequence[Verdict], rule: Rule, path: Path) -> None:
    """Draw one page: the mean matrix, then the songs that break the rule most, or come nearest to that."""
    from matplotlib.figure import Figure

    shown = sorted((v for v in verdicts if v.matrix), key=lambda v: violation(v.matrix, rule), reverse=True)
    pages: list[tuple[str, Matrix]] = [(f"mean of {len(shown)} songs", mean_matrix(shown))]
    pages += [(f"{_short(v.name)}\n{v.status}", v.matrix) for v in shown[:SHOWN_SONGS]]
    columns = min(4, len(pages))
    lines = -(-len(pages) // columns)
    parts = list(next(iter(pages[0][1].values())))
    size = 0.62 * len(parts) + 1.3  # inches a matrix
    figure = Figure(figsize=(columns * size, lines * size + 0.6), layout="constrained")
    figure.suptitle(
        f"Share of {rule.segment:g} s segments in which a part (column) is found in a stem (row), in %;"
        f" blue keeps the rule, orange breaks it, grey is not judged",
        fontsize=8,
        wrap=True,
    )
    for place, (title, matrix) in enumerate(pages, 1):
        axes = figure.add_subplot(lines, columns, place)
        axes.set_title(title, fontsize=8)
        _draw_matrix(axes, matrix, parts, [stem for stem in parts if stem in pages[0][1]], rule)
    figure.savefig(path, dpi=120)


def _draw_matrix(axes: Any, matrix: Matrix, parts: Sequence[str], stems: Sequence[str], rule: Rule) -> None:
    from matplotlib.patches import Rectangle

    for i, stem in enumerate(stems):
        for j, part in enumerate(parts):
            share = matrix.get(stem, {}).get(part)
            if share is None:
                colour, strength = _NOT_JUDGED, 1.0
            else:
                fine = share > rule.keep_above if part == stem else share < rule.off_below
                # The less is found, the fainter: a clean song is a strong diagonal on white. A cell that breaks
                # the rule is never faint, not even on the diagonal, where too little is found.
                colour, strength = (_FINE, 0.12 + 0.88 * share / 100) if fine else (_BROKEN, 0.9)
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, alpha=strength, edgecolor="white"))
            if share is not None:
                axes.text(
                    j + 0.5,
                    i + 0.5,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if strength > 0.6 else "black",
                )
    axes.set_xlim(0, len(parts))
    axes.set_ylim(len(stems), 0)
    axes.set_aspect("equal")
    axes.set_xticks([j + 0.5 for j in range(len(parts))], parts, fontsize=7, rotation=45, ha="right")
    axes.set_yticks([i + 0.5 for i in range(len(stems))], stems, fontsize=7)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _short(name: str, most: int = 28) -> str:
    """A name for the picture. A long one keeps its end, where songs of an album differ; `$` is escaped."""
    name = name.encode("utf-8", "replace").decode().replace("$", r"\$")
    return name if len(name) <= most else "…" + name[1 - most :]
