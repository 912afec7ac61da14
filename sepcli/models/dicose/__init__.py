"""The DiCoSe family: deterministic, diffusion and consistency separators, MSDM and ISDM."""

from __future__ import annotations

from sepcli.models.dicose.checkpoint import convert
from sepcli.models.dicose.detect import detect
from sepcli.models.dicose.deterministic import Deterministic, DoubleDeterministic
from sepcli.models.dicose.frame import DicoseConfig
from sepcli.models.dicose.joint import ISDM, MSDM, JointOptions
from sepcli.models.dicose.objectives import Denoising, Distillation, Labelled
from sepcli.models.dicose.refined import (
    Consistency,
    ConsistencyConfig,
    ConsistencyOptions,
    Diffusion,
    DiffusionOptions,
)
from sepcli.models.dicose.sampled import SampledConfig
from sepcli.models.family import Arch, Family, Origin

# Some networks refine a frozen Deterministic; a student begins with its teacher's weights.
_BASE = Origin(Deterministic, {"unet.": "base."})
_TEACHER = Origin(Diffusion, {"unet.": "unet.", "base.": "base."})

FAMILY = Family(
    name="dicose",
    archs={
        "Deterministic": Arch("Deterministic", DicoseConfig, Deterministic),
        "DoubleDeterministic": Arch("DoubleDeterministic", DicoseConfig, DoubleDeterministic, base=_BASE),
        "Diffusion": Arch("Diffusion", SampledConfig, Diffusion, DiffusionOptions, base=_BASE),
        "Consistency": Arch(
            "Consistency", ConsistencyConfig, Consistency, ConsistencyOptions, teacher=_TEACHER
        ),
        "MSDM": Arch("MSDM", SampledConfig, MSDM, JointOptions),
        "ISDM": Arch("ISDM", SampledConfig, ISDM, JointOptions),
    },
    convert=convert,
    detect=detect,
    objectives={"label": Labelled, "denoising": Denoising, "consistency": Distillation},
    # Published files name these beside the weights: for data sets, distributions of noise, settings, paths.
    packages=frozenset(
        {
            "pytorch_lightning",
            "lightning_fabric",
            "omegaconf",
            "ml_collections",
            "main",
            "audio_diffusion_pytorch",
            "audio_diffusion_pytorch_",
            "argparse",
            "collections",
            "functools",
            "numpy",
            "pathlib",
            "typing",
        }
    ),
)
