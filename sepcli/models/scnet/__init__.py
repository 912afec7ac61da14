"""The SCNet family: sparse compression networks, plain and masked."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.scnet.checkpoint import convert, export
from sepcli.models.scnet.config import SCNetConfig
from sepcli.models.scnet.detect import detect
from sepcli.models.scnet.network import SCNet
from sepcli.models.scnet.toolkit import read_settings

FAMILY = Family(
    name="scnet",
    archs={"SCNet": Arch("SCNet", SCNetConfig, SCNet, of_stem="heads.{}.")},
    convert=convert,
    detect=detect,
    export=export,
    toolkit=read_settings,
)
