"""The launcher: who its children are, what is shown of them, and how they end."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxmodels.shared.processes import Process
from parity_tests.tiny_runs import SCRIPTS, clean_environment, refused

pytestmark = pytest.mark.multiprocess
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Starts the launcher on a script of these lines."""

    def start(lines: str, *flags: object) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text("import os, sys, time\nindex = int(os.environ['RANK'])\n" + lines)
        command = [
            sys.executable,
            SCRIPTS / "launch_local.py",
            *flags,
            "--",
            script,
            "--flag",
            "a b",
        ]
        return subprocess.Popen(
            [str(part) for part in command],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ending(launcher: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = launcher.communicate(timeout=20)
    finally:
        launcher.kill()
    return launcher.returncode, output, errors


def test_children_know_who_they_are_and_what_they_print_has_their_number(launch: Launch) -> None:
    names = ("JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "JAXMODELS_START_SECONDS")
    lines = f"""
from jaxmodels.shared.processes import this_process
print(this_process(), *(os.environ[name] for name in {names}), sys.argv[1:])
print('an error', file=sys.stderr)
"""
    flags = ("-n", 2, "--devices-per-process", 3, "--start-seconds", 9)
    code, output, errors = ending(launch(lines, *flags))
    assert code == 0
    told = "3 cpu 9 ['--flag', 'a b']"
    assert sorted(output.splitlines()) == sorted(
        [f"{Process(0, 2, 0, 2)} {told}", f"[1] {Process(1, 2, 1, 2)} {told}"]
    )
    assert sorted(errors.splitlines()) == ["[0] an error", "[1] an error"]


def test_the_first_that_fails_ends_all_by_its_code(launch: Launch) -> None:
    began = time.monotonic()
    code, _, _ = ending(launch("time.sleep(0.2 if index else 60); sys.exit(7)", "-n", 3))
    assert code == 7
    assert time.monotonic() - began < 12  # 5 of them for the others to end by themselves


def test_a_killed_child_is_told_as_a_shell_tells(launch: Launch) -> None:
    code, _, _ = ending(launch("os.kill(os.getpid(), 9) if index else time.sleep(0.3)"))
    assert code == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handed_on(number: int, launch: Launch) -> None:
    lines = """
import signal
def end(number, _):
    print("got", number, flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
time.sleep(60)
"""
    launcher = launch(lines)
    assert launcher.stdout
    assert {launcher.stdout.readline(), launcher.stdout.readline()} == {"ready\n", "[1] ready\n"}
    launcher.send_signal(number)
    code, output, _ = ending(launcher)
    assert code == 143
    assert sorted(output.splitlines()) == [f"[1] got {number:d}", f"got {number:d}"]


def test_a_number_of_processes_that_makes_no_sense_is_refused() -> None:
    assert "-n 0 must be at least 1" in refused("launch_local", "-n", 0, "--", "x.py")
    flags = ("-n", 2, "--devices-per-process", -1, "--", "x.py")
    assert "--devices-per-process -1 must be at least 1" in refused("launch_local", *flags)


def test_the_doctor_sees_all_processes() -> None:
    pytest.importorskip("jax")
    command = [sys.executable, SCRIPTS / "launch_local.py", "-n", "2", "--devices-per-process", "2"]
    done = subprocess.run(
        [*command, "--", SCRIPTS / "doctor.py"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for prefix, index in (("", 0), (r"\[1\] ", 1)):
        for line in (rf"process +{index} of 2", "devices +2 here of 4", "all is well"):
            assert re.search(f"^{prefix}{line}$", done.stdout, re.MULTILINE), line
