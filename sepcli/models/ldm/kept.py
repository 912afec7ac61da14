"""Latents of windows on disk, by what they are made of: a window that comes again is not encoded again.

Knows waveforms, an encoder and a folder. A file's name is a hash of the encoder's weights and of the window's
samples, so nothing can be stale, and several runs may share a folder. A window is encoded by itself, so that
what is kept is to the bit what would be made again, whatever else was in its batch.

Axes: B batch, C channels, T samples, D latent channels, N latent frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sepcli.errors import OutputError
from sepcli.system.files import atomic_write


class Kept:
    """The latents that one encoder, which does not learn, makes of waveforms."""

    def __init__(self, folder: Path, encoder: nn.Module):
        self.folder, self.encoder = folder, encoder
        self._weights: bytes | None = None  # their hash: at first use, a run that goes on has its own only then

    def latents(self, waves: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """[B, C, T] -> [B, D, N]; encode: what makes them, of [1, C, T]."""
        return torch.cat([self._of_one(waves[k : k + 1], encode) for k in range(len(waves))])

    def _of_one(self, wave: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        path = self._path(wave)
        try:
            return load_file(path)["latents"].to(wave.device)
        except (OSError, SafetensorError, KeyError):  # not there, or cut off: made again
            latents = encode(wave)
        self._write(path, latents)
        return latents

    def _path(self, wave: Tensor) -> Path:
        if self._weights is None:
            digest = hashlib.sha256()
            for name, tensor in self.encoder.state_dict().items():
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
            self._weights = digest.digest()
        said = f"{tuple(wave.shape)}".encode()
        name = hashlib.sha256(self._weights + said + wave.float().cpu().numpy().tobytes()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def _write(self, path: Path, latents: Tensor) -> None:
        try:
            with atomic_write(path, shared=True) as beside:
                save_file({"latents": latents.detach().cpu().contiguous()}, beside)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(
                f"Latents can't be kept in '{self.folder}': {reason}.",
                remedy="Make room, or choose another objective_options.cache.",
            ) from error
