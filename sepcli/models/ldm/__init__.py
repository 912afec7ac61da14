"""The ldm family: EnCodec, and the latent diffusion separator that works between its encoder and decoder."""

from __future__ import annotations

from sepcli.models.family import Arch, Family, Origin
from sepcli.models.ldm.checkpoint import convert
from sepcli.models.ldm.codec import Codec, CodecConfig, CodecOptions
from sepcli.models.ldm.detect import detect
from sepcli.models.ldm.latent import LatentDiffusion, LatentDiffusionConfig, LatentDiffusionOptions
from sepcli.models.ldm.objectives import Latent
from sepcli.models.ldm.reconstruction import Reconstruction

# The conditioner, which encodes the mix, begins with the encoder's weights.
_BASE = Origin(Codec, {"encoder.": ("encoder.", "conditioner."), "decoder.": "decoder."})

FAMILY = Family(
    name="ldm",
    archs={
        "Codec": Arch("Codec", CodecConfig, Codec, CodecOptions),
        "LatentDiffusion": Arch(
            "LatentDiffusion", LatentDiffusionConfig, LatentDiffusion, LatentDiffusionOptions, base=_BASE
        ),
    },
    convert=convert,
    detect=detect,
    objectives={"reconstruction": Reconstruction, "latent": Latent},
)
