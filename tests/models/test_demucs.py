"""The networks of the Demucs family that the contract is tried on; their own tests stand beside this file."""

from tests.models import (
    test_demucs_early,
    test_demucs_gibbs,
    test_demucs_sparse,
    test_demucs_tasnet,
    test_demucs_time,
    test_hdemucs,
    test_htdemucs,
)

NETWORKS = {
    "HTDemucs": test_htdemucs.CASES | test_demucs_sparse.CASES,
    "HDemucs": test_hdemucs.CASES,
    "Demucs": test_demucs_time.CASES,
    "EarlyDemucs": test_demucs_early.CASES,
    "ConvTasNet": test_demucs_tasnet.CASES,
    "GibbsDemucs": test_demucs_gibbs.CASES,
}
