"""What a test needs besides Python and sepcli: a program on the PATH, a package, a SoundFont, an encoder.

A test says `need("ffmpeg")`; a file says `demucs = package("demucs")` in place of an import. Where that is
missing, the test (or the file) is skipped and says so. Where all should be there, as in `.ci/run`, the variable
SEPCLI_TESTS_MAY_LACK lists what may still be missing (`"pesq pyworld"`, or nothing): a test that lacks anything
else fails.
"""

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import av
import pytest

ALSO = {"museval": ("ffmpeg",), "stempeg": ("ffmpeg",)}  # can't even be imported without
ENCODERS = ("libx264", "libx265")  # of PyAV's FFmpeg
PROGRAMS = ("chromium", "espeak-ng", "ffmpeg", "flite", "fluidsynth")
# Debian's packages fluidr3mono-gm-soundfont, fluid-soundfont-gm, musescore-general-soundfont.
SOUNDFONTS = [
    path
    for path in (
        Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3"),
        Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
        Path("/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    )
    if path.exists()
]


def found(name: str) -> bool:
    """Whether a program, a package, one of ENCODERS or (name "soundfont") any SoundFont is on this machine."""
    if name == "soundfont":
        return bool(SOUNDFONTS)
    if name in ENCODERS:
        return name in av.codecs_available
    if name in PROGRAMS:
        return shutil.which(name) is not None
    return importlib.util.find_spec(name) is not None


def need(*names: str) -> None:
    """Skips the test, or the file that is being imported, where one of these is missing; or fails it."""
    missing = [name for asked in names for name in (asked, *ALSO.get(asked, ())) if not found(name)]
    may_lack = os.environ.get("SEPCLI_TESTS_MAY_LACK")
    if not missing:
        return
    if may_lack is None or set(missing) <= set(may_lack.split()):
        pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)
    pytest.fail(f"{', '.join(missing)} missing; SEPCLI_TESTS_MAY_LACK allows {may_lack or 'nothing'}")


def package(name: str, *modules: str) -> ModuleType:
    """The package, with these of its modules imported. Needs it, as `need` does."""
    need(name)
    for module in modules:
        importlib.import_module(f"{name}.{module}")
    return importlib.import_module(name)
