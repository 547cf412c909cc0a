"""What verbs share: settings read once, logs on stderr, the control database, Kafka, and the running local stack."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values

from kylo_outbox.kafka.topics import Topics
from kylo_outbox.model.errors import KyloError, Misconfigured
from kylo_outbox.model.topics import Topic, declared
from kylo_outbox.settings import Settings, load
from kylo_outbox.telemetry.logs import set_up_logs
from kylo_outbox.wiring import parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import typer

    from kylo_outbox.kafka.client import KafkaAddress

# These ask for the local stack themselves: an address taken from it would look like a server that somebody named.
_STACK_VERBS: Final = frozenset({"up", "down", "status", "logs", "start", "stop", "restart", "env", "sheets-emulator"})
# Faults of the settings are part of what this verb finds.
_TELLS_FAULTS: Final = frozenset({"doctor"})
_PROCESSES: Final = frozenset({"serve", "relay", "project"})
_ADDRESSES: Final = {
    "postgres": ("PG_DSN_RW",),
    "kafka": ("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"),
}


@dataclass(frozen=True)
class Context:
    """The settings of this call and what is built from them at the first use."""

    settings: Settings

    @cached_property
    def parts(self) -> parts.Parts:
        """The control database and the directory of stores."""
        return parts.build(self.settings, pool_size=2)

    @cached_property
    def kafka(self) -> KafkaAddress:
        """Where the brokers are."""
        return parts.kafka_address(self.settings)

    @cached_property
    def topics(self) -> Topics:
        """The admin door."""
        return Topics(self.kafka)

    @property
    def declared(self) -> tuple[Topic, ...]:
        """The topics of the product under the names of these settings."""
        return declared(self.settings.topic_txns, self.settings.topic_promote)

    def close(self) -> None:
        """Give connections back."""
        if "parts" in self.__dict__:
            self.parts.close()


@contextmanager
def opened() -> Iterator[Context]:
    """The context of one verb; closed afterwards."""
    context = Context(load())
    try:
        yield context
    finally:
        context.close()


def begin(ctx: typer.Context, *, verbose: bool) -> None:
    """Set up what holds for every verb: logs, and the addresses of a running local stack where none are set."""
    former = dict(os.environ)
    ctx.call_on_close(lambda: _restore(former))
    if verbose:
        os.environ["KYLO_LOG_LEVEL"] = "DEBUG"
    if ctx.invoked_subcommand in _TELLS_FAULTS and not _can_be_followed():
        set_up_logs(level="WARNING", fmt="text", part=ctx.invoked_subcommand or "-")
        return
    if ctx.invoked_subcommand not in _STACK_VERBS:
        _use_local_stack()
    # Verbs that stay set up their own logs; those that answer and leave are quiet, and an outage is one line: theirs.
    quiet = not verbose and ctx.invoked_subcommand not in _PROCESSES
    logging.getLogger("kylo_outbox.kafka.librdkafka").setLevel(logging.CRITICAL if quiet else logging.NOTSET)
    settings = load()
    level = settings.log_level if verbose else "WARNING"
    set_up_logs(level=level, fmt=settings.log_format, part=ctx.invoked_subcommand or "-", secrets=settings.secrets())


def _can_be_followed() -> bool:
    try:
        load()
    except Misconfigured:
        return False
    return True


def _use_local_stack() -> None:
    known = {name for name, value in {**dotenv_values(".env"), **os.environ}.items() if value}
    missing = {part: names[0] for part, names in _ADDRESSES.items() if known.isdisjoint(names)}
    folder = load().data_dir
    if not missing or not (folder / "stack.json").exists():
        return
    found = _addresses_of(folder, missing)
    os.environ.update(found)
    if found:
        print(f"using the local stack in {folder} ({', '.join(found)} not set)", file=sys.stderr)


def _addresses_of(folder: Path, missing: dict[str, str]) -> dict[str, str]:
    try:
        from kylo_outbox.local.stack import Stack  # noqa: PLC0415 - needs the extra `local`
    except ImportError:
        return {}
    stack = Stack(folder)
    try:
        running = {state.name for state in stack.status() if state.state == "running"}
        addresses = stack.env()
    except KyloError:
        return {}  # half a stack: the verb says what it misses
    return {name: addresses[name] for part, name in missing.items() if part in running}


def _restore(former: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(former)
