"""The API process: ingest, health and metrics over HTTP. It needs PostgreSQL and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.overview import Overview
from kylo_outbox.flows.trace import Trace
from kylo_outbox.model.topics import declared
from kylo_outbox.store.backpressure import Backpressure
from kylo_outbox.web import companies, server
from kylo_outbox.web import rules as web_rules
from kylo_outbox.web.app import Access, Collaborators, build_app
from kylo_outbox.wiring.parts import Parts, require_schema, rules_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kylo_outbox.runtime.stop import Stop
    from kylo_outbox.store.engine import Database


class ServerProcess:
    """`kylo-outbox serve`."""

    def __init__(self, parts: Parts, host: str | None, port: int | None) -> None:
        self._parts = parts
        self._host = parts.settings.http_host if host is None else host
        self._port = parts.settings.http_port if port is None else port

    def check(self) -> None:
        """Refuse to start without the schema."""
        require_schema(self._parts)

    def run(self, _stop: Stop) -> None:
        """Serve until a signal; the server has its own stop sign, with the same meaning."""
        overview = Overview(self._parts.control, self._stores)
        server.run(self.app(overview), self._host, self._port, on_stop=overview.close)

    def app(self, overview: Overview) -> FastAPI:
        """The application with everything it asks."""
        parts, settings = self._parts, self._parts.settings
        limit = settings.backpressure_age
        backpressure = Backpressure(parts.control, settings.topic_txns, limit) if limit else None
        rules = rules_of(parts)
        return build_app(
            Collaborators(
                ingest=Ingest(parts.control, settings.topic_txns, backpressure),
                trace=Trace(parts.control, parts.directory.database_of),
                overview=overview,
                checks={"schema": lambda: require_schema(parts)},
            ),
            routers=[companies.routes(self._companies(), rules), web_rules.routes(rules)],
            access=Access(host=self._host, tokens=settings.api_tokens, webhook_secrets=settings.webhook_secrets),
        )

    def _companies(self) -> Companies:
        settings = self._parts.settings
        topics = declared(settings.topic_txns, settings.topic_promote)
        return Companies(self._parts.control, settings.environ, topics)

    def _stores(self) -> list[Database]:
        return [store.database for store in self._parts.directory.stores()]
