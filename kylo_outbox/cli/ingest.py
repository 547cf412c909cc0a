"""The verb `ingest`: transactions from a file or a pipe, through the same checks as the HTTP door."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kylo_outbox import settings
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.model.bodies import Format, guess_format, read_rows
from kylo_outbox.model.errors import KyloError, Misconfigured, NotReady, Refused, Transient
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.wiring import parts

if TYPE_CHECKING:
    from kylo_outbox.flows.ingest import Accepted

_REFUSED, _USAGE, _UNREACHABLE = 1, 2, 3


class FileFormat(StrEnum):
    """What `--format` takes."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("ingest")(ingest)


def ingest(
    file: Annotated[str, typer.Argument(help="JSON, NDJSON or CSV file; - reads standard input.")],
    *,
    kind: Annotated[
        FileFormat | None,
        typer.Option("--format", help="By default told by the suffix, else by the first character."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with other content is refused.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer of POST /v1/transactions.")] = False,
) -> None:
    """Store transactions and announce them, all or nothing; the same content again adds nothing.

    Needs PG_DSN_RW only. Exit codes: 0 stored, 1 refused (every fault on stderr), 2 usage, 3 PostgreSQL is away.

    Example: kylo-outbox ingest january.csv --json
    """
    try:
        data = _read(file)
        accepted = _accept(data, kind.value if kind else guess_format(data, file), idempotency_key)
    except KyloError as error:
        _tell(error, as_json=as_json)
        raise typer.Exit(_exit_code(error)) from None
    if as_json:
        print(json.dumps(accepted.as_json(), indent=2))
        return
    new = sum(first for *_, first in accepted.items)
    print(
        f"batch {accepted.batch_id}: {len(accepted.items)} transactions of {len(accepted.companies)} companies, "
        f"{new} of them first seen with it"
    )


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as missing:
        raise Misconfigured(f"{file}: cannot be read ({missing.strerror})") from None


def _accept(data: bytes, kind: Format, idempotency_key: str | None) -> Accepted:
    rows = read_rows(data, kind)
    request = parse_request(rows.rows, rows.lines)
    own = settings.load()
    built = parts.build(own)
    try:
        parts.require_schema(built)
        return Ingest(built.control, own.topic_txns).accept(request, source="cli", idempotency_key=idempotency_key)
    finally:
        built.close()


def _tell(error: KyloError, *, as_json: bool) -> None:
    faults = list(error.faults) if isinstance(error, Refused) else [str(error)]
    if as_json:
        print(json.dumps({"error": type(error).__name__, "errors": faults}, indent=2))
    for fault in faults:
        print(fault, file=sys.stderr)


def _exit_code(error: KyloError) -> int:
    if isinstance(error, (Transient, NotReady)):
        return _UNREACHABLE
    return _USAGE if isinstance(error, Misconfigured) else _REFUSED
