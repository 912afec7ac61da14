"""The Spleeter family: two, four or five U-Nets, one a stem."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.spleeter.checkpoint import convert, detect
from sepcli.models.spleeter.network import Spleeter, SpleeterConfig, SpleeterOptions
from sepcli.models.spleeter.objectives import Magnitudes

FAMILY = Family(
    name="spleeter",
    archs={"Spleeter": Arch("Spleeter", SpleeterConfig, Spleeter, SpleeterOptions)},
    convert=convert,
    detect=detect,
    objectives={"magnitudes": Magnitudes},
)
