"""What Ultimate Vocal Remover knows of MDX-Net files, by their hash; the files themselves don't tell it.

The hash is the MD5 of a file's last 10,240,000 bytes. (Facts of UVR's table of models, application_data at
3826b05.)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TAIL = 10_240_000  # bytes


@dataclass(frozen=True)
class Known:
    """stem: by our names. nfft: samples of a window. frames: of a call. compensate: the estimate's factor."""

    stem: str
    nfft: int
    frames: int
    compensate: float


# {(stem, nfft, frames, compensate): hashes}
_ROWS: dict[tuple[str, int, int, float], str] = {
    ("vocals", 7680, 256, 1.009): "970b3f9492014d18fefeedfe4773cb42",
    ("vocals", 7680, 256, 1.021): "77d07b2667ddf05b9e3175941b4454a0",
    ("vocals", 7680, 256, 1.03): "867595e9de46f6ab699008295df62798 b33d9b3950b6cbf5fe90a32608924700 "
    "e7324c873b1f615c35c1967f912db92a",
    ("vocals", 7680, 256, 1.043): "53c4baf4d12c3e6c3831bb8f5b532b93 73492b58195c3b52d34590d5474452f6",
    ("vocals", 7680, 256, 1.075): "5d343409ef0df48c7d78cce9f0106781",
    ("vocals", 7680, 256, 1.75): "398580b6d5d973af3120df54cee6759d",
    ("vocals", 6144, 256, 1.03): "a3cd63058945e777505c01d2507daf37",
    ("vocals", 6144, 256, 1.035): "0ddfc0eb5792638ad5dc27850236c246 6b31de20e84392859a3d09d43f089515 "
    "d7bff498db9324db933d913388cba6be d94058f8c7f1fae4164868ae8ae66b20",
    ("lead", 6144, 256, 1.035): "2f5501189a2f6db6349916fabe8c90de",
    ("karaoke", 5120, 256, 1.065): "1d64a6d2c30f709b8c9b4ce1366d96ee",
    ("instrumental", 6144, 256, 1.022): "55657dd70583b0fedfba5f67df11d711",
    ("instrumental", 6144, 256, 1.033): "cc63408db3d80b4d85b0287d1d7c9632",
    ("instrumental", 6144, 256, 1.035): "b06327a00d5e5fbc7d96e1781bbdb596 203f2a3955221b64df85a41af87cf8f0 "
    "291c2049608edb52648b96e27eb80e95 ead8d05dab12ec571d67549b3aab03fc",
    ("instrumental", 6144, 256, 1.039): "94ff780b977d3ca07c7a343dab2e25dd",
    ("instrumental", 5120, 256, 1.019): "0f2a6bc5b49d87d64728ee40e23bceb1",
    ("instrumental", 5120, 256, 1.01): "cb790d0c913647ced70fc6b38f5bea1a",
    ("instrumental", 5120, 256, 1.025): "1c56ec0224f1d559c42fd6fd2a67b154",
    ("instrumental", 5120, 256, 1.026): "8a88db95c7fb5dbe6a095ff2ffb428b1",
    ("instrumental", 7680, 256, 1.02): "b6bccda408a436db8500083ef3491e8b",
    ("instrumental", 7680, 256, 1.021): "b78da4afc6512f98e4756f5977f5c6b9",
    ("instrumental", 7680, 256, 1.028): "e5572e58abf111f80d8241d2e44e7fa4",
    ("instrumental", 7680, 256, 1.035): "488b3e6f8bd3717d9d7c428476be2d75 ceed671467c1f64ebdfac8a2490d0d52 "
    "d2a1376f310e4f7fa37fb9b5774eb701 f2df6d6863d8f435436d8b561594ff49",
    ("instrumental", 7680, 256, 1.045): "2cdd429caac38f0194b133884160f2c6",
    ("other", 5120, 256, 1.02): "b02be2d198d4968a121030cf8950b492",
    ("reverb", 6144, 512, 1.035): "cd5b2989ad863f116c855db1dfe24e39",
    ("bass", 16384, 512, 1.035): "6703e39f36f18aa7855ee1047765621d",
    ("drums", 4096, 512, 1.035): "dc41ede5961d50f277eb846db17f5319",
    ("other", 8192, 512, 1.035): "26d308f91f3423a67dc69a6d12a8793d",
    ("vocals", 6144, 512, 1.035): "5f6483271e1efb9bfb59e4a3e6d4d098",
    ("bass", 16384, 256, 1.035): "c3b29bdce8c4fa17ec609e16220330ab",
    ("drums", 4096, 128, 1.035): "4910e7827f335048bdac11fa967772f9",
    ("other", 8192, 256, 1.035): "65ab5919372a128e4167f5e01a8fda85",
}
TABLE = {md5: Known(*row) for row, hashes in _ROWS.items() for md5 in hashes.split()}


def known(path: Path) -> Known | None:
    """What the table has of the file; None where it is not one of these."""
    try:
        return TABLE.get(_tail_md5(path, os.stat(path).st_mtime_ns))
    except OSError:
        return None


@lru_cache(maxsize=64)
def _tail_md5(path: Path, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
