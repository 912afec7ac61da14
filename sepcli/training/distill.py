"""What a student network learns from a teacher, besides true stems or instead of them.

    output        music -> teacher -> cache/TRACK/{stem}.flac -> an ordinary training on these stems
    consistency   stems -> a training with an objective that asks the teacher; the student begins as its teacher

Knows how the pieces fit together. batch/jobs.py separates and keeps a manifest, so that a second run uses the
stems of the first. train.py trains; "consistency" is only another objective. The cached stems add up to the
music, sample by sample: an example from one track is that music itself, and examples mixed from several tracks
are additional music.
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
from sepcli.errors import InputError, OutputError, UsageError, parameter, require
from sepcli.sound.suffixes import AUDIO_SUFFIXES
from sepcli.training.config import TrainConfig
from sepcli.training.setup import make_network, make_objective
from sepcli.weights.catalog import load_catalog

OTHER = "other"  # the student's stem for all teacher's stems that it has no name for
CONSISTENCY = "consistency"  # the name of the objective, in families that have such students


@dataclass(frozen=True)
class Lessons:
    """Stems that a teacher made: where they are, and which files it could not separate."""

    sources: tuple[str, ...]  # the teacher's stems
    folders: tuple[Path, ...]  # each with TRACK/STEM.flac
    failures: tuple[Result, ...]

    def data(self, student: Sequence[str]) -> tuple[DataSource, ...]:
        """The stems as the student's data. UsageError where it makes a stem that the teacher does not."""
        missing = [name for name in student if name not in self.sources]
        # A student of one stem hears all others as the rest of the mix.
        rename = {name: OTHER for name in self.sources if name not in student} if len(student) > 1 else {}
        if missing or (rename and OTHER not in student):
            raise UsageError(
                f"The teacher makes {', '.join(self.sources)}, and the student {', '.join(student)}.",
                remedy="The student must make stems of the teacher's. All others go into its `other`, if it "
                "has one. Set model.config.sources.",
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
    """The teacher's stems of every file and folder of `music`. Stems that are in `cache` already are used.

    teacher: as for `separate --model`. watch: a context that gives the Listener of the separation. InputError
    where nothing could be separated; OutputError where the cache can't be written; ModelError and DeviceError
    as for `separate`.
    """
    files = OutputSpec("flac", "16", sum="exact", tags=False)
    # A data set, so stems of another teacher are replaced and not put beside these.
    request = Request(teacher, cache, files, template="{track}/{stem}.{ext}", device=device)
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
            remedy=f"Name audio files, or folders of them, with {parameter('data')}.",
        )
    folders = dict.fromkeys(Path(path).parent.parent for result in made for path in result.outputs.values())
    return Lessons(tuple(made[0].outputs), tuple(folders), failed)


def check_student(config: TrainConfig) -> tuple[str, ...]:
    """The student's stems. Finds out early what would stop the training after hours of separating.

    UsageError for settings that are not possible, DeviceError where a package is missing.
    """
    require("tomli_w")
    model = make_network(config.model).model
    make_objective(config, model)
    return model.sources


def taught(config: TrainConfig, student: Sequence[str], found: Lessons) -> TrainConfig:
    """The student's settings with the teacher's stems added to its data."""
    return replace(config, data=replace(config.data, train=(*config.data.train, *found.data(student))))


def matching(config: TrainConfig, teacher: str, layers: Mapping[str, str], weight: float) -> TrainConfig:
    """The settings with layers matched as well. layers: {the teacher's layer: the student's}."""
    options = {"teacher": teacher, "layers": [list(pair) for pair in layers.items()], "weight": weight}
    return replace(config, objective="matching", objective_options=options)


def in_fewer_steps(config: TrainConfig, teacher: str) -> TrainConfig:
    """The settings of a student that begins as this teacher and learns to do the same in fewer steps."""
    return replace(config, objective=CONSISTENCY, model=replace(config.model, teacher=teacher))
