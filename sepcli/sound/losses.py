"""What a file lacks of the sound that it once held, and how this is said. Knows no decoder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sepcli.errors import Warned

DAMAGED = "damaged"  # packets that do not decode: silence in their place
CUT_SHORT = "cut_short"  # it ends before what its header states
GAP = "gap"  # nothing is stored for some time: silence there
LATE = "late_start"  # the sound begins after the picture: silence before it
TIMES = "timestamps"  # times that can't be meant, and are ignored
JOINED = "joined"  # another recording begins in the same file

DAMAGES = frozenset((DAMAGED, CUT_SHORT))  # where sound was lost


@dataclass(frozen=True)
class Loss:
    """A place where a file is not as an intact one."""

    code: str
    start: float  # seconds from the beginning of what is read
    seconds: float  # of silence in its place; of sound that is missing at the end, for CUT_SHORT
    text: str = ""  # more about it


def said(losses: Iterable[Loss]) -> list[Warned]:
    """What is to be told about a file's losses, each kind with its own code."""
    losses, sentences = list(losses), []
    damaged = [loss for loss in losses if loss.code == DAMAGED]
    if damaged:
        places = ", ".join(f"{loss.start:.3f} s" for loss in damaged[:3])
        more = f" and {len(damaged) - 3} more places" if len(damaged) > 3 else ""
        seconds = sum(loss.seconds for loss in damaged)
        text = f"Damaged: {seconds:.3f} s do not decode, at {places}{more}; silence stands there."
        sentences.append(Warned(text, DAMAGED))
    sentences += [Warned(_sentence(loss), loss.code) for loss in losses if loss.code != DAMAGED]
    return sentences


def _sentence(loss: Loss) -> str:
    at, seconds = f"{loss.start:.3f} s", f"{loss.seconds:.3f} s"
    if loss.code == CUT_SHORT:
        reason = loss.text or f"the header states {loss.start + loss.seconds:.3f} s"
        return f"Cut short or damaged: {reason}; {at} decode."
    if loss.code == GAP:
        return f"There is no sound for {seconds} at {at}; silence stands there."
    if loss.code == LATE:
        return f"The sound begins {seconds} after the picture; silence stands before it."
    if loss.code == TIMES:
        return f"The times in the file can't be right from {at} on; its sound is taken as it comes."
    assert loss.code == JOINED, loss.code
    change = f" It has {loss.text} and is brought to the first one's." if loss.text else ""
    return f"Several recordings in one file: another begins at {at}.{change}"


def name_of(path: Path) -> str:
    """The path for a message, also where its name is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
