"""A local end of a far TCP server that stays up when the server goes.

A process of JAX aborts at once, with a stack dump, when its connection to the coordinator closes;
through a relay it sees no more than silence, and has its heartbeat's time for a better end.
"""

import contextlib
import socket
import threading


def relay(host: str, port: int) -> int:
    """The port on this machine's loopback where `host:port` is found from now on."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, (host, port)), daemon=True).start()
    return server.getsockname()[1]


def _serve(server: socket.socket, target: tuple[str, int]) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection(target)
        except OSError:
            near.close()  # who connects will try again
            continue
        threading.Thread(target=_copy, args=(near, far, True), daemon=True).start()
        threading.Thread(target=_copy, args=(far, near, False), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, tells_end: bool) -> None:
    """All bytes; whether the sink is told of the end, the caller says."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    if tells_end:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
