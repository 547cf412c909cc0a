"""The server process: bind, serve until a signal, drain, leave."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import uvicorn

from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from fastapi import FastAPI

log = logging.getLogger(__name__)

_DRAIN_SECONDS = 20


class _Server(uvicorn.Server):
    """Uvicorn, except that the second signal leaves at once whichever it is, and that a drained server exits with 0.

    Uvicorn itself raises the signal once more at the end, which would end the process before it gave things back.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn calls it so
        self.force_exit = self.should_exit
        self.should_exit = True


def run(app: FastAPI, host: str, port: int, on_stop: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT; requests in work are finished first (20 s at most), a second signal leaves now.

    Args:
        app: From `build_app`.
        host: Name or address to listen on.
        port: 0 takes a free one; the log line says which.
        on_stop: Called once after the last request, also when serving failed.

    Raises:
        NotReady: the address cannot be used, with the remedy.
    """
    try:
        listening = _bind(host, port)
        shown = f"[{host}]" if ":" in host else host
        log.info("listening on http://%s:%d", shown, listening.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        _Server(config).run(sockets=[listening])
    finally:
        on_stop()


def _bind(host: str, port: int) -> socket.socket:
    listening: socket.socket | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        if os.name == "posix":  # elsewhere the option would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as taken:
        if listening is not None:
            listening.close()
        raise NotReady(
            f"cannot listen on {host} port {port}: {taken.strerror or taken}; choose another with KYLO_HTTP_PORT"
        ) from None
    return listening
