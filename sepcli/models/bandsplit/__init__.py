"""The band-split family: small networks of our own. The bundled model `mini` is one."""

from __future__ import annotations

from sepcli.models.bandsplit.bandsplit import BandSplit, BandSplitConfig
from sepcli.models.bandsplit.checkpoint import convert
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="bandsplit",
    archs={"BandSplit": Arch("BandSplit", BandSplitConfig, BandSplit)},
    convert=convert,
)
