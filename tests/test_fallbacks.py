"""Operations that a GPU of Apple or Intel lacks. None was had: the warnings are made up here."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch

from sepcli.cli import fallbacks, finding
from sepcli.cli.app import main
from sepcli.nn.doubles import double_place
from sepcli.weights.catalog import load_catalog

MPS = (
    "The operator 'aten::linalg_pinv' is not currently supported on the MPS backend and will fall back to run "
    "on the CPU. This may have performance implications. (Triggered internally at MPSFallback.mm:14.)"
)
XPU = "The operator 'aten::_fft_c2r on the XPU backend is falling back to run on the CPU."


def test_each_operation_is_told_once():
    said = []
    take = fallbacks.told(said.append)
    for text in (MPS, XPU, MPS, "The disk is slow.", XPU, "The disk is slow."):
        take(text)
    assert said == [
        "The device mps lacks the operation aten::linalg_pinv: the CPU computes it, which takes longer.",
        "The device xpu lacks the operation aten::_fft_c2r: the CPU computes it, which takes longer.",
        "The disk is slow.",
        "The disk is slow.",
    ]


def test_a_command_tells_them_and_no_other_warning_of_a_library(monkeypatch, capfd):
    def warned(*catalogs):
        for text in (MPS, "something for programmers", MPS, XPU):
            warnings.warn(text, UserWarning, stacklevel=1)
        return load_catalog(*catalogs)

    monkeypatch.setattr(finding, "load_catalog", warned)
    assert main(["models", "list"]) == 0
    told = capfd.readouterr().err
    assert told.count("aten::linalg_pinv") == told.count("aten::_fft_c2r") == 1 and "programmers" not in told


@pytest.mark.parametrize("own", [None, "0"])
def test_torch_is_told_before_it_is_imported(own):
    """And whoever has said otherwise keeps that."""
    code = (
        "import sys, os; from sepcli.cli.app import main; main(['--version'])\n"
        "assert 'torch' not in sys.modules\n"
        f"print([os.environ[name] for name in {fallbacks.VARIABLES!r}])"
    )
    env = {name: value for name, value in os.environ.items() if name not in fallbacks.VARIABLES}
    if own is not None:
        env[fallbacks.VARIABLES[0]] = own
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == str([own or "1", "1", "1"])


def test_double_precision_stays_where_it_is_had():
    for kind, place in {"cpu": "cpu", "cuda:1": "cuda:1", "mps": "cpu", "xpu:0": "cpu"}.items():
        assert double_place(torch.device(kind)) == torch.device(place)
