"""The family of Open-Unmix: single-target networks as one model, and X-UMX, which bridges them."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.openunmix.checkpoint import convert, describe, detect
from sepcli.models.openunmix.network import XUMX, OpenUnmix, OpenUnmixConfig, UnmixOptions, XUMXConfig
from sepcli.models.openunmix.objectives import Bridged, Magnitudes

FAMILY = Family(
    name="openunmix",
    archs={
        "OpenUnmix": Arch("OpenUnmix", OpenUnmixConfig, OpenUnmix, UnmixOptions),
        "XUMX": Arch("XUMX", XUMXConfig, XUMX, UnmixOptions),
    },
    convert=convert,
    describe=describe,
    detect=detect,
    objectives={"magnitudes": Magnitudes, "bridged": Bridged},
)
