"""Which stems a stem file holds, and in which of its places. Knows names only.

A stem file has a mix and four stems that add up to it. So one of the four holds what the others do not, the mix
minus these: it is called like the model's stem for everything else, if all stems are wanted and it has one, or
else like the rest. Up to three stems stand beside it. What is left of the four is silent.

    place                0 drums   1 bass    2 everything else   3 vocals     (others: the first that is free)
    htdemucs             drums     bass      other               vocals
    htdemucs_6s          drums     bass      other               vocals       guitar and piano are in other
    -t vocals            silence   silence   no_vocals           vocals
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sepcli.batch.outputs import name_key
from sepcli.errors import UsageError
from sepcli.sound.submix import Submix
from sepcli.stems import EVERYTHING_ELSE

PACKED = "stems"  # what the file is called among a track's outputs
MIX, SILENCE = "mix", "silence"
OTHER = "other"  # the place of stems that have none of their own
_PLACES = {"drums": 0, "bass": 1, "vocals": 3}
_OF_THE_REST = 2


@dataclass(frozen=True)
class Pack:
    """The tracks of one stem file, made of stems and submixes."""

    kept: tuple[str, ...]  # the stems that are made, in their order
    submixes: tuple[Submix, ...]  # what else the tracks are made of: the mix, the rest, silence
    tracks: tuple[int, ...]  # the mix and four stems, as places in (*kept, *submixes)
    folded: tuple[str, ...] = ()  # stems that have no track of their own

    @property
    def names(self) -> tuple[str, ...]:
        """What the tracks are called."""
        parts = (*self.kept, *(submix.name for submix in self.submixes))
        return tuple(parts[place] for place in self.tracks)

    @property
    def sounds(self) -> tuple[str, ...]:
        """The names of those that are not left silent."""
        return tuple(name for name in self.names if name != SILENCE)

    @property
    def titles(self) -> tuple[str, ...]:
        """The names as people write them: "No vocals"."""
        return tuple(name[:1].upper() + name[1:].replace("_", " ") for name in self.names)

    @property
    def notice(self) -> str:
        """A sentence about stems without a track; "" where each has one."""
        if not self.folded:
            return ""
        *others, last = self.folded
        which = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        return f"A stem file has room for four stems: {which} in its '{OTHER}'."


def make_pack(wanted: Sequence[str], *, whole: bool, rest: str) -> Pack:
    """Choose tracks for the wanted stems.

    whole: they are all that the model makes of a mix. rest: what the mix minus them is called. UsageError where
    two tracks would have one name.
    """
    whole = whole and len(wanted) > 1  # of one stem the rest is everything else, whatever the stem is
    own = next((stem for stem in wanted if whole and stem.casefold() in EVERYTHING_ELSE), None)
    stems = [stem for stem in wanted if stem != own]
    folded: tuple[str, ...] = ()
    if len(stems) > 3:
        first = sorted(stems, key=_weight)[:3]
        folded = tuple(stem for stem in stems if stem not in first)
        stems = [stem for stem in stems if stem in first]
    name = OTHER if folded else own or rest
    _check_names([MIX, SILENCE, name, *stems])
    submixes = (Submix(MIX, 1.0), Submix.without(name, stems), Submix(SILENCE))
    mix, left, silence = range(len(stems), len(stems) + 3)
    tracks = [silence] * 4
    tracks[_OF_THE_REST] = left
    for stem in sorted(stems, key=_weight):
        place = _PLACES.get(stem.casefold())
        if place is None or tracks[place] != silence:
            place = tracks.index(silence)
        tracks[place] = stems.index(stem)
    return Pack(tuple(stems), submixes, (mix, *tracks), folded)


def _weight(stem: str) -> int:
    """The less, the rather the stem has a track of its own."""
    folded = stem.casefold()
    return _PLACES.get(folded, 5 if folded in EVERYTHING_ELSE else 4)


def _check_names(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name_key(name) in seen:
            raise UsageError(
                f"Two tracks of the stem file would be called '{name}'.",
                remedy="Give the stem another name, or write a file for each stem.",
                code="equal_names",
            )
        seen.add(name_key(name))
