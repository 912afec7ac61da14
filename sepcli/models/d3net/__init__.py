"""The D3Net family: a dense, multidilated network for each stem, and a Wiener filter."""

from __future__ import annotations

from sepcli.models.d3net.checkpoint import convert, detect
from sepcli.models.d3net.network import D3Net, D3NetConfig, D3NetOptions
from sepcli.models.d3net.objectives import Magnitudes
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="d3net",
    archs={"D3Net": Arch("D3Net", D3NetConfig, D3Net, D3NetOptions)},
    convert=convert,
    detect=detect,
    objectives={"magnitudes": Magnitudes},
)
