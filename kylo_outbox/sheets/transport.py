"""An httplib2 transport that sends each request at most once and says whether it was sent at all.

httplib2 sends a POST a second time, silently, when the server closes the connection without an answer; with a server
that had already applied the first one, the write is applied twice and the caller sees one success. The connections
here turn every failure into one of two errors that httplib2 does not know and therefore does not retry.
"""

from __future__ import annotations

import selectors
from typing import Any

import httplib2


class NoConnection(Exception):  # noqa: N818 - says what is the case
    """The connection could not be opened: not one byte of the request was sent."""


class NoAnswer(Exception):  # noqa: N818
    """The request was sent, at least in part, and no complete answer came back. `code` is "timeout" or "dropped"."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)
        self.code = "timeout" if isinstance(cause, TimeoutError) else "dropped"


class _Once:
    """Mixin over http.client connections: opens, sends and reads at most once for a request."""

    sock: Any

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
        except Exception as error:
            self.close()
            raise NoConnection(f"{type(error).__name__}: {error}") from error

    def request(self, *args: Any, **kwargs: Any) -> None:
        # A kept-alive connection that is readable before we ask was closed by the server meanwhile. Opening a new
        # one now is free of risk; finding it out after sending would make an idle minute look like a lost write.
        if self.sock is not None and _readable(self.sock):
            self.close()
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        except NoConnection:
            raise
        except Exception as error:
            self.close()
            raise NoAnswer(error) from error

    def getresponse(self) -> Any:
        try:
            return super().getresponse()  # type: ignore[misc]
        except Exception as error:
            self.close()
            raise NoAnswer(error) from error

    def close(self) -> None:
        super().close()  # type: ignore[misc]


class OnceConnection(_Once, httplib2.HTTPConnectionWithTimeout):  # type: ignore[misc]
    """Plain connection, for the stand-in on the loopback."""


class OnceTLSConnection(_Once, httplib2.HTTPSConnectionWithTimeout):  # type: ignore[misc]
    """TLS connection; certificates are verified."""


class OnceHttp(httplib2.Http):  # type: ignore[misc]
    """`httplib2.Http` without second sends, redirects and caches. Not thread-safe: one for each thread.

    Args:
        timeout: Seconds without progress on the socket (connect, send, receive each) before giving up.
        direct: True leaves the proxy settings of the environment aside (for a server on this machine).

    Raises:
        NoConnection: by `request`, when nothing was sent.
        NoAnswer: by `request`, when the outcome is not known.
    """

    def __init__(self, timeout: float, *, direct: bool = False) -> None:
        super().__init__(timeout=timeout, proxy_info=None if direct else httplib2.proxy_info_from_environment)
        self.follow_redirects = False

    def __del__(self) -> None:
        # The Http of a thread ends with it, and so must its connection.
        self.close()

    def request(self, uri: str, *args: Any, **kwargs: Any) -> tuple[Any, bytes]:
        """Send one request; the signature is httplib2's, the connection type is always ours."""
        kwargs["connection_type"] = OnceTLSConnection if uri.startswith("https:") else OnceConnection
        try:
            response, content = super().request(uri, *args, **kwargs)
        except (NoConnection, NoAnswer):
            raise
        except Exception as error:  # the head came, the body broke off or could not be unpacked
            self.close()
            raise NoAnswer(error) from error
        return response, content


def _readable(sock: Any) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
