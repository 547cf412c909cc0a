"""Who may ask: bearer tokens with roles, needed as soon as the API listens elsewhere than on loopback.

`KYLO_API_TOKENS` holds `name:role:token` (role `reader` or `operator`) or a bare token (an operator). Readers may GET,
operators may do everything. Probes (`/livez` and its siblings) are open. Without tokens only loopback is served, and
then requests that a web page of another origin could make a browser send are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.web.problems import Denied, of_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

Role = Literal["reader", "operator"]
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/startupz", "/healthz"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SHORT: Final = 16
_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a token; only the token's digest is kept."""

    name: str
    role: Role
    digest: bytes


def read_tokens(words: Iterable[str]) -> tuple[Caller, ...]:
    """Understand `KYLO_API_TOKENS`.

    Raises:
        Misconfigured: naming the entry by its place, never by its text.
    """
    callers: list[Caller] = []
    for place, word in enumerate(words, start=1):
        parts = word.split(":", 2)
        name, role, token = parts if len(parts) == _PARTS else (f"token {place}", "operator", word)
        if role not in {"reader", "operator"} or len(parts) == _PARTS - 1:
            raise Misconfigured(f"KYLO_API_TOKENS: entry {place} must be name:role:token (reader, operator) or a token")
        if not token:
            raise Misconfigured(f"KYLO_API_TOKENS: entry {place} has an empty token")
        if len(token) < _SHORT:
            log.warning("KYLO_API_TOKENS: entry %d is shorter than %d characters: easy to guess", place, _SHORT)
        callers.append(Caller(name, "reader" if role == "reader" else "operator", _digest(token)))
    return tuple(callers)


def require_tokens(host: str, callers: Sequence[Caller]) -> None:
    """Refuse to listen elsewhere than on loopback without tokens.

    Raises:
        Misconfigured: with the remedy.
    """
    if not callers and not is_loopback(host):
        raise Misconfigured(
            f"KYLO_API_TOKENS: needed because KYLO_HTTP_HOST={host} is reachable from elsewhere; "
            "set name:role:token (reader or operator), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Auth:
    """ASGI middleware: lets a request through or answers 401 or 403, before its body is read.

    Args:
        app: What is guarded.
        callers: Who has a token; empty means loopback only.
        signed_paths: Paths that check a signature themselves and need no token.
    """

    def __init__(self, app: ASGIApp, callers: Sequence[Caller], signed_paths: Iterable[str] = ()) -> None:
        self._app = app
        self._callers = callers
        self._open = OPEN_PATHS | frozenset(signed_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self._admit(scope)
            except Denied as denied:
                await of_error(denied)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["path"] in self._open:
            return
        if not self._callers:
            _refuse_foreign_pages(headers)
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        caller = _who(self._callers, token.strip()) if kind.lower() == "bearer" else None
        if caller is None:
            raise Denied(401, "A valid token is needed: Authorization: Bearer TOKEN.")
        if caller.role == "reader" and scope["method"] not in _SAFE:
            raise Denied(403, f"{caller.name} may read only.")
        scope.setdefault("state", {})["caller"] = caller.name


def _who(callers: Sequence[Caller], token: str) -> Caller | None:
    # Every entry is compared, in constant time: the time tells nothing about which one was nearly right.
    digest = _digest(token)
    found = [caller for caller in callers if hmac.compare_digest(caller.digest, digest)]
    return found[0] if found else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _refuse_foreign_pages(headers: Headers) -> None:
    """Without tokens a browser on this machine is the way in: refuse other origins and rebound names."""
    try:
        host = urlsplit(f"//{headers.get('host', 'localhost')}")
        name = host.hostname or ""
        origin = urlsplit(headers.get("origin", f"//{host.netloc}")).netloc
    except ValueError:
        raise Denied(403, "Host, Origin: not readable.") from None
    if not is_loopback(name):
        raise Denied(403, "Without KYLO_API_TOKENS only names of this machine are served (localhost, 127.0.0.1).")
    if origin != host.netloc:
        raise Denied(403, "Without KYLO_API_TOKENS pages of other origins are refused.")
