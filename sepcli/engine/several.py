"""Separators that are made of others: what follows from these, whatever is done with their stems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sepcli.engine.separator import Separator
from sepcli.nn.modules import ModuleListOf


class Several(Separator):
    """A separator of `members`, which all run, each in its own way.

    The rate and the channel count are the highest of all, so that no member loses a sound: one of less gets
    there and back.
    """

    def __init__(self, members: Sequence[Separator]):
        super().__init__()
        self.members = ModuleListOf(members)
        self.samplerate = max(member.samplerate for member in members)
        self.channels = max(member.channels for member in members)
        self.normalize = any(member.normalize for member in members)
        self.half = all(member.half for member in members)
        # For a caller of `forward` itself: a length that every member takes in one call.
        lengths = [member.segment.samples for member in members if member.segment.samples is not None]
        self.segment = replace(members[0].segment, samples=min(lengths, default=None), exact=False)

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: prepares every member."""
        for member in self.members:
            member.prepare(samples, device, dtype)

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator: the notices of all members, each once."""
        return tuple(dict.fromkeys(text for member in self.members for text in member.notices(device)))

    def used(self) -> Mapping[str, Any]:
        """See Separator: the options of all members."""
        return {name: value for member in self.members for name, value in member.used().items()}
