"""The CU-Net family: one U-Net that is told which stem to make. For training; no weights were published."""

from __future__ import annotations

from sepcli.models.cunet.checkpoint import convert
from sepcli.models.cunet.network import CUNet, CUNetConfig
from sepcli.models.cunet.objectives import Magnitudes
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="cunet",
    archs={"CUNet": Arch("CUNet", CUNetConfig, CUNet)},
    convert=convert,
    objectives={"magnitudes": Magnitudes},
)
