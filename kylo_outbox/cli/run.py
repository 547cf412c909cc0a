"""The long-running processes: `serve`, `relay`, `project`. One each; SIGTERM drains, a second signal leaves now."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import Settings, load
from kylo_outbox.telemetry.logs import set_up_logs
from kylo_outbox.wiring import parts as shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Wait = Annotated[bool, typer.Option("--wait", help="Wait for what is missing instead of leaving with code 3.")]


class _Process(Protocol):
    def check(self) -> None: ...
    def run(self, stop: Stop) -> None: ...


P = TypeVar("P", bound=_Process)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(serve)
    app.command()(relay)
    app.command()(project)


def relay(*, wait: Wait = False) -> None:
    """Publish the outboxes of all stores to Kafka (the scheduled publisher process).

    On a terminal one line on stderr shows what it does; elsewhere a log line says so every ten seconds and on change.

    Example: kylo-outbox relay --wait
    """
    from kylo_outbox.cli.relay_status import shown  # noqa: PLC0415 - each process loads its own drivers only
    from kylo_outbox.wiring.relays import RelayProcess  # noqa: PLC0415

    _run("relay", RelayProcess, wait=wait, around=lambda process, parts: shown(process.states, parts))


def project(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Names, or package.module:Class.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All projectors of the product.")] = False,
    wait: Wait = False,
) -> None:
    """Apply events to tables and tabs, as members of the projectors' consumer groups.

    Example: kylo-outbox project txns sheets
    """
    from kylo_outbox.wiring import projectors  # noqa: PLC0415 - each process loads its own drivers only

    chosen = [*(names or []), *(name for name in projectors.NAMES if every and name not in (names or []))]
    if not chosen:
        raise Misconfigured(
            f"project: name at least one of {', '.join(projectors.NAMES)}, package.module:Class, or --all"
        )
    _run("projectors", lambda parts: projectors.ProjectorProcess(parts, chosen), wait=wait)


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on (KYLO_HTTP_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (KYLO_HTTP_PORT).")] = None,
    wait: Wait = False,
) -> None:
    """Answer HTTP: ingest, health, metrics. Needs PostgreSQL only.

    Example: kylo-outbox serve --port 8080
    """
    from kylo_outbox.wiring.server import ServerProcess  # noqa: PLC0415 - each process loads its own drivers only

    _run("api", lambda parts: ServerProcess(parts, host, port), wait=wait)


def _run(
    part: str,
    build: Callable[[shared.Parts], P],
    *,
    wait: bool,
    around: Callable[[P, shared.Parts], AbstractContextManager[None]] = lambda _process, _parts: nullcontext(),
) -> None:
    settings: Settings = load()
    set_up_logs(level=settings.log_level, fmt=settings.log_format, part=part, secrets=settings.secrets())
    parts = shared.build(settings)
    try:
        process = build(parts)
        shared.when_ready(process.check, wait=wait, tell=lambda line: print(line, file=sys.stderr))
        stop = Stop()
        stop.on_signals()
        with around(process, parts):
            process.run(stop)
    finally:
        parts.close()
