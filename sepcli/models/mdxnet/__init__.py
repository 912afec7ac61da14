"""The MDX-Net family: KUIELab's TFC-TDF v2, a network a stem, also as the `.onnx` files of UVR."""

from __future__ import annotations

from sepcli.models.family import Arch, Family
from sepcli.models.mdxnet.checkpoint import convert, detect, export
from sepcli.models.mdxnet.config import MDXNetConfig, MDXNetOptions
from sepcli.models.mdxnet.network import MDXNet

FAMILY = Family(
    name="mdxnet",
    archs={"MDXNet": Arch("MDXNet", MDXNetConfig, MDXNet, MDXNetOptions)},
    convert=convert,
    detect=detect,
    export=export,
)
