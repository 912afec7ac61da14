"""The LaSAFT family: v1 and v1.1, v2 and v1.2, conditioned by a label; and v2 conditioned by an audio query."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.lasaft.checkpoint import convert
from sepcli.models.lasaft.detect import detect
from sepcli.models.lasaft.objectives import Labelled, Queried
from sepcli.models.lasaft.query import LaSAFTQuery, LaSAFTQueryConfig
from sepcli.models.lasaft.v1 import LaSAFTv1, LaSAFTv1Config
from sepcli.models.lasaft.v2 import LaSAFTv2, LaSAFTv2Config

FAMILY = Family(
    name="lasaft",
    archs={
        "LaSAFTv1": Arch("LaSAFTv1", LaSAFTv1Config, LaSAFTv1),
        "LaSAFTv2": Arch("LaSAFTv2", LaSAFTv2Config, LaSAFTv2),
        "LaSAFTQuery": Arch("LaSAFTQuery", LaSAFTQueryConfig, LaSAFTQuery),
    },
    convert=convert,
    detect=detect,
    # Published files name these beside the weights: for Lightning's callbacks and OmegaConf's settings.
    packages=frozenset({"pytorch_lightning", "omegaconf", "collections", "typing", "argparse", "lasaft"}),
    objectives={"label": Labelled, "query": Queried},
)
