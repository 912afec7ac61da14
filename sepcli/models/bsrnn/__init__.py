"""The BS-RNN family: Band-Split RNN for one stem, and for several at once with attention."""

from __future__ import annotations

from sepcli.models.bsrnn.checkpoint import convert
from sepcli.models.bsrnn.config import BSRNNConfig
from sepcli.models.bsrnn.detect import detect
from sepcli.models.bsrnn.network import BSRNN
from sepcli.models.family import Arch, Family

FAMILY = Family(
    name="bsrnn",
    archs={"BSRNN": Arch("BSRNN", BSRNNConfig, BSRNN, of_stem="maskers.{}.")},
    convert=convert,
    detect=detect,
    # PyTorch Lightning keeps the settings of the run, OmegaConf's containers among them.
    packages=frozenset({"omegaconf", "lightning", "pytorch_lightning", "collections", "typing", "pathlib"}),
)
