"""The program itself: help, version, completion, how commands end, doctor, the consoles."""

import json
import os
import re
import subprocess
import sys

import pytest
import soundfile

from sepcli.cli import app, console, doctor
from sepcli.errors import (
    DeviceError,
    InputError,
    ModelError,
    OutputError,
    SepcliError,
    UsageError,
    worst_exit_code,
)
from tests.sounds import music

SEPCLI = [sys.executable, "-m", "sepcli"]


def program(*arguments, **environment):
    return subprocess.run(
        [*SEPCLI, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["separate", "--help"], ["models", "list", "-h"], ["doctor", "--help"]]
)
def test_help_goes_to_standard_output(arguments, capfd):
    assert app.main(arguments) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Usage: sepcli") and not err


def test_options_of_separate_stand_in_sections(capfd):
    app.main(["separate", "--help"])
    page = capfd.readouterr().out
    titles = re.findall(r"^(\S.*):$", page, re.MULTILINE)
    assert titles == [
        "Arguments",
        "What to separate",
        "Where it goes",
        "What the files are",
        "Levels",
        "How it is computed",
        "Batches",
        "What is reported",
        "Options",
    ]
    for option in (
        "--model --target --rest --two-stems --out --template --start --duration --device "
        "--precision --overlap --segment --shifts --seed --batch-size --format --bit-depth "
        "--bitrate --sample-rate --clip --sum --skip-silent --resume --no-resume --force --shard --dry-run "
        "--json --progress --no-tags -O --quiet --verbose --catalog"
    ).split():
        assert re.search(rf"(^|[ ,]){option}\b", page, re.MULTILINE), option


def test_version(capfd):
    assert app.main(["--version"]) == 0
    assert re.fullmatch(r"sepcli \d+\.\d+\.\d+\n", capfd.readouterr().out)


LAZY = """
import sys
from sepcli.cli.app import main
code = main({arguments!r})
names = "torch numpy av soundfile soxr huggingface_hub filelock rich pydantic multiprocessing http ssl"
heavy = [name for name in names.split() if name in sys.modules]
print(code, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["separate", "--help"],
        ["models", "list"],
        ["separate", "song.wav", "--dry-run", "--device", "cpu"],
        ["separate", "song.wav", "--dry-run", "--device", "cpu", "--model", "htdemucs", "-t", "vocals"],
    ],
)
def test_torch_and_its_like_stay_unimported(arguments, tmp_path):
    (tmp_path / "song.wav").write_bytes(b"")  # a dry run opens no file
    code = LAZY.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sepcli separate -m htdemucs_", {"htdemucs_ft", "htdemucs_6s"}),
        ("sepcli separate --target gui", {"guitar"}),
        ("sepcli models info repro", {"repro_mdx_a"}),
        ("sepcli separ", {"separate"}),
    ],
)
def test_the_shell_completes_commands_models_and_stems(words, expected):
    done = program(_SEPCLI_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert set(done.stdout.split()) == expected, done.stderr


def test_completion_survives_a_broken_catalogue(tmp_path):
    (tmp_path / "bad.toml").write_text("[")
    done = program(
        _SEPCLI_COMPLETE="complete_bash",
        COMP_WORDS="sepcli separate -m ht",
        COMP_CWORD="3",
        SEPCLI_CATALOG=str(tmp_path / "bad.toml"),
    )
    assert done.stdout.strip() == "" and "Traceback" not in done.stderr


# --- how a command ends ---


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["separate"],
        ["separate", "--nonsense", "a.wav"],
        ["nonsense"],
        ["separate", "--format", "wma", "a.wav"],
        ["separate", "--shifts", "-1", "a.wav"],
        ["separate", "--bitrate", "x", "a.wav"],
        ["models"],
        ["models", "info"],
    ],
)
def test_a_bad_command_line_exits_2_and_says_why(arguments, capfd):
    assert app.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out + err and "Traceback" not in err
    if arguments and arguments not in (["separate"], ["models"]):  # those two print their help
        assert err.startswith("Error: ") and "--help" in err and not out


def test_json_gets_an_object_for_a_bad_command_line_too(capfd):
    assert app.main(["separate", "--json", "--nonsense", "a.wav"]) == 2
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert said["input"] is None and said["status"] == "failed"
    assert said["error"]["code"] == "usage" and "--nonsense" in said["error"]["message"]
    assert err.startswith("Error: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 1),
        (UsageError("x"), 2),
        (ModelError("x"), 3),
        (DeviceError("x"), 4),
        (OutputError("x"), 5),
        (ValueError("x"), 1),
        (MemoryError(), 4),
        (KeyboardInterrupt(), 130),
        (app.Terminated(), 143),
        (app.Terminated(129), 129),
    ],
)
def test_whatever_a_command_raises_becomes_an_exit_code_without_a_traceback(error, code, capfd, monkeypatch):
    def raises(json):
        raise error

    monkeypatch.setattr(doctor, "report", raises)
    monkeypatch.delenv("SEPCLI_DEBUG", raising=False)
    assert app.main(["doctor"]) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in err and not out
    monkeypatch.setenv("SEPCLI_DEBUG", "1")
    assert app.main(["doctor"]) == code
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, Exception)


def test_an_error_is_its_fact_and_its_remedy(capfd, monkeypatch):
    def raises(json):
        raise ModelError("There is no [model] 'x'.", remedy="Take y.", code="unknown_model")

    monkeypatch.setattr(doctor, "report", raises)
    app.main(["doctor", "--json"])
    out, err = capfd.readouterr()
    assert err == "Error: There is no [model] 'x'.\nTake y.\n"
    assert json.loads(out)["error"] == {
        "code": "unknown_model",
        "message": "There is no [model] 'x'.",
        "remedy": "Take y.",
    }


def test_a_reader_that_has_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m sepcli models list | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0" and not done.stderr


PRINTING = [
    ["--help"],
    ["--version"],
    ["separate", "--help"],
    ["models", "list"],
    ["models", "list", "--json"],
]


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_results_onto_a_closed_standard_output(arguments):
    command = " ".join([*SEPCLI, *arguments])
    done = subprocess.run(f"exec {command} >&-", shell=True, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == OutputError.exit_code
    assert done.stderr == "Error: Standard output can't be written: it is closed.\nRedirect it elsewhere.\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("arguments", "code"), [("separate --help", 0), ("doctor", 0), ("doctor --json", 5), ("models list", 0)]
)
def test_a_reader_that_leaves_at_once(arguments, code):
    """No error for people, who have seen enough; a program gets one, for it has not got everything."""
    left, ours = os.pipe()
    os.close(left)
    done = subprocess.run([*SEPCLI, *arguments.split()], stdout=ours, stderr=subprocess.PIPE, text=True)
    os.close(ours)
    assert done.returncode == code
    assert ("closed by its reader" in done.stderr) == (code == 5) and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_closed_streams_do_not_end_up_in_a_file(tmp_path):
    """The first file that is opened would get the number of a closed stream, and what is printed there."""
    soundfile.write(tmp_path / "a.wav", music(8000).T, 44100)
    command = " ".join([*SEPCLI, "separate", "a.wav"])
    done = subprocess.run(
        f"exec {command} <&- >&- 2>&-", shell=True, cwd=tmp_path, timeout=120, env=in_repository()
    )
    assert done.returncode == 0 and stems(tmp_path) == ["bass", "drums", "other", "vocals"]
    frames = {soundfile.info(path).frames for path in tmp_path.rglob("*.wav")}
    assert frames == {8000} and b"Model" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*.wav"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_results_onto_a_full_disk(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SEPCLI, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == OutputError.exit_code
    sentence, remedy = done.stderr.splitlines()
    assert sentence == (
        "Error: Standard output can't be written: the disk is full (No space left on device)."
    ) and remedy.startswith("Free some space or redirect it elsewhere")


def in_repository():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def stems(folder):
    """The names of the stems of `mini` anywhere below a folder."""
    names = (path.stem for path in folder.rglob("*.wav"))
    return sorted(name for name in names if name in ("vocals", "drums", "bass", "other"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_finished_stems_stand_where_their_result_can_not_be_printed(tmp_path):
    soundfile.write(tmp_path / "a.wav", music(8000).T, 44100)
    command = [*SEPCLI, "separate", str(tmp_path / "a.wav"), "-o", str(tmp_path / "out"), "--json", "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == OutputError.exit_code and "Standard output can't be written" in done.stderr
    assert "Traceback" not in done.stderr and stems(tmp_path / "out") == ["bass", "drums", "other", "vocals"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_messages_onto_a_full_disk_are_no_traceback():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SEPCLI, "models", "where", "x"], stdout=full, stderr=full, timeout=120)
        assert done.returncode == ModelError.exit_code
        done = subprocess.run([*SEPCLI, "--version"], stdout=subprocess.PIPE, stderr=full, timeout=120)
        assert done.returncode == 0 and done.stdout


# A user without a home folder: no HOME, and no entry in the system's list of users.
HOMELESS = (
    "import os, sys\n"
    "for name in ('HOME', 'USERPROFILE', 'HOMEPATH', 'HOMEDRIVE'): os.environ.pop(name, None)\n"
    "try:\n"
    "    import pwd\n"
    "    def getpwuid(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
    "    pwd.getpwuid = getpwuid\n"
    "except ImportError: pass\n"
    "from sepcli.cli.app import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def homeless(folder, *arguments, **variables):
    """`sepcli` in `folder` with next to no environment, as under `env -i`."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.run(
        [sys.executable, "-c", HOMELESS, *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_what_needs_no_home_folder_works_without_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", music(8000).T, 44100)
    assert homeless(tmp_path, "--version").stdout.startswith("sepcli ")
    listed = homeless(tmp_path, "models", "list")
    assert listed.returncode == 0 and "htdemucs_ft" in listed.stdout and not listed.stderr
    verified = homeless(tmp_path, "models", "verify", "mini")
    assert verified.returncode == 0, verified.stderr
    done = homeless(tmp_path, "separate", "a.wav")
    assert done.returncode == 0, done.stderr
    assert stems(tmp_path) == ["bass", "drums", "other", "vocals"]
    assert not (tmp_path / "~").exists()  # nobody took the sign for a folder's name


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["models", "download", "htdemucs", "--yes"], ["models", "where", "htdemucs"]], ids=" ".join
)
def test_what_needs_a_home_folder_says_so(tmp_path, arguments):
    done = homeless(tmp_path, *arguments)
    assert done.returncode == ModelError.exit_code
    assert "this user has no home folder" in done.stderr and "Set HF_HOME" in done.stderr
    assert homeless(tmp_path, "models", "where", "htdemucs", HF_HOME="h").stdout.startswith("h")


def test_a_path_of_a_user_who_does_not_exist(tmp_path):
    done = homeless(tmp_path, "separate", "a.wav", "-m", "~nobody-of-that-name/model.th")
    assert done.returncode == ModelError.exit_code and "no model file" in done.stderr


def test_the_worst_exit_code_wins():
    assert worst_exit_code([]) == 0
    assert worst_exit_code([0, 1, 3]) == 3
    assert worst_exit_code([1, 5, 4, 3, 2]) == 5
    assert worst_exit_code([5, 143]) == 143 and worst_exit_code([130, 5]) == 130


# --- doctor ---


def findings(capfd):
    return {finding["what"]: finding for finding in json.loads(capfd.readouterr().out)}


def test_doctor_reports_all_it_should(capfd):
    assert app.main(["doctor", "--json"]) == 0
    found = findings(capfd)
    assert {
        "sepcli",
        "torch",
        "soundfile",
        "av",
        "soxr",
        "huggingface_hub",
        "torchaudio",
        "device",
        "precision",
        "write wav",
        "write m4a",
        "models",
        "cache",
    } <= set(found)
    assert "libsndfile" in found["soundfile"]["fact"] and "FFmpeg" in found["av"]["fact"]
    assert "free" in found["cache"]["fact"]
    assert app.main(["doctor"]) == 0
    assert "can work here" in capfd.readouterr().out


def test_doctor_without_torchaudio_or_programs_is_no_problem(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.setenv("PATH", "")
    assert app.main(["doctor", "--json"]) == 0
    found = findings(capfd)
    assert found["torchaudio"]["state"] == "note" and found["torchaudio"]["remedy"]
    assert found["write m4a"]["state"] == "ok"


def test_doctor_without_a_library_that_separation_needs_exits_1(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert app.main(["doctor", "--json"]) == 1
    found = findings(capfd)["soxr"]
    assert found["state"] == "problem" and "pip install" in found["remedy"]


def test_doctor_says_when_a_check_itself_breaks(capfd, monkeypatch):
    def _broken():
        raise SepcliError("It broke.", remedy="Mend it.")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (_broken,))
    assert app.main(["doctor", "--json"]) == 1
    assert findings(capfd)["broken"]["remedy"] == "Mend it."


def test_doctor_knows_an_unwritable_cache_and_offline_mode(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    app.main(["doctor", "--json"])
    found = findings(capfd)
    assert found["cache"]["state"] == "note" and "HF_HOME" in found["cache"]["remedy"]
    assert "network" in found


# --- consoles ---


@pytest.fixture
def style():
    yield console.report_as
    console.report_as("text")


def test_download_progress_in_every_style(style, capfd, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    for name in ("text", "json", "quiet"):
        style(name)
        with console.download_progress("Downloading x") as progress:
            progress(10, None)
            progress(500_000, 1_000_000)
            progress(1_000_000, 1_000_000)
        out, err = capfd.readouterr()
        assert not out
        if name == "text":
            assert "Downloading x: 500.0 kB of 1.0 MB" in err.splitlines()
        elif name == "json":
            assert json.loads(err.splitlines()[-1]) == {
                "event": "download",
                "what": "Downloading x",
                "done": 1_000_000,
                "total": 1_000_000,
            }
        else:
            assert not err


def test_lines_are_not_wrapped_marked_up_or_coloured(capfd):
    long = "a path [bold]/" + "x" * 300 + "[/bold] :smile:"
    console.notice(long)
    assert capfd.readouterr().err == long + "\n"


def test_no_color_is_honoured(monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    assert Console(force_terminal=True).no_color


def test_names_that_are_not_utf8_can_be_printed(capfd):
    name = os.fsdecode(b"caf\xe9.wav")
    console.say(name)
    console.print_json({"input": name})
    out, err = capfd.readouterr()
    assert err == "caf\N{REPLACEMENT CHARACTER}.wav\n"
    assert json.loads(out)["input"] == name


def test_sizes_and_times_for_people():
    assert [console.bytes_text(n) for n in (None, 0, 999, 84_141_911, 5_000_000_000)] == [
        "unknown size",
        "0 bytes",
        "999 bytes",
        "84.1 MB",
        "5.0 GB",
    ]
    assert [console.clock(s) for s in (0, 59.6, 65, 3725.4)] == ["0:00", "1:00", "1:05", "1:02:05"]


STUBBORN = """
import time
from sepcli.cli.signals import Terminated, catch_signals
catch_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
except (KeyboardInterrupt, Terminated) as stop:
    print(type(stop).__name__, flush=True)
    time.sleep(60)  # a clean end that takes too long
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("first", "name"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_second_ctrl_c_ends_the_process_at_once(first, name):
    import signal

    running = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "ready\n"
    running.send_signal(getattr(signal, first))
    assert running.stdout.readline() == f"{name}\n"
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) == -signal.SIGINT
    running.stdout.close()
