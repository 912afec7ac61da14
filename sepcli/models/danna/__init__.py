"""The danna-sep family: a U-Net with local attention, and a Demucs of four decoders."""

from __future__ import annotations

from sepcli.models.danna.checkpoint import convert, detect
from sepcli.models.danna.split import DemucsSplit, DemucsSplitConfig
from sepcli.models.danna.unet import UNetAttn, UNetAttnConfig, UNetAttnOptions
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="danna",
    archs={
        "UNetAttn": Arch("UNetAttn", UNetAttnConfig, UNetAttn, UNetAttnOptions),
        "DemucsSplit": Arch("DemucsSplit", DemucsSplitConfig, DemucsSplit),
    },
    convert=convert,
    detect=detect,
)
