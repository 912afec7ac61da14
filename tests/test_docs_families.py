"""The pages of the families name every model, preset and option that there is."""

from pathlib import Path

from sepcli.models.d3net import FAMILY as D3NET
from sepcli.models.dicose import FAMILY as DICOSE
from sepcli.models.dicose.refined import ConsistencyOptions, DiffusionOptions
from sepcli.models.ldm import FAMILY as LDM
from sepcli.models.mdxnet import FAMILY as MDXNET
from sepcli.models.openunmix import FAMILY as OPENUNMIX
from sepcli.models.spleeter import FAMILY as SPLEETER
from sepcli.training.config import preset_names, read_preset
from sepcli.weights.catalog import load_catalog

DOCS = Path(__file__).resolve().parent.parent / "docs"


def page(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def models(family):
    return [name for name, entry in load_catalog().items() if entry.family == family]


def presets(*beginnings):
    return [name for name in preset_names() if name.startswith(beginnings)]


def options(family):
    return [
        name for arch in family.archs.values() if arch.options for name in arch.options.__dataclass_fields__
    ]


def test_lasaft():
    names = [*models("lasaft"), *presets("lasaft")]
    assert names and [name for name in names if f"`{name}`" not in page("lasaft")] == []


def test_spleeter():
    names = [*models("spleeter"), *presets("spleeter")]
    assert names and [name for name in names if f"{name}" not in page("spleeter")] == []
    assert [name for name in options(SPLEETER) if f"`-O {name}=" not in page("spleeter")] == []


def test_openunmix():
    names = [*models("openunmix"), *presets("umx", "xumx")]
    assert names and [name for name in names if f"`{name}`" not in page("openunmix")] == []
    assert [name for name in options(OPENUNMIX) if f"`-O {name}=" not in page("openunmix")] == []


def test_cunet():
    names = presets("cunet")
    assert names and [name for name in names if f"--preset {name} " not in page("cunet")] == []


def test_d3net():
    names = [*models("d3net"), *presets("d3net"), *(f"-O {name}=" for name in options(D3NET))]
    assert len(names) == 5 and [name for name in names if f"`{name}" not in page("d3net")] == []


def test_bsrnn():
    names = [*models("bsrnn"), *presets("bsrnn")]
    assert names and [name for name in names if name not in page("bsrnn")] == []


def test_roformer():
    names = [name for name in preset_names() if "roformer" in name]
    assert names and [name for name in names if name not in page("roformer")] == []


def test_mdx23c():
    names = [*models("mdx23c"), *presets("mdx23c")]
    assert names and [name for name in names if name not in page("mdx23c")] == []


def test_mdxnet():
    names = [*presets("mdxnet"), *(f"-O {name}=" for name in options(MDXNET))]
    assert len(names) == 4 and [name for name in names if name not in page("mdxnet")] == []


def test_scnet():
    names = [*models("scnet"), *presets("scnet")]
    assert names and [name for name in names if f"{name}" not in page("scnet")] == []


def test_dicose():
    names = [*models("dicose"), *presets("dicose", "msdm", "isdm"), *options(DICOSE)]
    assert names and [name for name in names if f"`{name}`" not in page("dicose")] == []


def test_the_levels_of_dicose_are_those_that_are_used():
    text = page("dicose")
    for steps in (1, 2, 4):
        assert f"| Consistency | {steps} | {ConsistencyOptions(steps=steps).level} |" in text
    assert f"| Consistency | any other | {ConsistencyOptions(steps=7).level} |" in text
    assert f"| Diffusion | any | {DiffusionOptions().sigma_max} |" in text


def test_ldm():
    names = [*presets("ldm-"), *options(LDM)]
    missing = [name for name in names if f"`{name}`" not in page("ldm") and f" {name} " not in page("ldm")]
    assert names and not missing


def test_every_preset_says_what_it_is():
    assert [name for name in preset_names() if not read_preset(name)["about"]] == []
