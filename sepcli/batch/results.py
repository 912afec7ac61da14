"""What became of each input, and who hears of it while a run goes on. Knows nothing of how the work is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from sepcli.batch.names import Named, Track
from sepcli.batch.request import Batch
from sepcli.errors import SepcliError, Warned

if TYPE_CHECKING:
    from sepcli.engine.device import Device, Precision

Status = Literal["done", "damaged", "skipped", "failed"]
DONE: Final = "done"
DAMAGED: Final = "damaged"  # stems of what decodes
SKIPPED: Final = "skipped"
FAILED: Final = "failed"
NOT_DONE = "not_done"  # the error code of inputs that the run did not come to


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input."""

    input: str
    status: Status
    outputs: dict[str, str] = field(default_factory=dict)  # stem -> path
    audio_seconds: float | None = None  # of the input, or its part
    seconds: float | None = None  # that the work took
    device: str | None = None
    precision: str | None = None
    gain: float | None = None  # common to all its stems
    damaged_seconds: float = 0.0  # of the input that could not be decoded
    warnings: list[Warned] = field(default_factory=list)
    error: SepcliError | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # the model's own, as they were used
    kept: tuple[str, ...] = ()  # stems among `outputs` that stood already
    levels: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)  # stem -> as in JSON
    silent: tuple[str, ...] = ()  # stems that were left out because they are silent
    player: str | None = None  # the page that plays the stems, where it was asked for

    @property
    def realtime(self) -> float | None:
        """Seconds of audio in one second of work."""
        return self.audio_seconds / self.seconds if self.audio_seconds and self.seconds else None

    @property
    def reached(self) -> bool:
        """Whether the run came to this input at all."""
        return self.error is None or self.error.code != NOT_DONE

    @property
    def exit_code(self) -> int:
        """The exit code that it asks for; 0 if the input was not reached: what stopped the run has one."""
        if self.status == DAMAGED:
            return 1
        return self.error.exit_code if self.error is not None and self.reached else 0

    def as_json(self) -> dict[str, Any]:
        """The object of `--json`: always the same keys."""
        error = self.error and {
            "code": self.error.code,
            "message": self.error.message,
            "remedy": self.error.remedy,
        }
        return {
            "input": self.input,
            "status": self.status,
            "outputs": self.outputs,
            "audio_seconds": _rounded(self.audio_seconds),
            "seconds": _rounded(self.seconds),
            "realtime": _rounded(self.realtime),
            "device": self.device,
            "precision": self.precision,
            "gain": self.gain,
            "silent": list(self.silent),
            "player": self.player,
            "levels": {stem: dict(levels) for stem, levels in self.levels.items()},
            "options": dict(self.options),
            "damaged_seconds": _rounded(self.damaged_seconds),
            "warnings": [{"code": warning.code, "message": str(warning)} for warning in self.warnings],
            "error": error,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class Listener:
    """Is told what happens, in order; this one ignores it. It is called by the thread that runs the batch."""

    def notice(self, text: str) -> None:
        """A sentence the user should see."""

    def named(self, named: Named) -> None:
        """The stems and where they go are known."""

    def device(self, device: Device, precision: Precision) -> None:
        """The device and the precision are chosen."""

    def downloading(self) -> AbstractContextManager[Callable[[int, int | None], None] | None]:
        """A context around the loading of the model. It gives callback(bytes done, bytes in all or None)."""
        return nullcontext()

    def loaded(self, origin: str, hashes: Sequence[str]) -> None:
        """The model is ready. origin: of its weights; hashes: the SHA-256 of each of their files."""

    def expected(self, seconds: float) -> None:
        """There are about so many seconds of audio to separate in all."""

    def arrived(self, tracks: Sequence[Track]) -> None:
        """These have arrived in a watched folder, and are separated now."""

    def waiting(self, folders: Sequence[str]) -> None:
        """Everything in the watched folders has had its turn; the run waits for more."""

    def started(self, track: Track, number: int, count: int) -> None:
        """The track `number` of `count` begins."""

    def progress(self, track: Track, done: float, total: float | None) -> None:
        """So many audio seconds of the track are done, of `total`, None while unknown."""

    def failed(self, error: BaseException) -> None:
        """An exception that nobody foresaw was raised; its traceback may be of use."""


def unfinished(batch: Batch, results: Collection[Result], why: str | SepcliError) -> list[Result]:
    """A Result for each input that has none yet, because the run was stopped or could not begin."""
    have = {result.input for result in results}
    left = [source.name for source in batch.sources if source.name not in have]
    if isinstance(why, SepcliError):
        return [Result(name, FAILED, error=why) for name in left]
    return [not_done(name, why) for name in left]


def not_done(name: str, why: str) -> Result:
    """The Result of an input that the run did not come to."""
    return Result(
        name,
        FAILED,
        error=SepcliError(f"Not done: {why}.", code=NOT_DONE, remedy="The same command goes on from here."),
    )
