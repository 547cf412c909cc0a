"""The application: routes, and around them who may ask, how much, and what every answer carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders

from kylo_outbox.telemetry import metrics
from kylo_outbox.web import health, ingest, problems
from kylo_outbox.web.auth import Auth, read_tokens, require_tokens
from kylo_outbox.web.limits import BodyLimits, Limits
from kylo_outbox.web.signature import Signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi import APIRouter
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from kylo_outbox.flows.ingest import Ingest
    from kylo_outbox.flows.overview import Overview
    from kylo_outbox.flows.trace import Trace
    from kylo_outbox.telemetry.metrics import Sample

# A page that needs more (the console) sets its own policy; what is set already stays.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What the application asks.

    Attributes:
        checks: What readiness needs, by name; a check fails by raising a `KyloError`.
        own_samples: Metric samples of this process. If it writes a heartbeat too, `overview` must leave that out.
    """

    ingest: Ingest
    trace: Trace
    overview: Overview
    checks: Mapping[str, Callable[[], object]]
    own_samples: Callable[[], Sequence[Sample]] = metrics.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask: where the server listens, `KYLO_API_TOKENS` and `KYLO_WEBHOOK_SECRETS` as they were read."""

    host: str = "127.0.0.1"
    tokens: Sequence[str] = field(default=(), repr=False)
    webhook_secrets: Sequence[str] = field(default=(), repr=False)


def build_app(
    parts: Collaborators,
    access: Access | None = None,
    *,
    limits: Limits | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """Build the application.

    Args:
        parts: What it asks.
        access: Who may ask; by default loopback without a token.
        limits: Of bodies.
        routers: Further routes (console, wallets), under the same guards.

    Raises:
        Misconfigured: tokens or secrets that cannot be followed, or none where they are needed.
    """
    access = access or Access()
    callers = read_tokens(access.tokens)
    require_tokens(access.host, callers)
    signatures = Signatures(access.webhook_secrets)
    app = FastAPI(title="kylo-outbox", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    problems.install(app)
    app.include_router(ingest.routes(parts.ingest, parts.trace, signatures))
    app.include_router(health.routes(parts.overview, parts.checks, parts.own_samples))
    for router in routers:
        app.include_router(router)
    # The last one added is the outermost: headers on everything, then who asks, then the body.
    app.add_middleware(BodyLimits, limits=limits or Limits())
    app.add_middleware(Auth, callers=callers, signed_paths=[ingest.WEBHOOK] if signatures.required else [])
    app.add_middleware(SecurityHeaders)
    return app


class SecurityHeaders:
    """ASGI middleware: headers that no answer should lack, unless the route set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
