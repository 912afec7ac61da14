"""How a track is cut into segments and put together again: what the user may choose, whatever the model.

Loads no torch, so a command line is judged at once. Carried whole from the user to the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

from sepcli.errors import UsageError, parameter


@dataclass(frozen=True)
class Settings:
    """The defaults are the published ones, but for shifts. UsageError for a value that can't be."""

    overlap: float = 0.25  # share of a segment that the next one covers
    segment: float | None = None  # seconds; None = the model's own
    shifts: int = 0  # passes at random offsets up to half a second, averaged; 0 = one pass, not shifted
    seed: int = 0  # of the shifts, and of models that draw noise
    batch_size: int | None = None  # segments a call; None = what the device takes
    compile: bool = False  # calls of whole segments, by torch

    def __post_init__(self) -> None:
        for name, value, allowed, fine in (
            ("overlap", self.overlap, "0 or more and less than 1", 0 <= self.overlap < 1),
            ("segment", self.segment, "more than 0 seconds", self.segment is None or self.segment > 0),
            ("shifts", self.shifts, "0 or more", self.shifts >= 0),
            ("batch_size", self.batch_size, "1 or more", self.batch_size is None or self.batch_size >= 1),
        ):
            if not fine:
                raise UsageError(
                    f"{parameter(name)} is {value}, but must be {allowed}.",
                    remedy="Leave it out, or change it.",
                )
