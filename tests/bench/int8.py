"""int8 beside bfloat16 and float32, one thread: layers at the sizes that networks have, and a whole network.

    python -m tests.bench.int8

Linear layers take float32 in and out, their weights quantised once, each input while it comes (torch's dynamic
quantisation). Convolutions are statically quantised ones, with the ways to int8 and back. `product` is the
same on numbers that are int8 already, the least that it can take. The network is a BS-RoFormer of 256
channels, of which the linear layers in the transformers become int8 and all else stays float32. Prints the
processor's time, what int8 gains over the better of the other two, and its SNR against float32 in dB.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench import families, peers

ENOUGH = 0.3  # seconds of each measurement
# rows (tokens that are computed at once), inputs, outputs
LINEARS = {
    "BS-RoFormer 256: queries, keys, values": (1024, 256, 1536),
    "BS-RoFormer 256: out of attention": (1024, 512, 256),
    "BS-RoFormer 256: feed-forward, wide": (1024, 256, 1024),
    "BS-RoFormer 256: feed-forward, narrow": (1024, 1024, 256),
    "BS-RoFormer 512: feed-forward, wide": (1024, 512, 2048),
    "htdemucs: queries, keys, values": (2688, 512, 1536),
    "htdemucs: feed-forward, wide": (2688, 512, 2048),
    "htdemucs: feed-forward, narrow": (2688, 2048, 512),
}
# inputs, outputs, kernel, stride, height, width
CONVOLUTIONS = {
    "MDX23C: first scale": (128, 128, 3, 1, 128, 256),
    "MDX23C: second scale": (256, 256, 3, 1, 64, 128),
    "Spleeter: second": (16, 32, 5, 2, 256, 512),
    "Spleeter: last": (256, 512, 5, 2, 16, 32),
}


def best(work: Callable[[], object]) -> float:
    """Milliseconds of the processor's time."""
    work()
    found, begun = [], time.process_time()
    while len(found) < 3 or time.process_time() - begun < ENOUGH:
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return 1000 * min(found)


def snr(result: Tensor, reference: Tensor) -> float:
    error = (result - reference).square().sum()
    return (10 * torch.log10(reference.square().sum() / error)).item()


def linear(rows: int, inputs: int, outputs: int) -> dict[str, float]:
    layer, x = nn.Linear(inputs, outputs), torch.randn(rows, inputs)
    quantised = torch.ao.nn.quantized.dynamic.Linear.from_float(_dynamic(layer))
    wide = x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()
    numbers = torch.randint(-127, 127, (rows, inputs), dtype=torch.int8)
    weights = torch.randint(-127, 127, (outputs, inputs), dtype=torch.int8).t().contiguous()
    return {
        "float32": best(lambda: layer(x)),
        "bfloat16": best(lambda: F.linear(*wide)),
        "int8": best(lambda: quantised(x)),
        "product": best(lambda: torch._int_mm(numbers, weights)),
        "SNR": snr(quantised(x), layer(x)),
    }


def _dynamic(layer: nn.Linear) -> nn.Linear:
    layer.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig  # type: ignore[assignment]
    return layer


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int, height: int, width: int
) -> dict[str, float]:
    where = {"stride": stride, "padding": kernel // 2}
    layer, x = nn.Conv2d(inputs, outputs, kernel, **where), torch.randn(1, inputs, height, width)
    x = x.contiguous(memory_format=torch.channels_last)
    layer.to(memory_format=torch.channels_last)
    reference, halves = layer(x), nn.Conv2d(inputs, outputs, kernel, **where).bfloat16()
    halves.to(memory_format=torch.channels_last)
    quantised = torch.ao.nn.quantized.Conv2d(inputs, outputs, kernel, **where)
    scales = layer.weight.abs().amax(dim=(1, 2, 3)).double() / 127
    points = torch.zeros(outputs, dtype=torch.long)
    weights = torch.quantize_per_channel(layer.weight.detach(), scales, points, 0, torch.qint8)
    quantised.set_weight_bias(weights, layer.bias)
    quantised.scale, quantised.zero_point = float(reference.abs().max() / 127), 128
    scale = float(x.abs().max() / 127)

    def whole() -> Tensor:
        return quantised(torch.quantize_per_tensor(x, scale, 128, torch.quint8)).dequantize()

    given, numbers = x.bfloat16(), torch.quantize_per_tensor(x, scale, 128, torch.quint8)
    return {
        "float32": best(lambda: layer(x)),
        "bfloat16": best(lambda: halves(given)),
        "int8": best(whole),
        "product": best(lambda: quantised(numbers)),
        "SNR": snr(whole(), reference),
    }


def network(depth: int = 3) -> dict[str, float]:
    """The time of a call of 8 s; three of the twelve pairs of transformers that such networks have."""
    config = {**peers.NETWORKS["bs-256x12"].config, "depth": depth}
    [model] = families.made(families.Network(family="roformer", arch="BSRoformer", config=config))
    samples, kinds = (
        model.config.chunk,
        {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32},
    )
    mix, found, stems = 0.1 * torch.randn(1, 2, samples), {}, {}
    for name, dtype in kinds.items():
        each = copy.deepcopy(model)
        each.prepare(samples, torch.device("cpu"), dtype)
        if name == "int8":
            each.trunk = torch.ao.quantization.quantize_dynamic(each.trunk, {nn.Linear})
        stems[name] = each(mix)
        found[name] = best(lambda each=each: each(mix))
    return {**found, "product": float("nan"), "SNR": snr(stems["int8"], stems["float32"])}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = ("float32", "bfloat16", "int8", "product", "SNR")
    print(f"{torch.backends.quantized.engine}; ms\n\n| layer | {' | '.join(heads)} | gain |")
    print(f"|---|{'---:|' * (len(heads) + 1)}")
    parts = [(name, lambda sizes=sizes: linear(*sizes)) for name, sizes in LINEARS.items()]
    parts += [(name, lambda sizes=sizes: convolution(*sizes)) for name, sizes in CONVOLUTIONS.items()]
    with torch.inference_mode():
        for name, measure in [*parts, ("BS-RoFormer 256, three pairs of layers", network)]:
            found = measure()
            gain = min(found["float32"], found["bfloat16"]) / found["int8"]
            cells = " | ".join(f"{found[head]:.3g}" for head in heads)
            print(f"| {name} | {cells} | {gain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
