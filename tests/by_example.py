"""sepcli, but what a distillation draws for an example hangs on the example alone.

    python -m tests.by_example distill ...

Else it hangs on the process too, and runs of one process and of several could not be compared.
"""

from __future__ import annotations

import sys
import zlib

import torch

from sepcli.cli.app import main
from sepcli.data.mixing import Batch
from sepcli.models.dicose import FAMILY
from sepcli.models.dicose.objectives import Distillation
from sepcli.nn.losses import Loss


class ByExample(Distillation):
    """The mean over the examples, each by itself with chance of its own."""

    def __call__(self, model, batch: Batch) -> Loss:
        losses = []
        for row in batch.stems:
            seed = zlib.crc32(row.numpy().tobytes())
            torch.manual_seed(seed)
            self.chance.manual_seed(seed)
            losses.append(super().__call__(model, Batch(row[None], [], [])))
        parts = {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts}
        return Loss(torch.stack([loss.total for loss in losses]).mean(), parts)


if __name__ == "__main__":
    FAMILY.objectives["consistency"] = ByExample
    sys.exit(main())
