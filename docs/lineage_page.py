"""docs/lineage.md: the systems that sepcli's sources name, and what it can do with each; the text is here.

Parameters and times are those of tests/bench/results/families.json. `python docs/generate.py` calls it.
"""

# ruff: noqa: E501  (the rows of a Markdown table can't be wrapped)

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "tests" / "bench" / "results" / "families.json"

HEAD = """\
# Lineage

Every system that sepcli is built from, and every one that those are compared with: what it is, how well it is said to
work, what it costs, and what sepcli does with it. The sources are five:

- "Improving Source Extraction with Diffusion and Consistency Models" (DiCoSe);
- the paper of LASAFT-Net-v2, and its page;
- "Efficient and Fast Generative-Based Singing Voice Separation using a Latent Diffusion Model" (LDM-dmx);
- slides on "Hybrid Transformers for Music Source Separation" (HT Demucs).

*Parameters* are counted on our network, all stems together. *CPU* is the processor time of one second of audio, by our
network with random weights: float32, one thread, without overlap ([all families](benchmarks.md#all-families) has more
of it, the machine and the date). Samplers take the published number of steps; MSDM's and ISDM's time is calculated from
calls with two and three. A dash: not measured, or not there.

*Figures* are published ones, not ours: vocals / drums / bass / other, and the mean, in dB of SDR on the test set of
MUSDB18, unless the row says otherwise. That SDR is mostly the median of frames and songs (museval);
"MDX21" is the mean over whole songs of the hidden set of the Music Demixing Challenge 2021. Rows are comparable only
where metric, set and training data are the same.

*In sepcli*: **load** published weights, **train** by a preset, or why not. No published weights but Spleeter's two stems
could be opened where sepcli was written; equality with the originals was shown on random weights
([provenance](provenance.md)).
"""


@dataclass(frozen=True)
class System:
    """A row of the page."""

    name: str
    year: int
    idea: str
    here: str  # what sepcli can do with it
    figures: str = "-"
    network: str = ""  # in families.json


@dataclass(frozen=True)
class Group:
    """A table of the page."""

    title: str
    systems: tuple[System, ...]
    text: str = ""


GROUPS = (
    Group(
        "Spectrograms: masks and magnitudes",
        (
            System(
                "Ideal ratio mask",
                2018,
                "no separator: the best that a mask on the mix's magnitudes can do",
                "measure with it: `evaluate -m oracle:irm1`",
                "LSD 0.64, Mel-MAE 1.84 (vocals, LDM-dmx's table)",
            ),
            System(
                "Early networks (Grais 2014, Uhlich 2015 and 2017, Nugraha 2016, Liu and Yang 2018)",
                2014,
                "dense and recurrent networks on magnitudes; data by mixing stems anew, blending of networks",
                "no: never published as weights; UHL1 and UHL2 are closed",
            ),
            System(
                "MMDenseNet, MMDenseLSTM (TAK1, TAK2, TAK3)",
                2018,
                "densely connected networks on bands of frequency and on all of it, with LSTMs",
                "no: closed; another's training (6.87 / 6.22 / 4.80 / 4.43) has no licence",
            ),
            System(
                "CU-Net",
                2019,
                "a U-Net whose features are scaled by the wanted stem (FiLM): the LaSAFT line begins with it",
                "train ([page](cunet.md)): `cunet`; no weights were published",
                "-",
                "cunet",
            ),
            System(
                "Sams-Net",
                2019,
                "attention over slices of the spectrogram",
                "no: neither code nor weights are linked from its pages (arXiv:1909.05746)",
                "6.61 / 6.63 / 5.25 / 4.09",
            ),
            System(
                "Query-net",
                2019,
                "an example of a sound stands in for the name of a stem; it conditions a U-Net on magnitudes",
                "its encoder of examples, behind LaSAFT ([page](lasaft.md)): train `lasaft-query`; no weights of its own "
                "were published",
            ),
            System(
                "Open-Unmix (UMX)",
                2019,
                "three LSTMs on magnitudes, a Wiener filter behind; a network a stem",
                "load ([page](openunmix.md)): `umxhq`, `umx`, `umxl`, `umxse`; train",
                "6.32 / 5.73 / 5.23 / 4.02; MDX21 5.999 / 5.504 / 5.357 / 3.309, mean 5.042",
                "umxhq",
            ),
            System(
                "X-UMX (CrossNet-Open-Unmix)",
                2021,
                "Open-Unmix's networks share their means, and are trained on sums of stems",
                "load ([page](openunmix.md)); train",
                "6.61 / 6.47 / 5.43 / 4.64, mean 5.79; MDX21 6.341 / 5.807 / 5.615 / 3.722, mean 5.372",
                "xumx",
            ),
            System(
                "Spleeter",
                2020,
                "a small U-Net a stem; fast",
                "load ([page](spleeter.md)): `spleeter-2stems`, `-4stems`, `-5stems`; train. Its vocals network is inside sepcli (`duo`)",
                "6.86 / 6.71 / 5.51 / 4.55",
                "spleeter",
            ),
            System(
                "D3Net",
                2020,
                "dense blocks whose layers are dilated each in its own way, on two bands and on all",
                "load ([page](d3net.md)): `d3net`; train",
                "7.24 / 7.01 / 5.25 / 4.53, mean 6.01",
                "d3net",
            ),
            System(
                "ResUNetDecouple+",
                2021,
                "a deep residual U-Net; magnitudes and phases by themselves",
                "load the public ones, on subbands ([page](bytesep.md)): `resunet143`, `mobilenet-subband`",
                "8.98 / 6.62 / 6.04 / 5.29, mean 6.73 (of the paper's network)",
                "resunet143",
            ),
            System(
                "danna-sep (Kazane Team)",
                2021,
                "a U-Net with local attention (15.7 M parameters), a Demucs of four decoders (191.9 M) and X-UMX, blended",
                "load files of all three, and blend them ([page](danna.md))",
                "MDX21 7.686 / 7.018 / 6.993 / 4.901, mean 6.649",
            ),
        ),
    ),
    Group(
        "Complex spectrograms",
        (
            System(
                "TFC-TDF U-Net",
                2020,
                "real and imaginary parts as channels; blocks of convolutions, and dense layers along frequency",
                "train (`lasaft-v1-small` is built on its blocks)",
            ),
            System(
                "LaSAFT-Net-v1 (LaSAFT-GPoCM-Net)",
                2021,
                "one network for all stems; the wanted one chooses among latent sources by attention",
                "load ([page](lasaft.md)): `lasaft-v1-large`; train",
                "7.33 / 5.68 / 5.63 / 4.87, mean 5.88",
                "lasaft-v1",
            ),
            System(
                "LightSAFT (LaSAFT-Net-v1.1), v1.2",
                2021,
                "the same, lighter",
                "train: `lasaft-v1.1`, `lasaft-v1.2`; load files of one's own",
                "MDX21 6.685 / 5.272 / 5.498 / 4.121, mean 5.394; v1.2 7.275 / 5.935 / 5.823 / 4.557, mean 5.897",
            ),
            System(
                "LASAFT-Net-v2",
                2022,
                "the attention listens to the mix too, on the side of the query and of the keys",
                "load ([page](lasaft.md)): `lasaft-v2-large`, `lasaft-v2-light`; train",
                "7.78 / 6.25 / 5.64 / 5.09, mean 6.19 (paper); MDX21 7.354 / 5.996 / 5.894 / 4.595, mean 5.960",
                "lasaft-v2",
            ),
            System(
                "AMSS-Net",
                2021,
                "edits a mix by a text's instruction; separation is one of them",
                "no: the public repository lacks the networks, and there are no weights",
                "6.78 / 5.92 / 5.10 / 4.51, mean 5.58",
            ),
            System(
                "KUIELab-MDX-Net",
                2021,
                "TFC-TDF v2, a network a stem; a mixer behind them; Demucs v2 blended in",
                "load the whole ensembles ([page](mdxnet.md)): `mdx-kuielab-a-complete`, `mdx-kuielab-b-complete`; train a network",
                "MDX21 8.901 / 7.173 / 7.232 / 5.636, mean 7.236 (the whole)",
                "kuielab-a",
            ),
            System(
                "BS-RNN",
                2023,
                "bands of frequency; LSTMs along time and along bands estimate a complex mask",
                "load another's trainings ([page](bsrnn.md)): `bsrnn-large`, `bsrnn-opt`, `bsrnn-simo-opt`; train",
                "10.47 / 10.15 / 8.16 / 7.08, mean 8.97 (1,750 songs more)",
                "bsrnn",
            ),
        ),
    ),
    Group(
        "Waveforms, and both",
        (
            System(
                "Wavenet for separation (Lluís)",
                2019,
                "dilated convolutions on samples",
                "no: named in passing, compared with by none of the sources",
            ),
            System(
                "Wave-U-Net",
                2018,
                "a U-Net on samples",
                "load files of one's own ([page](waveunet.md))",
                "M5-HighSR: vocals 4.95, accompaniment 11.16; M6: mean 3.2",
                "waveunet-m5",
            ),
            System(
                "Wave-U-Net in PyTorch",
                2020,
                "its authors' later one: shallower, wider, a network a stem",
                "load files of one's own ([page](waveunet.md))",
                "-",
                "waveunet-torch",
            ),
            System(
                "Conv-TasNet",
                2019,
                "learnt frames of a few samples; dilated convolutions mask them",
                "load ([page](demucs.md)): `tasnet-v1`, `tasnet-v2`, `-extra`; train: `tasnet`",
                "mean 5.7; 150 songs more: 6.3",
                "conv-tasnet",
            ),
            System(
                "Meta-TasNet",
                2020,
                "Conv-TasNet on three rates, its weights generated from the wanted stem (45.5 M values)",
                "load the published file, or one of one's own ([page](metatasnet.md))",
                "6.40 / 5.91 / 5.58 / 4.19, mean 5.52",
                "meta-tasnet",
            ),
            System(
                "Demucs v1, v2",
                2019,
                "a U-Net on samples, LSTMs at its bottom",
                "load ([page](demucs.md)): `demucs-v2`, `demucs-v1` and others",
                "6.84 / 6.86 / 7.01 / 4.42, mean 6.28",
                "demucs-v2",
            ),
            System(
                "Demucs48-HQ",
                2021,
                "Demucs v2, narrower, trained without compressed audio: a baseline of MDX21",
                "load: `demucs-v2-hq`",
                "MDX21 6.496 / 6.509 / 6.470 / 4.018, mean 5.873",
            ),
            System(
                "Demucs++",
                2021,
                "Hybrid Demucs as it won MDX21's board A: two hybrid networks and two on samples",
                "load: it is `mdx`",
                "MDX21 7.968 / 8.037 / 8.115 / 5.193, mean 7.328",
                "mdx",
            ),
            System(
                "Hybrid Demucs (H-Demucs)",
                2021,
                "two U-Nets, on samples and on the spectrogram, with a common bottom",
                "load: `hdemucs_mmi`",
                "8.35 / 8.12 / 8.43 / 5.65, mean 7.64; 800 songs more: 8.75 / 9.31 / 9.13 / 6.18, mean 8.34",
                "hdemucs",
            ),
            System(
                "HT Demucs",
                2023,
                "a transformer between the two",
                "load: `htdemucs`, `htdemucs_ft`, `htdemucs_6s`; train",
                "8.93 / 10.05 / 9.78 / 6.42, mean 8.80 (800 songs more)",
                "htdemucs",
            ),
            System(
                "Sparse HT Demucs",
                2023,
                "longer context by sparse attention; a network a stem",
                "train: `sparse-htdemucs`; no weights were published",
                "9.37 / 10.83 / 10.47 / 6.41, mean 9.20 (800 songs more)",
                "sparse-htdemucs",
            ),
            System(
                "Demucs + Gibbs",
                2022,
                "a Demucs that also hears estimates of the other stems, called again and again",
                "train: `demucs-gibbs`; neither code nor weights were published",
                "Slakh2100, SI-SDRi: bass 17.16, drums 19.61, guitar 17.82, piano 16.32, mean 17.73",
                "demucs-gibbs",
            ),
        ),
    ),
    Group(
        "Generative systems",
        (
            System(
                "InstGlow",
                2022,
                "a flow for each source is the prior; the mix is explained by 300 steps of optimisation",
                "no: weights and settings in one archive without a hash; minutes a minute on a GPU, and worse than Spleeter",
                "3.92 / 3.85 / 2.58 / 2.37",
            ),
            System(
                "MSDM",
                2024,
                "one diffusion model of all stems together, trained without mixes",
                "train: `msdm`; load files of one's own ([page](dicose.md))",
                "Slakh2100, SI-SDRi: bass 17.12, drums 18.68, guitar 15.38, piano 14.73, mean 16.48",
                "msdm",
            ),
            System(
                "ISDM",
                2024,
                "a diffusion model a stem",
                "train: `isdm`",
                "Slakh2100, SI-SDRi: bass 19.36, drums 20.90, guitar 14.70, piano 14.13, mean 17.27",
                "isdm",
            ),
            System("MSG-LD", 2024, "MSDM on the latents of a VAE", "no: named only; it makes no vocals"),
            System(
                "DiCoSe, deterministic",
                2025,
                "a U-Net on samples, told which stem by a label",
                "load ([page](dicose.md)): `dicose-det`; train",
                "Slakh2100, SI-SDRi: bass 20.04, drums 20.88, guitar 23.82, piano 20.82, mean 21.39",
                "dicose-det",
            ),
            System(
                "DiCoSe, diffusion",
                2025,
                "a diffusion model refines what the deterministic one makes",
                "load: `dicose-diffusion`; train",
                "Slakh2100, SI-SDRi: mean 22.58",
                "dicose-diffusion",
            ),
            System(
                "DiCoSe, consistency (CD)",
                2025,
                "the same distilled to one to four steps",
                "load: `dicose-cd`; distill",
                "Slakh2100, SI-SDRi: one step 22.93, two 23.68, four 24.22",
                "dicose-cd",
            ),
            System(
                "EnCodec", 2022, "a codec whose latents LDM-dmx works on", "load: `encodec-48k`", "-", "encodec"
            ),
            System(
                "LDM-dmx",
                2025,
                "latent diffusion makes the voice, told by the mix",
                "train ([page](ldm.md)); no weights were published",
                "LSD 1.30, Mel-MAE 6.43, log-F0 RMSE 0.198, PESQ 1.29 (vocals)",
                "ldm",
            ),
        ),
    ),
    Group(
        "Since then",
        (
            System(
                "TFC-TDF v3 (MDX23C)",
                2023,
                "KUIELab's next: bands as channels, one network for several stems",
                "load ([page](mdx23c.md)); train",
                "-",
                "mdx23c",
            ),
            System(
                "SCNet",
                2024,
                "bands of frequency compressed the less the lower; LSTMs along both axes",
                "load ([page](scnet.md)); train",
                "`scnet-xl-ihf` 10.08 (SDR by MSST)",
                "scnet",
            ),
            System(
                "BS-RoFormer",
                2023,
                "BS-RNN's bands; transformers with rotary positions along both axes",
                "load ([page](roformer.md)); train",
                "-",
                "bs-roformer",
            ),
            System(
                "Mel-Band RoFormer",
                2023,
                "the same on overlapping bands of the mel scale",
                "load ([page](roformer.md)); train",
                "-",
                "mel-roformer",
            ),
        ),
        "No source names them; they are what people use today ([models](models.md)).",
    ),
)


def lineage() -> str:
    """The text of lineage.md, without the first line."""
    rows: Mapping[str, Any] = json.loads(RESULTS.read_text())["runs"] if RESULTS.is_file() else {}
    text = HEAD
    for group in GROUPS:
        text += f"\n## {group.title}\n\n" + (f"{group.text}\n\n" if group.text else "")
        text += (
            "| system | year | idea | parameters | CPU | figures | in sepcli |\n|---|---|---|---|---|---|---|\n"
        )
        for system in group.systems:
            row = rows.get(system.network, {"ways": {}})
            count = f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "-"
            way = row["ways"].get("float32,1")
            cost = f"{way['cpu']:.2g} s" if way else "-"
            text += f"| {system.name} | {system.year} | {system.idea} | {count} | {cost} | {system.figures} | {system.here} |\n"
    return text
