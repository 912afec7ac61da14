"""The Wave-U-Net family: of 2018, and its authors' later one."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.waveunet.checkpoint import convert, detect
from sepcli.models.waveunet.config import WaveUNetConfig, WaveUNetTorchConfig
from sepcli.models.waveunet.later import WaveUNetTorch
from sepcli.models.waveunet.network import WaveUNet

FAMILY = Family(
    name="waveunet",
    archs={
        "WaveUNet": Arch("WaveUNet", WaveUNetConfig, WaveUNet),
        "WaveUNetTorch": Arch("WaveUNetTorch", WaveUNetTorchConfig, WaveUNetTorch),
    },
    convert=convert,
    detect=detect,
)
