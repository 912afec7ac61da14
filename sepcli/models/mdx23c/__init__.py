"""The MDX23C family: TFC-TDF U-Nets of version 3."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.mdx23c.checkpoint import convert, export
from sepcli.models.mdx23c.config import MDX23CConfig
from sepcli.models.mdx23c.detect import detect
from sepcli.models.mdx23c.network import MDX23C
from sepcli.models.mdx23c.toolkit import read_audio, read_settings

FAMILY = Family(
    name="mdx23c",
    archs={"MDX23C": Arch("MDX23C", MDX23CConfig, MDX23C)},
    convert=convert,
    detect=detect,
    export=export,
    toolkit=read_settings,
    toolkit_audio=read_audio,
)
