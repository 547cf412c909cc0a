"""Connection strings: references resolved, faults named without the value, and a form that may be shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kylo_outbox.model.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")


def resolve(reference: str, environ: Mapping[str, str], name: str) -> str:
    """Turn a connection string or a reference (`env:NAME`, `file:PATH`) into a connection string.

    Raises:
        Misconfigured: naming `name` (where it was written) and the remedy; never a part of the value.
    """
    kind, _, place = reference.partition(":")
    if kind == "env":
        text = environ.get(place, "")
        if not text:
            raise Misconfigured(f"{name}: the environment variable {place} it refers to is not set")
    elif kind == "file":
        try:
            text = Path(place).read_text(encoding="utf-8").strip()
        except OSError as missing:
            raise Misconfigured(f"{name}: the file {place} it refers to cannot be read ({missing.strerror})") from None
    else:
        text = reference
    return checked(text.replace("postgresql+psycopg://", "postgresql://", 1), name)


def checked(dsn: str, name: str) -> str:
    """Return `dsn` if libpq can read it; the error carries no part of it, because libpq's own shows passwords."""
    if _parts(dsn) is None:
        raise Misconfigured(
            f"{name}: not a PostgreSQL connection string; write postgresql://user:password@host:port/database with "
            "special characters of the password percent-encoded, or env:NAME or file:PATH"
        ) from None
    return dsn


def shown(dsn: str) -> str:
    """A form for people: host, port, database and user, never a password or an option."""
    if dsn.startswith(("env:", "file:")):
        return dsn
    parts = _parts(dsn)
    if parts is None:
        return "(unreadable connection string)"
    return make_conninfo(**{name: str(parts[name]) for name in _SHOWN if parts.get(name)})


def _parts(dsn: str) -> dict[str, str | int | None] | None:
    """What libpq reads; None where it reads nothing, or takes a piece of a password for a host or a port."""
    try:
        parts = conninfo_to_dict(dsn)
    except (ProgrammingError, UnicodeError, ValueError):
        return None
    hosts, ports = str(parts.get("host") or ""), str(parts.get("port") or "")
    misread = "@" in hosts or "\x00" in dsn or not all(port.isdigit() for port in ports.split(",") if port)
    return None if misread else dict(parts)
