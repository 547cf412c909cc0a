"""A wire with a delay: passes bytes between its port and the broker's far door, each half a round trip later.

Bytes keep flowing while others wait, as on a real line: the delay takes no bandwidth. Runs until it is ended.
"""

from __future__ import annotations

import argparse
import queue
import socket
import threading
import time
from contextlib import suppress

_CHUNK = 1 << 18


def carry(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Pass everything from one side to the other, `delay` seconds late, until either closes."""
    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def receive() -> None:
        data = b" "
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + delay, data))

    threading.Thread(target=receive, daemon=True).start()
    with suppress(OSError):
        while True:
            due, data = waiting.get()
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            if not data:
                break
            target.sendall(data)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Accept connections for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--milliseconds", type=float, required=True, help="the round trip that is added")
    words = parser.parse_args()
    delay = words.milliseconds / 2000
    with socket.create_server(("127.0.0.1", words.port)) as server:
        print("ready", flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", words.to))
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(source, target, delay), daemon=True).start()


if __name__ == "__main__":
    main()
