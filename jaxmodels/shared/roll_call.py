"""Brings several processes together before a runtime lets them wait for each other.

>>> with roll_call(process, "10.0.0.2:8483") as company:
...     company.agree({"training.epochs": 3})
...     advance()  # at each step

The main process listens at the address, and the others connect to it.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jaxmodels.shared.company import Company, Limits, Member, limits_of, named
from jaxmodels.shared.processes import Process

_RETRY = 0.2  # seconds
_HELLO = 5.0  # seconds in which who connects must say which process it is

_companies: list[Company] = []  # the one that this process is in, if any
_broken: list[Company] = []  # that an error has ended


@contextlib.contextmanager
def roll_call(process: Process, address: str, limits: Limits | None = None) -> Iterator[Company]:
    """The company of all processes, once they have come.

    An error within ends the others too, with its message. Who leaves without `Company.leave` may
    leave them behind.

    Raises:
        ConnectionError: not all came within `limits.start`; those that did not are named.
        ValueError: two are of one number, or they count differently.
    """
    company = Company(process, limits or limits_of(os.environ))
    (_gather if process.is_main else _join)(company, address)
    threading.Thread(target=company.watch, daemon=True).start()
    _companies.append(company)
    try:
        yield company
    except SystemExit:  # of its own accord, as the others
        raise
    except BaseException as error:
        if company.has_left:
            raise
        _broken.append(company)
        company.fail(str(error) or type(error).__name__)
        raise
    finally:
        _companies.remove(company)
        company.close()


def advance() -> None:
    """Tells the other processes, if there are any, that this one moves on."""
    for company in _companies:
        company.advance()


def agree(facts: Mapping[str, Any], meeting: str) -> None:
    """`Company.agree` with the other processes, if there are any."""
    for company in _companies:
        company.agree(facts, meeting)


def stop_together(number: int | None) -> int | None:
    """The signal at which all processes stop here, if one was told to by the signal `number`.

    Each process comes to the same such places in the same order, and goes on from the same one.
    """
    for company in _companies:
        return company.stop_together(number)
    return number


def broken_up() -> bool:
    """Whether an error has ended this process's company."""
    return bool(_broken)


def exit_with(code: int | None) -> NoReturn:
    """As sys.exit; but at once where a company broke up, whom a runtime would wait for at exit."""
    if broken_up():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _gather(company: Company, address: str) -> None:
    """The main process: waits for the others, then lets all go on."""
    process, seconds = company.process, company.limits.start
    last = time.monotonic() + seconds
    host, port = _host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = host if host in ("127.0.0.1", "::1") else ""  # of a pod's machines, any interface
    with socket.create_server((where, port), family=family, backlog=process.count) as server:
        while len(company.members) < process.count:
            server.settimeout(max(last - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                absent = sorted(set(range(process.count)) - company.members.keys())
                _refuse(
                    company,
                    f"{named(absent, process.count)} did not start within {seconds:g} s; look at "
                    "its own output, or at its machine",
                )
            else:
                _welcome(company, connection)
    company.tell({"welcome": True})


def _welcome(company: Company, connection: socket.socket) -> None:
    """Takes in the process that has connected; a stranger is turned away."""
    connection.settimeout(_HELLO)
    lines = connection.makefile("rb")
    try:
        hello = json.loads(lines.readline())
        index, count = int(hello["index"]), int(hello["count"])
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return
    connection.settimeout(None)
    expected = company.process.count
    twice = index in company.members
    company.members[-1 - index if twice else index] = Member(connection)
    if twice or count != expected:
        _refuse(
            company,
            f"two processes say that they are number {index}; give each a number of its own"
            if twice
            else f"process {index} says that it is one of {count}, and process 0 one of {expected}",
        )
    threading.Thread(target=company.listen, args=(index, lines), daemon=True).start()


def _refuse(company: Company, why: str) -> None:
    company.tell({"end": why})
    company.close()
    raise ConnectionError(why)


def _join(company: Company, address: str) -> None:
    """Another process: connects to the main one, and waits until all have."""
    process, seconds = company.process, company.limits.start
    last = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(_host_and_port(address), timeout=seconds)
            break
        except OSError as error:
            if time.monotonic() > last:
                raise ConnectionError(
                    f"{named([0], process.count)} did not start within {seconds:g} s: at {address} "
                    f"{error.strerror or error}; look at its own output, or at its machine"
                ) from None
            time.sleep(_RETRY)
    company.members[0] = Member(connection)
    company.tell({"index": process.index, "count": process.count})
    connection.settimeout(seconds + _HELLO)  # the main process may have started last
    lines = connection.makefile("rb")
    try:
        message = json.loads(lines.readline() or "{}")
    except OSError:
        message = {}
    if "welcome" not in message:
        raise ConnectionError(message.get("end", f"{named([0], process.count)} has ended"))
    connection.settimeout(None)
    threading.Thread(target=company.listen, args=(0, lines), daemon=True).start()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
