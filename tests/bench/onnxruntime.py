"""MDX-Net by our network and by onnxruntime: processor time of one call, on random weights.

    python -m tests.bench.onnxruntime

Both in one process, one thread, in turns; the best of the runs counts. Only the network: Fourier transforms are
the same for both.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from sepcli.models.mdxnet.config import MDXNetConfig
from sepcli.models.mdxnet.network import MDXNet
from tests import onnxfiles
from tests.bench import results
from tests.bench.results import Figure, Record

# Published kinds: of KUIELab and small ones of UVR, and of UVR's newest.
KINDS = {
    "32 x 2048": {"growth": 32, "nfft": 6144, "bins": 2048},
    "48 x 2560": {"growth": 48, "nfft": 5120, "bins": 2560},
}


def bench(work: Path, runs: int) -> Record:
    """Our time over theirs, for each kind."""
    import onnxruntime

    figures, rows = [], {}
    for name, settings in KINDS.items():
        torch.manual_seed(0)
        model = MDXNet(MDXNetConfig(sources=("vocals",), folded=True, **settings)).eval()
        file = onnxfiles.write(work / "network.onnx", model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        model.prepare(model.segment.samples or 0, torch.device("cpu"), torch.float32)
        x = torch.randn(1, 4, model.config.frames, model.config.bins)
        theirs = {"input": x.mT.contiguous().numpy()}
        times: dict[str, list[float]] = {"sepcli": [], "onnxruntime": []}
        with torch.inference_mode():
            for _ in range(runs):
                start = time.process_time()
                model.network(x)
                times["sepcli"].append(time.process_time() - start)
                start = time.process_time()
                session.run(None, theirs)
                times["onnxruntime"].append(time.process_time() - start)
        ours, other = min(times["sepcli"]), min(times["onnxruntime"])
        figures.append(Figure(f"{name}: CPU time, sepcli", ours, "s"))
        figures.append(Figure(f"{name}: CPU time, onnxruntime", other, "s"))
        figures.append(Figure(f"{name}: over onnxruntime's", ours / other, "", "<= 1.2"))
        rows[name] = times
    settings = {"threads": 1, "runs": runs, "onnxruntime": onnxruntime.__version__, "call": "256 frames, 5.9 s"}
    return Record("onnxruntime", settings, figures, rows)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with results.workplace(options.work) as work:
        record = bench(work, options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
