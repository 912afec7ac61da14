"""Latents of windows, kept on disk, so that a window that comes again is not encoded again.

Knows waveforms, an encoder and a folder. The name of a file is a hash of the encoder's weights and of the
window's samples, so nothing can be stale, and several runs may share a folder. Each window is encoded by
itself, so that the kept latents equal newly made ones to the bit, whatever else was in the batch.

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

from sepcli.errors import OutputError, from_os
from sepcli.system.files import atomic_write

REMEDY = "Make room, or choose another objective_options.cache."


class Kept:
    """The latents of waveforms by one encoder that does not learn, in a folder."""

    def __init__(self, folder: Path, encoder: nn.Module):
        self.folder, self.encoder = folder, encoder
        # Hash of the weights, made at the first use: a run that is resumed has its weights only then.
        self._weights: bytes | None = None

    def latents(self, waves: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents of waveforms, [B, C, T] -> [B, D, N], by `encode` where a window is new: one at a time.

        OutputError where they can't be written.
        """
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
        except OSError as error:
            refused = from_os(error, self.folder)
            refused.remedy = REMEDY
            raise refused from error
        except SafetensorError as error:
            raise OutputError(f"Latents can't be kept in '{self.folder}': {error}.", remedy=REMEDY) from error
