"""docs/deploy: what is there can be read by who reads it, and the commands in it are sepcli's.

The steps of the Dockerfile are run by hand (`python -m tests.deploy`): they install gigabytes. Kubernetes is
not here; its files are read as YAML, and their commands as the shell of a pod would give them to sepcli.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib

import pytest
import yaml

from sepcli.batch.inputs import parse_shard
from tests.deploy import DOCKERFILE, ROOT, SYSTEM, steps
from tests.recipes import parse

FILES = sorted(DOCKERFILE.parent.glob("*.yaml"))
STEPS = list(steps(DOCKERFILE.read_text()))
KNOWN = {"FROM", "ARG", "COPY", "RUN", "ENV", "VOLUME", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def texts(name):
    return [step.text for step in STEPS if step.name == name]


def found(value, key):
    """All values of a key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from found(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, key)


def given(line, **variables):
    """What `sepcli` gets where a shell has this line."""
    script = 'sepcli() { printf "%s\\n" "$@"; }\n' + line.removeprefix("exec ")
    done = subprocess.run(["sh", "-euc", script], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_is_in_the_folder():
    assert sorted(path.name for path in DOCKERFILE.parent.iterdir()) == [
        "Dockerfile",
        "job.yaml",
        "rayjob.yaml",
    ]
    page = (ROOT / "docs" / "scale.md").read_text()
    assert all(f"deploy/{name}" in page for name in ("Dockerfile", "job.yaml", "rayjob.yaml"))


def test_the_image_has_all_of_the_package_and_runs_as_a_user():
    assert {step.name for step in STEPS} <= KNOWN
    copied = [path for text in texts("COPY") if not text.startswith("--from") for path in text.split()[:-1]]
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    assert needed | {"sepcli"} == set(copied)
    (extras,) = (text.partition("=")[2] for text in texts("ARG") if text.startswith("EXTRAS="))
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    names = [step.name for step in STEPS]
    assert texts("USER") == ["sepcli"] and names.index("USER") < names.index("ENTRYPOINT")
    assert texts("ENTRYPOINT") == ['["sepcli"]']
    assert [f"HF_HOME={path}" for path in texts("VOLUME")] == texts("ENV")


def test_the_programs_of_the_steps():
    """As the script knows them; and sepcli's own commands."""
    for text in texts("RUN"):
        for command in text.split(" && "):
            program, *words = shlex.split(command)
            assert program in (*SYSTEM, "pip", "mkdir", "rm", "sepcli"), command
            assert program != "sepcli" or parse(words) is None, command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_kubernetes_is_given(path):
    (document,) = yaml.safe_load_all(path.read_text())
    assert {"apiVersion", "kind", "metadata", "spec"} == set(document)
    mounted = {mount["name"] for mounts in found(document, "volumeMounts") for mount in mounts}
    volumes = {volume["name"] for each in found(document, "volumes") for volume in each}
    assert mounted == volumes
    containers = [container for each in found(document, "containers") for container in each]
    for container in containers:
        assert container["image"] == "sepcli" and container["envFrom"], "all of them need the credentials"
        has = container["resources"]
        assert has["limits"].items() <= has["requests"].items()


def test_the_pods_of_a_job_divide_the_batch():
    job = yaml.safe_load((DOCKERFILE.parent / "job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (line,) = container["args"]
    shards = []
    for index in range(job["completions"]):
        words = given(line, JOB_COMPLETION_INDEX=str(index))
        assert parse(words) is None, words
        shards.append(parse_shard(words[words.index("--shard") + 1]))
    assert [(shard.index, shard.count) for shard in shards] == [
        (k + 1, len(shards)) for k in range(len(shards))
    ]
    assert container["resources"]["requests"]["cpu"] == words[words.index("--threads") + 1]
    codes = dict(re.findall(r"^\| ([\d, ]+) \| (\w+)", (ROOT / "README.md").read_text(), re.M))
    assert [codes[str(code)] for each in found(job, "values") for code in each] == ["some", "usage", "model"]


def test_the_command_on_ray():
    job = yaml.safe_load((DOCKERFILE.parent / "rayjob.yaml").read_text())["spec"]
    words = given(job["entrypoint"])
    assert parse(words) is None and words[words.index("--ray") + 1] == "auto"
    threads = int(words[words.index("--threads") + 1])
    cluster = job["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["cpu"]) % threads == 0
