"""Processes that come together: each ending of one is every other's, in one line and in time."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxmodels.shared.company import LOST, Limits, Member, given_up, limits_of
from jaxmodels.shared.processes import Process
from jaxmodels.shared.relay import relay
from parity_tests.tiny_runs import clean_environment

pytestmark = pytest.mark.multiprocess
START, SILENCE, STALL = 1.5, 1.0, 2.0
SOON = 6.0  # seconds, those in which Python starts included

WORKER = """
import sys, time
from jaxmodels.shared.processes import Process
from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.company import Limits
from jaxmodels.shared.roll_call import advance, agree, roll_call, stop_together

index, count, port, limits, facts, what = sys.argv[1:7]

def main():
    with roll_call(Process(int(index), int(count)), f"127.0.0.1:{port}", eval(limits)) as company:
        company.agree(eval(facts))
        print("begun", flush=True)
        advance()
        if what == "fails":
            raise ValueError("a bad number")
        if what == "hangs":
            time.sleep(60)
        for place in range(8 if what == "ends" else 600):
            time.sleep(0.05 * (1 + int(index) / 2))  # some are ahead of others
            advance()
            if number := stop_together(15 if what == "asked" and place == 6 else None):
                print("stopped at", place, number, flush=True)
                break
        agree({"rows": 5}, "data")
        company.leave()
    print("left")

run_script(main)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a process: (index, what it does, count, facts)."""
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start(index: int, what: str, count: int = 2, **facts: object) -> subprocess.Popen[str]:
        limits = f"Limits({START}, {SILENCE}, {STALL})"
        arguments = [tmp_path / "worker.py", index, count, port, limits, facts, what]
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ending(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(exit code, output, errors); within the time in which it must end."""
    try:
        output, errors = process.communicate(timeout=SOON)
    finally:
        process.kill()
    return process.returncode, output, errors


def test_all_come_agree_work_and_leave(start: Start) -> None:
    processes = [start(index, "ends", 3, epochs=2, rate=0.1) for index in range(3)]
    assert [ending(each) for each in processes] == [(0, "begun\nleft\n", "")] * 3


@pytest.mark.parametrize("missing", [0, 2])
def test_one_that_does_not_come_is_named(missing: int, start: Start) -> None:
    processes = [start(index, "ends", 3) for index in range(3) if index != missing]
    for process in processes:
        code, _, errors = ending(process)
        assert (code, errors.count("\n")) == (2, 1)
        assert f"error: process {missing} of 3 did not start within 1.5 s" in errors


def test_another_config_is_told_by_its_field(start: Start) -> None:
    processes = [start(0, "ends", epochs=2, rate=0.1), start(1, "ends", epochs=3, rate=0.1)]
    for process in processes:
        code, output, errors = ending(process)
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert (
            "process 1 of 2 was started otherwise than process 0: epochs is 3 there, and 2 in"
            in errors
        )
        assert "rate" not in errors


@pytest.mark.parametrize(
    ("second", "said"),
    [((1, 3), "says that it is one of 3, and process 0 one of 2"), ((0, 2), "")],
)
def test_processes_that_count_otherwise_are_refused(
    second: tuple[int, int], said: str, start: Start
) -> None:
    main, other = start(0, "ends"), start(second[0], "ends", second[1])
    for process in (main, other):
        code, _, errors = ending(process)
        assert code == 2
        assert errors.startswith("error: ")
    assert said in errors  # two main ones meet at the port, and each misses the other


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_one_ends_all_with_its_message(index: int, start: Start) -> None:
    processes = {i: start(i, "fails" if i == index else "works", 3) for i in range(3)}
    endings = {i: ending(process) for i, process in processes.items()}
    assert endings.pop(index)[::2] == (2, "error: a bad number\n")
    for code, _, errors in endings.values():
        assert errors == f"error: process {index} of 3 has ended: a bad number\n"
        assert code in (LOST, 2)  # at once, or from a meeting


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "process {} of 3 has ended: killed, or its own output tells why"),
        (signal.SIGSTOP, "nothing was heard of process {} of 3 for 1 s (stopped, or cut off)"),
    ],
    ids=["killed", "stopped"],
)
def test_one_that_is_lost_ends_all(number: int, said: str, index: int, start: Start) -> None:
    processes = {i: start(i, "works", 3) for i in range(3)}
    for process in processes.values():
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
    lost = processes.pop(index)
    lost.send_signal(number)
    began = time.monotonic()
    for process in processes.values():
        assert ending(process)[::2] == (LOST, f"error: {said.format(index)}\n")
    assert time.monotonic() - began < SILENCE + 2
    lost.kill()
    lost.communicate()


def test_one_that_hangs_ends_all_and_itself(start: Start) -> None:
    """Its heart beats: only that it does not move on tells."""
    waits, hangs = start(0, "hangs"), start(1, "hangs")
    for process in (waits, hangs):
        code, _, errors = ending(process)
        assert code == LOST
        assert errors == "error: nothing has moved for 2 s: all stand at batch 1\n"


@pytest.mark.parametrize("asked", [0, 2])
def test_a_signal_to_one_stops_all_at_the_same_place(asked: int, start: Start) -> None:
    processes = [start(i, "asked" if i == asked else "works", 3) for i in range(3)]
    endings = [ending(process) for process in processes]
    assert {each[::2] for each in endings} == {(0, "")}
    (said,) = {each[1] for each in endings}
    place, number = map(int, said.split()[3:5])
    assert number == signal.SIGTERM
    assert 6 <= place < 15  # the foremost had come there


def test_who_is_behind_is_named() -> None:
    def members(*progress: int, moved: float = 0.0, met: str = "start") -> dict[int, Member]:
        return {
            index: Member(heard=9.0, progress=number, moved=moved, met={met: {}})
            for index, number in enumerate(progress)
        }

    limits, main = Limits(stall=5.0), Process(0, 3)
    assert given_up(members(7, 6, 7), main, limits, 9.0) == (
        "nothing has moved for 5 s: process 1 of 3 stands at batch 6, and the others wait at 7"
    )
    assert given_up(members(7, 6, 7, moved=5.0), main, limits, 9.0) == ""  # it still may
    assert given_up(members(0, 0, 0), main, limits, 9.0) == ""  # the data are being read
    assert given_up(members(7, 6, 7, met="end"), main, limits, 9.0) == ""  # one writes results
    assert given_up(members(7, 6, 7), Process(1, 3), limits, 9.0) == ""  # the main one says it


def test_where_all_were_stopped_nobody_is_to_blame(start: Start) -> None:
    processes = [start(index, "ends") for index in range(2)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes:
            process.send_signal(number)
        time.sleep(1.5 * SILENCE if number == signal.SIGSTOP else 0)
    assert [ending(process)[::2] for process in processes] == [(0, "")] * 2


def test_a_stranger_is_turned_away(start: Start) -> None:
    main = start(0, "ends")
    port = int(main.args[4])  # type: ignore[index]
    stranger = None
    while stranger is None:
        try:
            stranger = socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    other = start(1, "ends")
    assert [ending(process)[0] for process in (main, other)] == [0, 0]
    assert stranger.recv(10) == b""


def test_limits_come_from_the_environment() -> None:
    assert limits_of({}) == Limits(300, 60, 1800)
    assert limits_of({"JAXMODELS_START_SECONDS": "7.5"}) == Limits(start=7.5)
    for text in ("soon", "-1", "0", "nan"):
        with pytest.raises(ValueError, match=r"JAXMODELS_STALL_SECONDS=.* must be a positive num"):
            limits_of({"JAXMODELS_STALL_SECONDS": text})


def test_a_relay_passes_all_on_but_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(("127.0.0.1", relay(*server.getsockname())))
        far, _ = server.accept()
    near.sendall(b"question")
    assert far.recv(100) == b"question"
    far.sendall(b"answer")
    assert near.recv(100) == b"answer"
    far.close()
    near.settimeout(0.3)
    with pytest.raises(TimeoutError):  # where a closed connection would give b""
        near.recv(100)
