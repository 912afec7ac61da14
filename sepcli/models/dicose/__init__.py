"""The DiCoSe family: deterministic, diffusion and consistency separators, MSDM and ISDM."""

from __future__ import annotations

from sepcli.family import Family

FAMILY = Family(
    name="dicose",
    archs={},
    describe=lambda checkpoint: None,
    convert=lambda checkpoint, model: dict(checkpoint.payload),
)
