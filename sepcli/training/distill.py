"""What a student learns from a teacher besides, or instead of, true stems.

    output        music -> teacher -> cache/TRACK/{stem}.flac -> an ordinary training on those stems
    consistency   stems -> a training whose objective asks the teacher, as which the student begins

Knows how the pieces fit together: separating is jobs.py's, with its manifest, so a second run finds what the
first one made; training is train.py's, and the second kind only another objective of it. The cached stems add
up to the music, sample by sample, so an aligned example is the music itself; examples mixed from several
tracks' stems are more music for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from sepcli.batch.jobs import run
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.request import Batch, Request, look_up
from sepcli.batch.results import Listener, Result
from sepcli.data.mixing import DataSource
from sepcli.errors import InputError, OutputError, UsageError, require
from sepcli.sound.decode import AUDIO_SUFFIXES
from sepcli.training.config import TrainConfig
from sepcli.training.setup import make_network, make_objective
from sepcli.weights.catalog import load_catalog

OTHER = "other"  # of a student: takes what it has no name for
CONSISTENCY = "consistency"  # the objective that a family of such students has


@dataclass(frozen=True)
class Lessons:
    """Stems that a teacher made: where they are, and what could not be separated."""

    sources: tuple[str, ...]  # the teacher's
    folders: tuple[Path, ...]  # each with TRACK/STEM.flac
    failures: tuple[Result, ...]

    def data(self, student: Sequence[str]) -> tuple[DataSource, ...]:
        """As a training reads them. UsageError where the student makes a stem that the teacher doesn't."""
        missing = [name for name in student if name not in self.sources]
        rename = {name: OTHER for name in self.sources if name not in student}
        if missing or (rename and OTHER not in student):
            raise UsageError(
                f"The teacher makes {', '.join(self.sources)}, and the student {', '.join(student)}.",
                remedy="The student's stems must be the teacher's; only what goes into its `other` may have "
                "more names. Set model.config.sources.",
                code="other_sources",
            )
        return tuple(DataSource(str(folder), "stems", rename=rename) for folder in self.folders)


def lessons(
    teacher: str,
    music: Sequence[str],
    cache: Path,
    *,
    device: str = "auto",
    watch: Callable[[Batch], AbstractContextManager[Listener]] = lambda batch: nullcontext(Listener()),
) -> Lessons:
    """The teacher's stems of every file and folder of `music`, from `cache` where they are there already.

    teacher: as for `separate --model`. watch: gives the Listener of that work. InputError where nothing could
    be separated; OutputError where the cache can't be written; ModelError, DeviceError as `separate`.
    """
    request = Request(teacher, cache, OutputSpec("flac", "16", sum="exact", tags=False), device=device)
    batch = look_up(request, list(music), load_catalog(()), AUDIO_SUFFIXES)
    with watch(batch) as listener:
        results = list(run(batch, listener))
    for result in results:
        if isinstance(result.error, OutputError):
            raise result.error
    made = [result for result in results if result.error is None]
    failed = tuple(result for result in results if result.error is not None)
    if not made:
        why = f": {failed[0].error.message}" if failed and failed[0].error else ""
        raise InputError(
            f"The teacher could separate nothing{why}",
            code="no_lessons",
            remedy="Name audio files, or folders of them, with --data.",
        )
    folders = dict.fromkeys(Path(path).parent.parent for result in made for path in result.outputs.values())
    return Lessons(tuple(made[0].outputs), tuple(folders), failed)


def check_student(config: TrainConfig) -> tuple[str, ...]:
    """The student's stems. To be called before a long lesson: all that could stop the training after it.

    UsageError where the student or its objective can't be, DeviceError where a package is missing.
    """
    require("tomli_w")
    model = make_network(config.model).model
    make_objective(config, model)
    return model.sources


def taught(config: TrainConfig, student: Sequence[str], found: Lessons) -> TrainConfig:
    """The student's configuration with the lessons as its data, besides those that it has."""
    return replace(config, data=replace(config.data, train=(*config.data.train, *found.data(student))))


def matching(config: TrainConfig, teacher: str, layers: Mapping[str, str], weight: float) -> TrainConfig:
    """The configuration with layers of the teacher matched besides: {the teacher's: the student's}."""
    options = {"teacher": teacher, "layers": [list(pair) for pair in layers.items()], "weight": weight}
    return replace(config, objective="matching", objective_options=options)


def in_fewer_steps(config: TrainConfig, teacher: str) -> TrainConfig:
    """The configuration of a student that begins as this teacher and learns to go its way in fewer steps."""
    return replace(config, objective=CONSISTENCY, model=replace(config.model, teacher=teacher))
