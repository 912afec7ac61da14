"""How LaSAFT is trained. An example has one target, drawn at random, told by its label or by a piece of audio.

    stems [B, S, C, T] -> mix = their sum -> spectrogram -> estimate(spectrogram, z of the target) -> criterion

The loss is on the network's output, a spectrogram with real and imaginary parts as channels ("LaSAFT-Net v2",
on training: mean squared error), or on the waveform that is made of it: objective_options.domain.

Axes: B batch, S sources, C channels, T samples of a segment, M samples of margin, e embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sepcli.errors import UsageError
from sepcli.models.lasaft.query import LaSAFTQuery
from sepcli.models.lasaft.spectral import Conditioned
from sepcli.models.objective import Examples, Objective, check_word
from sepcli.nn.losses import Criterion, Loss, OneTarget, drawn_targets

DOMAINS = ("spectrogram", "wave")
QUERIES = ("target", "context")
AUDIBLE = 1e-3  # root mean square, full scale is 1: a quieter query is silence (-60 dB)
MOMENTUM = 0.01  # weight of a batch in the mean latents


class Labelled(Objective):
    """The target is told by its label. A source's weight is how often it is the target, relative to others."""

    def __init__(self, model: Conditioned, criterion: Criterion, *, domain: str = "spectrogram"):
        check_word("domain", domain, *DOMAINS)
        if domain == "spectrogram" and any(
            term.kind not in ("l1", "mse") or term.on != "wave" for term in criterion.terms
        ):
            raise UsageError(
                "The loss is on the network's own spectrogram, but one of its terms is made for waveforms.",
                remedy='Use terms of kind "mse" or "l1" as they are, or set objective_options.domain = "wave".',
            )
        self.domain = domain
        self.on_wave = OneTarget(criterion)
        self.on_spectrogram = Criterion(criterion.terms, [1.0])

    def __call__(self, model: Conditioned, batch: Examples) -> Loss:
        stems = self._segment(batch.stems)  # [B, S, C, T]
        target, index = drawn_targets(stems, self.on_wave.weights)
        z = self.latent(model, batch.stems, index)
        mix = stems.sum(1)
        estimate = model.estimate(model.spectrogram(mix), z).float()
        if self.domain == "spectrogram":
            return self.on_spectrogram(estimate[:, None], model.spectrogram(target)[:, None])
        return self.on_wave(model.waveform(estimate, target.shape[-1]), target, mix)

    def latent(self, model: Conditioned, stems: Tensor, index: Tensor) -> Tensor:
        """stems [B, S, C, T + 2M], indices of targets [B] -> z [B, e], which tells the network its target."""
        return model.condition(index)

    def _segment(self, stems: Tensor) -> Tensor:
        return stems[..., self.margin : stems.shape[-1] - self.margin]


class Queried(Labelled):
    """The target is told by audio. query: "target", the target itself, or "context", the same stem around it.

    "context" is what the authors' code is meant to do: half a segment from before the example and half a
    segment from after it, joined, so that a query is never the very sound to be found (their code takes 2 s
    from each side and cuts silence off). If that is silent, the target itself is the query. During training,
    the mean latent of each source follows the latents of its examples, as a batch norm follows its statistics.
    """

    def __init__(
        self, model: LaSAFTQuery, criterion: Criterion, *, domain: str = "spectrogram", query: str = "target"
    ):
        super().__init__(model, criterion, domain=domain)
        check_word("query", query, *QUERIES)
        self.query = query
        samples = model.segment.samples
        assert samples is not None
        self.margin = samples // 2 if query == "context" else 0

    def latent(self, model: LaSAFTQuery, stems: Tensor, index: Tensor) -> Tensor:
        rows = torch.arange(len(stems), device=stems.device)
        self._follow(model, stems)
        return model.query(model.query_spectrogram(self._queries(stems[rows, index])))

    def _queries(self, waves: Tensor) -> Tensor:
        """Stems with their margins [B, C, T + 2M] -> queries [B, C, T]."""
        itself = self._segment(waves)
        if self.query == "target":
            return itself
        around = torch.cat([waves[..., : self.margin], waves[..., -self.margin :]], dim=-1)
        heard = _level(around) >= AUDIBLE
        return torch.where(heard[:, None, None], around, itself[..., : around.shape[-1]])

    @torch.no_grad()
    def _follow(self, model: LaSAFTQuery, stems: Tensor) -> None:
        """Move the mean latents of all sources, not of the targets alone, towards the latents of this batch."""
        if not model.training:
            return
        for source in range(stems.shape[1]):
            queries = self._queries(stems[:, source])
            queries = queries[_level(queries) >= AUDIBLE]
            if len(queries):
                z = model.query(model.query_spectrogram(queries)).float().mean(0)
                mean = model.mean_latents[source]
                mean.lerp_(z.to(mean.dtype), MOMENTUM if mean.any() else 1.0)


def _level(waves: Tensor) -> Tensor:
    """[B, C, T] -> [B], root mean square."""
    return waves.square().mean(dim=(1, 2)).sqrt()
