"""Several processes that keep an eye on each other, each by a TCP connection to the main one.

Each is heard of every few seconds. Where one ends, is silent, or stands still while the others
wait, all end with one line that names it, by `LOST`, however deep in a native call their main
threads are. `roll_call` brings them together.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxmodels.shared.processes import Process

LOST = 3  # exit code of a process that the others have left alone
_AT_ONCE = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Limits:
    """Seconds until all have started, until a silent process, and until one that stands still, is
    given up; the last counts from a training's first step on, and where others wait for one."""

    start: float = 300.0
    silence: float = 60.0
    stall: float = 1800.0


LIMIT_NAMES = {name: f"JAXMODELS_{name.upper()}_SECONDS" for name in ("start", "silence", "stall")}


def limits_of(environment: Mapping[str, str]) -> Limits:
    """From JAXMODELS_START_SECONDS, JAXMODELS_SILENCE_SECONDS and JAXMODELS_STALL_SECONDS.

    Raises:
        ValueError: one is no positive number.
    """
    given = {}
    for name, variable in LIMIT_NAMES.items():
        if text := environment.get(variable):
            try:
                given[name] = float(text)
            except ValueError:
                given[name] = 0.0
            if not given[name] > 0:
                raise ValueError(f"{variable}={text!r} must be a positive number of seconds")
    return Limits(**given)


@dataclass
class Member:
    """What is known of one process."""

    connection: socket.socket | None = None  # None for this process itself
    heard: float = field(default_factory=time.monotonic)
    progress: int = 0
    moved: float = field(default_factory=time.monotonic)
    met: dict[str, Any] = field(default_factory=dict)  # meeting -> what it said there
    left: bool = False


class Company:
    """The processes that came to the roll call.

    The main process knows of all of them, another of itself and the main one.
    """

    def __init__(self, process: Process, limits: Limits):
        self.process, self.limits = process, limits
        self.members: dict[int, Member] = {process.index: Member()}
        self.changed = threading.Condition(threading.RLock())
        self.verdict = ""  # why all must end
        self.over: set[str] = set()  # the meetings that all have come to
        self.in_meeting = self.closed = False
        self.places = 0  # where this process might have stopped, and went on
        self.stops: dict[int, int] = {}  # the main process: of each, while all wait for the others
        self.voting = False
        self.stop: tuple[int, int] | None = None  # (place, the signal's number)
        self.number = 0

    @property
    def own(self) -> Member:
        return self.members[self.process.index]

    def advance(self) -> None:
        """Tells that the main thread moves on."""
        self.own.progress += 1
        self.own.moved = time.monotonic()

    def agree(self, facts: Mapping[str, Any], meeting: str = "start") -> None:
        """Waits for all to come to this meeting with the same facts, at most `limits.stall`.

        Raises:
            ValueError: a process came with others: the first that differs is named, by its field.
            ConnectionError: a process has ended, or did not come in time.
        """
        self._meet(meeting, dict(facts), self.limits.stall)
        if self.verdict:
            raise ValueError(self.verdict)

    def stop_together(self, number: int | None) -> int | None:
        """The number of a signal if all stop at this place, and `number` is what came to this one.

        All processes come to the same places in the same order, some of them ahead of others: they
        are halted, and go on to the place of the foremost.
        """
        with self.changed:
            if number and not self.voting:
                self._vote(self.process.index, {"signal": number})
            while self.voting and self.stop is None:
                self.changed.wait(_AT_ONCE)
            if self.stop is not None and self.places >= self.stop[0]:
                return self.stop[1]
            self.places += 1
            return None

    def _vote(self, index: int, message: dict[str, Any]) -> None:
        """Where all stop; the first signal of any process starts it."""
        if "signal" in message:
            first, self.voting = not self.voting, True
            if self.process.is_main:
                if first:
                    self.number = message["signal"]
                    self.stops[self.process.index] = self.places
                    self.tell(message)
            else:
                self.tell({"place": self.places} if index == 0 else message)
        if "place" in message:
            self.stops[index] = message["place"]
        if self.process.is_main and len(self.stops) == self.process.count and not self.stop:
            self.stop = (max(self.stops.values()), self.number)
            self.tell({"stop": self.stop})
        if "stop" in message:
            self.stop = tuple(message["stop"])
        self.changed.notify_all()

    @property
    def has_left(self) -> bool:
        return "end" in self.over

    def leave(self) -> None:
        """Waits for all to be done, however long that takes."""
        self._meet("end", {}, None)

    def fail(self, message: str) -> None:
        """Tells all the others why this process ends, which ends them."""
        who = named([self.process.index], self.process.count)
        with self.changed:
            self.verdict = self.verdict or message
            self.tell({"end": f"{who} has ended: {message}"})

    def close(self) -> None:
        """Breaks off; what then happens to the others is of no concern."""
        with self.changed:
            self.closed = True
            self.tell({"left": True})
            for member in self.members.values():
                if member.connection:
                    with contextlib.suppress(OSError):
                        member.connection.shutdown(socket.SHUT_WR)

    def _meet(self, meeting: str, facts: dict[str, Any], within: float | None) -> None:
        last = None if within is None else time.monotonic() + within
        with self.changed:
            self.in_meeting = True
            self.own.met[meeting] = json.loads(json.dumps(facts))
            if not self.process.is_main:
                self.tell({"meet": meeting, "facts": facts})
            self._see_who_met()
            while meeting not in self.over and not self.verdict:
                if last and time.monotonic() > last and self.process.is_main:
                    absent = [k for k, member in self.members.items() if meeting not in member.met]
                    self._end(f"{named(absent, self.process.count)} did not come to the meeting")
                self.changed.wait(_AT_ONCE)
            self.in_meeting = False
            if self.verdict and meeting not in self.over:
                raise ConnectionError(self.verdict)

    def _see_who_met(self) -> None:
        """The main process: which meetings are complete, and whether all said the same there."""
        if not self.process.is_main:
            return
        for meeting in self.own.met.keys() - self.over:
            if all(meeting in member.met for member in self.members.values()):
                different = _first_difference({k: m.met[meeting] for k, m in self.members.items()})
                self.over.add(meeting)
                self.verdict = different
                self.tell({"met": meeting, "but": different})
        self.changed.notify_all()

    def hear(self, index: int, message: dict[str, Any]) -> None:
        """What the process of this index says."""
        with self.changed:
            member = self.members[index]
            member.heard = time.monotonic()
            if message.get("progress", member.progress) != member.progress:
                member.progress, member.moved = message["progress"], member.heard
            if "meet" in message:
                member.met[message["meet"]] = message["facts"]
                self._see_who_met()
            if "met" in message:
                self.over.add(message["met"])
                self.verdict = message["but"]
                self.changed.notify_all()
            if message.keys() & {"signal", "place", "stop"}:
                self._vote(index, message)
            member.left |= "left" in message
            if "end" in message:
                self._end(message["end"])

    def listen(self, index: int, lines: Any) -> None:
        """Hears a process until it ends."""
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                self.hear(index, json.loads(line))
        with self.changed:
            if not self.members[index].left:
                who = named([index], self.process.count)
                self._end(f"{who} has ended: killed, or its own output tells why")

    def watch(self) -> None:
        """Tells the others that this process lives, and looks who of them does not."""
        every = min(5.0, self.limits.silence / 4)
        while not self.closed:
            slept_from = time.monotonic()
            time.sleep(every)
            with self.changed:
                overslept = time.monotonic() - slept_from - every
                if overslept > every:  # all were stopped, as by Ctrl-Z: nobody is to blame
                    for member in self.members.values():
                        member.heard += overslept
                        member.moved += overslept
                self.tell({"progress": self.own.progress})
                if why := given_up(self.members, self.process, self.limits, time.monotonic()):
                    self._end(why)

    def tell(self, message: dict[str, Any]) -> None:
        """The main process tells all, another the main one."""
        line = (json.dumps(message) + "\n").encode()
        for member in self.members.values():
            if member.connection and not member.left:
                with contextlib.suppress(OSError):  # its listener finds that it has ended
                    member.connection.sendall(line)

    def _end(self, why: str) -> None:
        """Ends all, this process too: by an error where it waits in a meeting, else at once."""
        if self.closed or self.verdict:
            return
        self.verdict = why
        if self.process.is_main:
            self.tell({"end": why})
        self.changed.notify_all()
        if not self.in_meeting:
            _exit_saying(why)


def given_up(members: Mapping[int, Member], process: Process, limits: Limits, now: float) -> str:
    """Why all must end, if one is silent, or all stand still; else ""."""
    here = {index: member for index, member in members.items() if not member.left}
    silent = [i for i, m in here.items() if m.connection and now - m.heard > limits.silence]
    if silent:
        who = named(silent, process.count)
        return f"nothing was heard of {who} for {limits.silence:g} s (stopped, or cut off)"
    steps = {index: member.progress for index, member in here.items()}
    still = all(now - member.moved > limits.stall for member in here.values())
    in_training = any(steps.values()) and not any("end" in member.met for member in here.values())
    if not (process.is_main and still and in_training):
        return ""
    behind = [index for index, step in steps.items() if step < max(steps.values())]
    where = (
        f"{named(behind, process.count)} stands at batch {min(steps.values())}, and the others "
        f"wait at {max(steps.values())}"
        if behind
        else f"all stand at batch {max(steps.values())}"
    )
    return f"nothing has moved for {limits.stall:g} s: {where}"


def _first_difference(facts: Mapping[int, Mapping[str, Any]]) -> str:
    """Which process differs from the main one, and in which field; "" where none does."""
    for index, found in facts.items():
        for name in sorted(facts[0].keys() | found.keys()):
            here, there = found.get(name), facts[0].get(name)
            if here != there:
                return (
                    f"process {index} of {len(facts)} was started otherwise than process 0: {name} "
                    f"is {here!r} there, and {there!r} in process 0; start all alike"
                )
    return ""


def named(indices: list[int], count: int) -> str:
    """processes 1, 2 of 4"""
    numbers = ", ".join(map(str, indices))
    return f"process{'es' if len(indices) > 1 else ''} {numbers} of {count}"


def _exit_saying(why: str) -> None:
    """Ends this process now: its main thread may be in a native call that does not return."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"error: {why}\n".encode())
    os._exit(LOST)
