"""How LDM-dmx learns: from a stem's latents with noise and the latents of the mix, it estimates v.

    stem -> encoder -> z_0, noise of a level t = 1 - U[0, 1]^skew -> z, v            mix -> conditioner -> c
    L = |generator(z, c, t) - v|^2

("Efficient and fast generative-based singing voice separation using a latent diffusion model", 2025, eqs. 6 to
9.) It needs only the stem and the mixture of a song: the mixture without the stem is the other source in a
batch. Where the stem is silent, the target is the latents of digital silence. Some such windows must stay in
the data, or the generator never learns to draw silence.

Axes: B batch, S = 2 sources (the stem, the rest), C channels, T samples, D latent channels, N latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from sepcli.errors import UsageError
from sepcli.models.ldm.kept import Kept
from sepcli.models.ldm.latent import LatentDiffusion, silent
from sepcli.models.objective import Examples, Objective, check_trains, check_word
from sepcli.nn.diffusion import v_noised
from sepcli.nn.losses import Criterion, Loss, check_squared


class Latent(Objective):
    """The generator learns, as at the top of this file.

    conditioner: the encoder of the mix, "frozen" as in the paper's first stage, or "trained" as in its second,
    with a small learning rate of its own (an optimiser group that matches "conditioner"). measured: from the
    latents of so many windows of the stem, the first ones of the run that are not silent, the normalisation is
    measured; a model that begins with another model's weights has it already. cache: a folder for the latents
    of windows, "" for none; it helps only if the same windows come again (data.examples). skew: 1: all levels
    of noise are drawn equally often; above 1, high levels are drawn more often. There the mix alone tells what
    the stem is.
    """

    rest = "accompaniment"

    def __init__(
        self,
        model: LatentDiffusion,
        criterion: Criterion,
        *,
        conditioner: str = "frozen",
        measured: int = 1000,
        cache: str = "",
        skew: float = 1.0,
    ):
        check_trains("latent", model, LatentDiffusion)
        check_squared(criterion)
        check_word("conditioner", conditioner, "frozen", "trained")
        self.trained = conditioner == "trained"
        if not 0 < skew < math.inf:
            raise UsageError(
                f"objective_options.skew is {skew:g}, but must be above 0.",
                remedy="Try 2; with 1 all levels of noise are drawn equally often.",
            )
        self.measured, self.skew = measured, skew
        model.conditioner.requires_grad_(self.trained)
        self.kept: dict[str, Kept] = {}
        if cache:
            self.kept["encoder"] = Kept(Path(cache), model.encoder)
            if not self.trained:
                self.kept["conditioner"] = Kept(Path(cache), model.conditioner)

    def __call__(self, model: LatentDiffusion, batch: Examples) -> Loss:
        stem, mix = batch.stems[:, 0], batch.stems.sum(1)
        with torch.autocast(stem.device.type, enabled=False):
            clean = self._latents("encoder", model.target, stem)
        with nullcontext() if self.trained else torch.autocast(stem.device.type, enabled=False):
            heard = self._latents("conditioner", model.heard, mix)
        if model.windows < self.measured:
            model.measure(clean[~silent(stem)])
        clean, heard = model.normalised(clean), model.normalised(heard)
        t = (1 - torch.rand(len(clean)) ** self.skew).to(clean)
        z, v = v_noised(clean, torch.randn_like(clean), t)
        error = (model.generator(z, heard, t) - v).square().mean()
        return Loss(error, {"v": error.detach()})

    def _latents(self, which: str, encode: Callable[[Tensor], Tensor], wave: Tensor) -> Tensor:
        kept = self.kept.get(which)
        return encode(wave) if kept is None else kept.latents(wave, encode)
