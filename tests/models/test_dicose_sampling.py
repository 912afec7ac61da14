"""Separators that sample: what they count and record, and the noise they see. Tiny networks."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import soundfile
import torch

from sepcli.cli.app import main
from sepcli.engine.noise import Noise
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import UsageError
from sepcli.loading import save_model
from sepcli.models.config import parse_options
from sepcli.models.dicose import FAMILY, joint, refined
from sepcli.models.dicose.joint import JointOptions, is_stable, stable_steps
from sepcli.models.dicose.refined import ConsistencyOptions, Refined
from sepcli.models.dicose.unet import UNet
from tests.contracts import Case, check_reduced
from tests.test_jobs import song

CPU = torch.device("cpu")
ARCHS = ("Diffusion", "Consistency", "MSDM", "ISDM")
# A grid that is stable with few steps, for what needs no published one.
TAME = {"steps": "3", "sigma_min": "0.1", "churn": "0.3", "corrections": "2"}
TINY = {
    "width": 24,
    "patch": 4,
    "multipliers": (1, 2, 2),
    "factors": (4, 2),
    "blocks": (1, 1),
    "attentions": (False, True),
    "heads": 2,
    "head_features": 4,
    "sources": ("drums", "bass", "vocals"),
    "segment": 256,
    "samplerate": 1000,
}


def build(arch, options=None, **config):
    torch.manual_seed(0)
    known = FAMILY.archs[arch]
    model = known.build(known.config(**{**TINY, **config})).eval()
    for unet in model.modules():
        if isinstance(unet, UNet):  # norms that do something
            for parameter in unet.parameters():
                parameter.data.add_(0.1 * torch.randn_like(parameter))
            # Heads that keep results within full scale, where separators clip. With heads of ten times as much
            # only one sample in seven is not clipped, and rounding, relative to values of 40 before that, comes
            # to 1.3e-5 of what is left; as it is, to 1e-6 of the 1e-5 that the laws allow.
            head = unet.to_out.module_list[0].block
            for module in (head.block2.project, head.to_out):
                for parameter in module.parameters():
                    parameter.data.mul_(0.1)
    if options is not None:
        model.options = parse_options(known, options)
    return model


def count_passes(model):
    """How many rows went through each U-Net."""
    passes = dict.fromkeys((name for name, module in model.named_modules() if isinstance(module, UNet)), 0)

    def counted(name):
        def count(module, inputs, output):
            passes[name] += len(inputs[0])

        return count

    for name in passes:
        model.get_submodule(name).register_forward_hook(counted(name))
    return passes


VARIANTS = {
    "Diffusion": {"two steps": {"steps": "2"}, "no corrections": {"steps": "3", "corrections": "1"}},
    "Consistency": {"one step": {"steps": "1"}, "as published": {}},
    "MSDM": {"dirac": TAME, "gaussian": {**TAME, "posterior": "gaussian"}},
    "ISDM": {"dirac": TAME, "gaussian": {**TAME, "posterior": "gaussian"}},
}
LENGTHS = {"Diffusion": [1, 100], "Consistency": [1, 100], "MSDM": [100], "ISDM": [100]}
NETWORKS = {
    arch: {name: Case(partial(build, arch, options), LENGTHS[arch]) for name, options in variants.items()}
    for arch, variants in VARIANTS.items()
}
MANY = {"steps": "28", "churn": "0", "corrections": "1"}
NETWORKS["MSDM"]["many calls"] = Case(partial(build, "MSDM", MANY), [50], tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_through_the_engine_for_any_batch_size_and_selection(arch):
    few = {} if arch in ("Diffusion", "Consistency") else TAME
    mix = 0.1 * torch.randn(2, 1, 700, generator=torch.Generator().manual_seed(1))  # two sides

    def separate(model, **settings):
        engine = Engine(model, Settings(**settings), CPU, torch.float32)
        return torch.cat(list(engine.separate(iter(mix.split(300, dim=-1)))), dim=-1)

    whole = separate(build(arch, few), seed=3)
    peak = whole.abs().max()
    for other in (
        separate(build(arch, few), seed=3, batch_size=5),
        separate(build(arch, few).select(["vocals", "drums", "bass"]), seed=3)[[1, 2, 0]],
    ):
        assert (other - whole).abs().max() <= 1e-3 * peak
    one = separate(build(arch, few).select(["bass"]), seed=3, batch_size=2)
    assert (one[0] - whole[1]).abs().max() <= 1e-3 * peak
    assert (separate(build(arch, few), seed=4) - whole).abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("Diffusion", 405_231_900 + 405_496_220),
        ("Consistency", 405_231_900 + 405_496_220),
        ("MSDM", 405_497_700),
        ("ISDM", 4 * 405_491_100),
    ],
)
def test_published_numbers_of_parameters(arch, count):
    known = FAMILY.archs[arch]
    with torch.device("meta"):
        model = known.build(known.config())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("arch", ARCHS)
def test_in_reduced_precision(arch):
    """It runs and hears the same; what is added up over steps is in single precision."""
    options = {"steps": "1"} if arch in ("Diffusion", "Consistency") else TAME
    check_reduced(build(arch, options), 0.1 * torch.randn(1, 1, 256), torch.bfloat16, 15)


# --- DiCoSe ---


@pytest.mark.parametrize(
    ("arch", "options", "calls"),
    [
        ("Diffusion", {}, 10),
        ("Diffusion", {"steps": "3", "corrections": "1"}, 3),
        ("Consistency", {"steps": "1"}, 1),
        ("Consistency", {}, 4),
        ("Consistency", {"steps": "7"}, 7),
    ],
)
def test_the_base_runs_once_for_each_chunk_and_target(arch, options, calls):
    model = build(arch, options)
    passes = count_passes(model)
    model(torch.randn(2, 1, 256))
    assert passes == {"base": 2 * 3, "unet": 2 * 3 * calls}
    narrowed = model.select(["bass"])
    passes = count_passes(narrowed)
    narrowed(torch.randn(1, 1, 256))
    assert passes == {"base": 1, "unet": calls}


@pytest.mark.parametrize("arch", ["Diffusion", "Consistency"])
def test_with_no_noise_to_take_away_the_estimate_stays(arch):
    """At the lowest level: exactly for g, nearly for D."""
    model: Refined = build(arch, {"steps": "1", "sigma_max": "0.0001"})
    mix = 0.1 * torch.randn(1, 1, 256)
    estimate, _ = model.hear(*model.rows(mix))
    estimate = model.stems(estimate)
    assert 0 < (model(mix) - estimate.clamp(-1, 1)).abs().max() < 0.02


def test_the_base_does_not_learn():
    model = build("Diffusion").train()
    model(torch.randn(1, 1, 256)).sum().backward()
    assert all(parameter.grad is None for parameter in model.base.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.unet.parameters())


def test_published_levels_follow_the_steps():
    levels = {steps: ConsistencyOptions(steps).level for steps in (1, 2, 3, 4, 8)}
    assert levels == {1: 0.01244, 2: 0.2497, 3: 0.2495, 4: 0.2495, 8: 0.2495}
    assert ConsistencyOptions(1, 0.5).level == 0.5


# --- options and what is recorded ---


def test_what_is_used_is_recorded():
    assert build("Consistency", {"steps": "2"}).used() == {"steps": 2, "sigma_max": 0.2497}
    assert build("Diffusion").used() == {
        "steps": 5,
        "corrections": 2,
        "sigma_max": 0.01,
        "sigma_min": 1e-4,
        "churn": 20.0,
    }
    assert build("MSDM").used() == {
        "steps": 150,
        "corrections": 2,
        "posterior": "dirac",
        "churn": 20.0,
        "sigma_max": 1.0,
        "sigma_min": 1e-4,
        "rho": 7.0,
        "constrained": "drums",
    }
    assert build("MSDM", {"posterior": "gaussian"}).used()["churn"] == 40.0
    assert build("ISDM").used()["churn"] == 40.0
    model = build("ISDM", {"churn": "3", "constrained": "vocals"})
    assert (model.used()["churn"], model.used()["constrained"]) == (3.0, "vocals")
    ensemble = Engine(model.select(["bass"]), Settings(), CPU, torch.float32).stage.ensemble
    assert ensemble.used() == model.used()


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("Diffusion", {"steps": "0"}, "steps is 0, but must be 1 or more"),
        ("Diffusion", {"corrections": "0"}, "corrections"),
        ("Diffusion", {"sigma_max": "0.00001"}, "sigma_max is 1e-05, but must be 0.0001 or more"),
        ("Diffusion", {"churn": "-1"}, "churn"),
        ("Consistency", {"sigma_max": "-1"}, "sigma_max"),
        ("Consistency", {"sigma_max": "high"}, "is not float"),
        ("Consistency", {"corrections": "2"}, "has no option 'corrections': it has steps, sigma_max"),
        ("MSDM", {"posterior": "laplace"}, "posterior is 'laplace', but can be dirac or gaussian"),
        ("ISDM", {"rho": "nan"}, "rho"),
    ],
)
def test_bad_options_are_refused(arch, options, message):
    with pytest.raises(UsageError, match=message):
        parse_options(FAMILY.archs[arch], options)


def test_a_constrained_stem_must_be_there():
    with pytest.raises(UsageError, match="no stem 'piano'"):
        build("MSDM", {"constrained": "piano", "steps": "2"})(torch.zeros(1, 1, 256))


# --- MSDM and ISDM ---


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["MSDM", "ISDM"])
@pytest.mark.parametrize("constrained", ["drums", "vocals"])
@pytest.mark.parametrize("steps", ["1", "3", "30"])
def test_stems_add_up_to_the_mix(arch, constrained, steps):
    model = build(arch, {"steps": steps, "constrained": constrained, "corrections": "1", "churn": "0"})
    mix = 0.1 * torch.randn(2, 1, 200)
    stems = model(mix)
    assert (stems.sum(1) - mix).abs().max() <= 1e-6 * stems.abs().max()


@pytest.mark.slow
def test_all_are_drawn_whichever_are_wanted():
    model = build("ISDM", {"steps": "3", "corrections": "2"}).select(["bass"])
    passes = count_passes(model)
    model(torch.randn(1, 1, 256))
    assert passes == {f"unets.{k}": 6 for k in range(3)}


@pytest.mark.parametrize(
    ("posterior", "churn", "least"),
    [
        ("dirac", 0.0, 28),
        ("dirac", 20.0, 52),
        ("dirac", 40.0, 55),
        ("gaussian", 0.0, 23),
        ("gaussian", 40.0, 40),
    ],
)
def test_the_least_number_of_stable_steps(posterior, churn, least):
    """Of four stems, on the published grid; found before by running the originals."""
    options = JointOptions(1, posterior=posterior, churn=churn)
    assert stable_steps(options, 4) == least
    assert not is_stable(replace(options, steps=least - 1), 4)


@pytest.mark.parametrize(("posterior", "steps"), [("dirac", 55), ("gaussian", 40)])
def test_below_it_the_mixs_sum_runs_away_and_the_user_is_told(posterior, steps):
    """Stems that are silence: all that is left is the sum."""
    four = {"sources": ("bass", "drums", "guitar", "piano")}
    levels = {}
    for count in (steps // 4, steps):
        model = build("ISDM", {"steps": str(count), "posterior": posterior, "corrections": "1"}, **four)
        model.denoise = lambda x, sigma: torch.zeros_like(x)
        levels[count] = model(0.1 * torch.ones(1, 1, 256)).abs().max()
        told = model.notices(CPU)
        assert bool(told) == (count < steps)
        if told:
            assert f"from options=steps={steps} on" in told[0] and f"ISDM with {count} steps" in told[0]
    assert levels[steps // 4] > 5 * levels[steps]


def test_noise_is_the_places(monkeypatch):
    """The same samples of the track get the same noise, wherever the call begins."""
    model = build("MSDM", {"steps": "2", "posterior": "gaussian"})
    model.denoise = lambda x, sigma: 0.5 * x  # sample by sample
    mix = 0.1 * torch.randn(1, 1, 256)
    early = model(mix, noise=Noise(5, [0], [0]))
    late = model(mix[..., 64:], noise=Noise(5, [64], [0]))
    assert torch.allclose(early[..., 64:], late, atol=1e-5 * early.abs().max().item())
    assert not torch.allclose(early[..., 64:], model(mix[..., 64:], noise=Noise(6, [64], [0])), atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "given"),
    [
        ("Diffusion", {"steps": "3", "corrections": "2"}),
        ("Diffusion", {"churn": "0", "corrections": "1"}),
        ("Consistency", {"steps": "1"}),
        ("Consistency", {"steps": "4"}),
        ("MSDM", {"steps": "2", "corrections": "3"}),
        ("ISDM", {"steps": "2", "posterior": "gaussian"}),
    ],
)
def test_what_a_thread_draws_ahead_is_what_the_noise_is(arch, given, monkeypatch):
    """All of it is asked for, but where nothing is churned; and the thread ends with the sampling."""
    asked = []
    normal = Noise.normal
    monkeypatch.setattr(Noise, "normal", lambda noise, k, *rest: asked.append(k) or normal(noise, k, *rest))
    model = build(arch, given)
    out = model(torch.randn(1, 1, 256, generator=torch.Generator().manual_seed(0)))
    if "churn" in given:  # but the start's, and those that a thread was ahead
        assert len(set(asked)) <= 1 + 2 + 1 < model.options.draws
    else:
        assert sorted(set(asked)) == [*range(model.options.draws)]
    assert not [thread for thread in threading.enumerate() if thread.name == "sepcli-prefetch"]

    @contextmanager
    def at_once(noise, sources, like, count):
        yield lambda k: torch.cat([noise.normal(k, source, 1, like.shape[-1]) for source in sources], dim=1)

    for module in (joint, refined):
        monkeypatch.setattr(module, "draws", at_once)
    assert torch.equal(model(torch.randn(1, 1, 256, generator=torch.Generator().manual_seed(0))), out)


def test_a_network_that_fails_leaves_no_thread():
    model = build("Consistency", {"steps": "4"})
    model.unet.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(torch.randn(1, 1, 256))
    assert not [thread for thread in threading.enumerate() if thread.name == "sepcli-prefetch"]


# --- from the shell ---


@pytest.mark.slow
def test_from_the_shell_the_values_used_are_in_the_result(tmp_path, monkeypatch, capfd):
    """Any rate and channel count in; `sigma_max` follows the steps; the seed is the only chance."""
    model = build("Consistency")
    save_model(
        model.state_dict(),
        tmp_path / "tiny.safetensors",
        family="dicose",
        arch="Consistency",
        config=model.config,
    )
    monkeypatch.chdir(tmp_path)
    song("a.wav", seconds=1)  # stereo, 44.1 kHz

    def separate(folder, *arguments):
        code = main(
            ["separate", "a.wav", "-m", "tiny.safetensors", "-t", "bass", "-o", folder, "--json", *arguments]
        )
        out, _ = capfd.readouterr()
        return code, json.loads(out), soundfile.read(f"{folder}/tiny/a/bass.wav")[0] if not code else None

    code, result, whole = separate("one", "-O", "steps=2")
    assert code == 0 and result["options"] == {"steps": 2, "sigma_max": 0.2497}
    assert whole.shape == (44100, 2) and not (whole[:, 0] == whole[:, 1]).all()
    line = json.loads((tmp_path / "one/.sepcli.jsonl").read_text().splitlines()[-1])
    assert line["options"] == result["options"]
    for folder, arguments in (("batch", ("--batch-size", "7")), ("again", ())):
        _, _, other = separate(folder, "-O", "steps=2", *arguments)
        assert abs(other - whole).max() < 1e-4
    _, _, other = separate("seed", "-O", "steps=2", "--seed", "1")
    assert abs(other - whole).max() > 1e-3
    _, result, _ = separate("given", "-O", "steps=2", "-O", "sigma_max=0.03")
    assert result["options"] == {"steps": 2, "sigma_max": 0.03}
    code, result, _ = separate("bad", "-O", "steps=0")
    assert code == 2 and "steps is 0, but must be 1 or more" in result["error"]["message"]


def test_from_the_shell_too_few_steps_are_told(tmp_path, monkeypatch, capfd):
    model = build("MSDM")
    save_model(
        model.state_dict(), tmp_path / "tiny.safetensors", family="dicose", arch="MSDM", config=model.config
    )
    monkeypatch.chdir(tmp_path)
    song("a.wav", seconds=0.2)
    code = main(["separate", "a.wav", "-m", "tiny.safetensors", "-O", "steps=4", "-O", "corrections=1"])
    assert "MSDM with 4 steps grows without bounds" in capfd.readouterr().err and code == 0


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ARCHS)
def test_cuda_equals_the_cpu(arch):
    model = build(arch, {} if arch in ("Diffusion", "Consistency") else TAME)
    mix = 0.1 * torch.randn(1, 1, 700)
    outs = []
    for device in (CPU, torch.device("cuda", 0)):
        engine = Engine(model.select(model.sources), Settings(), device, torch.float32)
        outs.append(torch.cat(list(engine.separate(iter([mix]))), dim=-1))
    error = (outs[1] - outs[0]).square().sum() / outs[0].square().sum()
    assert -10 * torch.log10(error) > 50  # TF32 convolutions have ten bits
