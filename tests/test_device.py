import os
import subprocess
import sys

import pytest
import torch

from sepcli.batch import hardware
from sepcli.engine import device
from sepcli.errors import DeviceError, UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def cuda(major, minor=0):
    return device.Device("cuda:0", "for a test", "a GPU", (major, minor))


def test_auto_takes_what_is_there_and_says_why():
    chosen = device.choose_device("auto")
    assert chosen.reason and (chosen.torch.type == "cuda") == torch.cuda.is_available()


@pytest.mark.parametrize("absent", ["cuda", "cuda:0", "mps", "xpu", "xpu:1"])
def test_an_absent_device_is_an_error_never_the_cpu(absent, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="not available") as failure:
        device.choose_device(absent)
    assert failure.value.exit_code == 4


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_index_too_high_names_those_there_are(monkeypatch, kind):
    backend = getattr(torch, kind)
    monkeypatch.setattr(backend, "is_available", lambda: True)
    monkeypatch.setattr(backend, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=f"{kind}:0, {kind}:1"):
        device.choose_device(f"{kind}:2")


def test_auto_takes_the_first_of_cuda_mps_xpu_and_cpu(monkeypatch):
    """The availability of each is made up: no such device was ever used."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "one")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "current_device", lambda: 1)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda index: f"Arc {index}")
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 3)
    there = {torch.cuda: True, torch.backends.mps: True, torch.xpu: True}
    for backend in there:
        monkeypatch.setattr(backend, "is_available", lambda backend=backend: there[backend])
    found = []
    for backend in there:
        found.append(str(device.choose_device("auto")))
        there[backend] = False
    assert [*found, device.choose_device("auto").name] == ["cuda:1 (one)", "mps", "xpu:1 (Arc 1)", "cpu"]
    there[torch.xpu] = True
    asked = device.choose_device("xpu:2")
    assert asked == device.Device("xpu:2", "asked for", "Arc 2") and asked.type == "xpu"
    assert asked.torch == torch.device("xpu", 2)
    assert device.choose_precision("auto", asked, half=True).name == "float32"


@pytest.mark.parametrize("word", ["gpu", "cpu:0", "cuda:x", "tpu", "mps:0", "xpu:x"])
def test_another_word_is_a_usage_error(word):
    with pytest.raises(UsageError, match="choices are auto, cpu, cuda"):
        device.choose_device(word)


def test_where_bfloat16_is_native(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(device, "cpu_has_bfloat16", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, there=there: (8 if there else 7, 5))
        assert device.has_bfloat16(CPU) == device.has_bfloat16(CUDA) == there
    assert not device.has_bfloat16(torch.device("mps"))


def test_reduced_precision_only_where_declared_and_native(monkeypatch):
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    cpu = device.choose_device("cpu")
    assert device.choose_precision("auto", cpu, half=True).name == "bfloat16"
    assert device.choose_precision("auto", cuda(9), half=True).name == "float16"
    for where in (cpu, cuda(9)):
        assert device.choose_precision("auto", where, half=False).name == "float32"
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: False)
    for where in (cpu, cuda(6, 1)):
        assert device.choose_precision("auto", where, half=True).name == "float32"
    assert device.choose_precision("bfloat16", cpu, half=False).dtype == torch.bfloat16
    with pytest.raises(UsageError, match="choices are auto, float32"):
        device.choose_precision("int8", cpu, half=True)


def test_the_names_of_devices_and_types_are_torchs():
    assert device.choose_device("cpu").torch == CPU and cuda(9).torch == CUDA
    assert [device.dtype_of(name) for name in device.PRECISIONS] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


def test_what_is_certain_without_torch_is_what_torch_says(monkeypatch, tmp_path):
    certain = device.certainly_no_gpu()
    assert certain is None or certain == device.choose_device("auto")
    monkeypatch.setattr(sys, "platform", "linux")
    version = tmp_path / "version.py"
    monkeypatch.setattr(device, "torch_version_file", lambda: version)
    for text, reason in (
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "built without CUDA"),
        ("cuda = None\nhip = '6.2'\n", None),  # AMD: only torch knows
        ("cuda = None\nhip = None\nxpu: Optional[str] = '20250301'\n", None),  # Intel: the same
        ("cuda = None\nhip = None\nxpu: Optional[str] = None\n", "built without CUDA"),
        ("nothing that is known", None),
    ):
        version.write_text(text)
        found = device.certainly_no_gpu()
        assert (found is None) == (reason is None) and (found is None or reason in found.reason)

    def no_library(name):
        raise OSError(name)

    version.write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    monkeypatch.setattr(device.ctypes, "CDLL", no_library)
    assert "no CUDA device or driver" in device.certainly_no_gpu().reason
    monkeypatch.setattr(device.ctypes, "CDLL", str)
    assert device.certainly_no_gpu() is None  # a driver: torch may still find no device


def test_a_dry_run_takes_the_device_that_an_earlier_run_found(monkeypatch, tmp_path):
    asked = []

    def torch_finds(request):
        asked.append(request)
        return cuda(9)

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(hardware, "certainly_no_gpu", lambda: None)
    monkeypatch.setattr(hardware, "choose_device", torch_finds)
    monkeypatch.delitem(sys.modules, "torch")  # as in a process of its own
    hardware.remember("auto", cuda(9))
    assert hardware.found_device("auto") == cuda(9) and not asked
    assert hardware.found_device("cuda") == cuda(9) and asked == ["cuda"]  # another question
    assert hardware.found_device("cuda") == cuda(9) and asked == ["cuda"]  # which is remembered too
    assert hardware.found_device("auto") == cuda(9) and asked == ["cuda"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    hardware.found_device("auto")
    assert asked == ["cuda", "auto"]  # other GPUs are seen
    (tmp_path / "sepcli" / "device.json").write_text("{")
    hardware.found_device("auto")
    assert asked == ["cuda", "auto", "auto"]


def test_out_of_memory_is_recognised():
    assert device.is_out_of_memory(torch.OutOfMemoryError())
    assert device.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert device.is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not device.is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(
    "error, told",
    [(MemoryError(), True), (torch.OutOfMemoryError(), True), (RuntimeError("shape mismatch"), False)],
)
def test_out_of_memory_is_told_with_a_remedy(error, told):
    with pytest.raises(DeviceError if told else RuntimeError, match="Buy more" if told else "shape mismatch"):
        with device.told_of_memory("Buy more."):
            raise error


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_freed_memory_is_kept_for_reuse():
    code = (
        "import torch, os\n"
        "from sepcli.engine.device import tune_process\n"
        "{tune}\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "x = torch.ones(50_000_000); before = resident(); del x; print((before - resident()) // 2**20)\n"
    )

    def given_back(tune):
        done = subprocess.run([sys.executable, "-c", code.format(tune=tune)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    if given_back("") > 150:  # glibc: 190 MiB go back to the kernel at once
        assert given_back("tune_process()") < 20


@pytest.mark.slow
def test_torch_is_imported_without_looking_for_circles():
    code = (
        "import gc\n"
        "from sepcli.engine.device import tune_process\n"
        "looks = []; gc.callbacks.append(lambda phase, info: looks.append(info))\n"
        "class Circle:\n"
        "    def __init__(self): self.itself = self\n"
        "    def __del__(self): print('gone')\n"
        "Circle()\n"
        "tune_process()\n"
        "assert not looks and gc.isenabled() and gc.get_freeze_count() == 0\n"
        "gc.collect()\n"
        "print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["gone", "end"], done.stderr
