"""The RoFormer family: BS-RoFormer and Mel-Band RoFormer, one trunk under two layouts of bands."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.roformer.checkpoint import convert, export
from sepcli.models.roformer.config import BSRoformerConfig, MelBandRoformerConfig
from sepcli.models.roformer.detect import detect
from sepcli.models.roformer.network import BSRoformer, MelBandRoformer
from sepcli.models.roformer.toolkit import read_settings

FAMILY = Family(
    name="roformer",
    archs={
        "BSRoformer": Arch("BSRoformer", BSRoformerConfig, BSRoformer, of_stem="estimators.{}."),
        "MelBandRoformer": Arch(
            "MelBandRoformer", MelBandRoformerConfig, MelBandRoformer, of_stem="estimators.{}."
        ),
    },
    convert=convert,
    detect=detect,
    export=export,
    toolkit=read_settings,
    training_only=frozenset({"dropout"}),
)
