"""Measurements of sepcli beside demucs 4.1.0, on one machine and in one run. pytest does not collect them.

    python -m tests.bench.speed          CPU and wall time of the two programs
    python -m tests.bench.memory         peak memory against the length of the audio; --full 60, --demucs
    python -m tests.bench.startup        what `sepcli --help` costs
    python -m tests.bench.rtf            time over duration, one thread
    python -m tests.bench.chain          a chain of models beside its models one by one
    python -m tests.bench.gpu_day        a CUDA device, in nine minutes; --dry: the same way on a CPU
    python -m tests.bench.dicose         the real time factors of DiCoSe's table
    python docs/generate.py              results/*.json -> docs/benchmarks.md

Run them in the root of the checkout, with the dependency group `dev` installed, on a machine that does nothing
else. Each writes results/<name>.json; --name keeps the figures of several machines apart. Most networks here
have random weights, so nothing is downloaded, and what comes out is no music: only time, memory and agreement
are measured. tests/test_bench.py runs every script in miniature.
"""
