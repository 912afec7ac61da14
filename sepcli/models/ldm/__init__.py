"""The ldm family: EnCodec, and the latent diffusion separator that works between its encoder and decoder."""

from __future__ import annotations

from sepcli.family import Arch, Family
from sepcli.models.ldm.checkpoint import convert, describe
from sepcli.models.ldm.codec import Codec, CodecConfig, CodecOptions
from sepcli.models.ldm.reconstruction import Reconstruction

FAMILY = Family(
    name="ldm",
    archs={"Codec": Arch("Codec", CodecConfig, Codec, CodecOptions)},
    describe=describe,
    convert=convert,
    objectives={"reconstruction": Reconstruction},
)
