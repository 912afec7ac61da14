"""The Meta-TasNet family."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.metatasnet.checkpoint import convert, describe, detect
from sepcli.models.metatasnet.network import MetaTasNet, MetaTasNetConfig, MetaTasNetOptions

FAMILY = Family(
    name="metatasnet",
    archs={"MetaTasNet": Arch("MetaTasNet", MetaTasNetConfig, MetaTasNet, MetaTasNetOptions)},
    convert=convert,
    describe=describe,
    detect=detect,
    packages=frozenset({"argparse"}),
)
