"""The door of soaks, on sockets of this machine."""

from __future__ import annotations

import socket
from contextlib import closing

from tests.helpers.pipeline import wait_until
from tests.soak.door import Door


def test_a_client_is_told_of_the_end_though_its_port_was_given_to_another():
    """While a connection is held up its server may die, and the next connection may come from the same port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        door = Door(server.getsockname()[1])
        door.open()
        try:
            with closing(socket.create_connection(("127.0.0.1", door.port), timeout=10)) as client:
                inside, (_, seen) = server.accept()
                wait_until(lambda: seen in door._pairs, 10, "the door knows the pair")
                door._pairs.pop(seen)
                inside.close()
                assert client.recv(1) == b""
        finally:
            door.close()
