"""The bytesep family: ResUNets on subbands, a network for each stem."""

from __future__ import annotations

from sepcli.models.bytesep.checkpoint import convert, detect
from sepcli.models.bytesep.config import ResUNetConfig
from sepcli.models.bytesep.network import ResUNet
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="bytesep",
    archs={"ResUNet": Arch("ResUNet", ResUNetConfig, ResUNet)},
    convert=convert,
    detect=detect,
)
