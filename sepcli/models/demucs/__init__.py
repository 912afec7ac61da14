"""The Demucs family: HTDemucs (v4), HDemucs (v3, hybrid), Demucs (v3, time domain), EarlyDemucs (v1, v2), the
Conv-TasNet that was published with v1 and v2, and Demucs+Gibbs.
"""

from __future__ import annotations

from sepcli.models.demucs.checkpoint import convert, describe
from sepcli.models.demucs.demucs import Demucs, DemucsConfig
from sepcli.models.demucs.detect import detect
from sepcli.models.demucs.early import EarlyDemucs, EarlyDemucsConfig
from sepcli.models.demucs.gibbs import GibbsDemucs, GibbsOptions, Orderless
from sepcli.models.demucs.hdemucs import HDemucs, HDemucsConfig
from sepcli.models.demucs.htdemucs import HTDemucs, HTDemucsConfig
from sepcli.models.demucs.tasnet import ConvTasNet, ConvTasNetConfig
from sepcli.models.family import Arch, Family

# Settings of initial values, regularisation and augmentation: a separation does not read them.
_TRAINING = {"rescale", "dconv_init", "emb_smooth", "t_dropout", "t_weight_decay", "t_lr"}
_TRAINING |= {"t_sin_random_shift", "t_cape_augment", "t_cape_glob_loc_scale"}
# Needed only for fixed attention masks, which no published weights use; the files have it nevertheless.
_UNREAD = {"t_sparse_attn_window"}

FAMILY = Family(
    name="demucs",
    archs={
        "HTDemucs": Arch("HTDemucs", HTDemucsConfig, HTDemucs),
        "HDemucs": Arch("HDemucs", HDemucsConfig, HDemucs),
        "Demucs": Arch("Demucs", DemucsConfig, Demucs),
        "EarlyDemucs": Arch("EarlyDemucs", EarlyDemucsConfig, EarlyDemucs),
        "ConvTasNet": Arch("ConvTasNet", ConvTasNetConfig, ConvTasNet),
        "GibbsDemucs": Arch("GibbsDemucs", DemucsConfig, GibbsDemucs, GibbsOptions),
    },
    convert=convert,
    describe=describe,
    detect=detect,
    training_only=frozenset(_TRAINING | _UNREAD),
    packages=frozenset({"demucs", "diffq"}),
    objectives={"orderless": Orderless},
)
