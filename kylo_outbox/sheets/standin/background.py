"""The stand-in in a thread of this process, for tests: a real socket, the official client, no other process."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from kylo_outbox.sheets.standin.books import Books
from kylo_outbox.sheets.standin.server import listen, make_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def running(directory: Path, *, strict: bool = False, port: int = 0, per_minute: int | None = None) -> Iterator[str]:
    """Serve while the block runs and yield the URL, which works at once: the socket listens before the thread starts.

    Raises:
        OSError: The directory cannot be used.
        Misconfigured: The port is taken.
    """
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(listen("127.0.0.1", port))
        books = opened.enter_context(contextlib.closing(Books(directory, strict=strict)))
        server = make_server(books, per_minute)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="sheets-standin", daemon=True
        )
        thread.start()
        opened.callback(thread.join, timeout=10)
        opened.callback(setattr, server, "should_exit", True)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
