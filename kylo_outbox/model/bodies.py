"""Bodies of an ingest as bytes, read into rows: JSON, NDJSON and CSV. What the rows hold is checked elsewhere.

Numbers with a fraction stay exact (`Decimal`), a name that comes twice in one object is an error, and nothing is
guessed: text is UTF-8 (a byte order mark is allowed), CSV is comma-separated with a header line.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from kylo_outbox.model.errors import KyloError, Refused
from kylo_outbox.model.transactions import FIELDS, shown

Format = Literal["json", "ndjson", "csv"]
MAX_ROWS: Final = 100_000
"""Transactions in one body; more are several requests."""

_FORMATS: Final[dict[str, Format]] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}
_SUFFIXES: Final[dict[str, Format]] = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}


class BrokenBody(KyloError):  # noqa: N818 - named after what it is, like its siblings in model/errors
    """The bytes are not what they say they are (HTTP 400)."""


class UnknownFormat(KyloError):  # noqa: N818
    """The declared type of the body is none of those that are read (HTTP 415)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a body holds: rows as dicts (or whatever stood there), and for line formats the line of each."""

    rows: list[Any]
    lines: list[int] | None = None


def format_of(content_type: str | None) -> Format:
    """Which format a Content-Type means; none at all means JSON.

    Raises:
        UnknownFormat: naming the accepted types.
    """
    if content_type is None or not content_type.strip():
        return "json"
    kind, _, parameters = content_type.partition(";")
    found = _FORMATS.get(kind.strip().lower())
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if found is None or ("charset=" in charset and "charset=utf-8" not in charset):
        raise UnknownFormat(f"Content-Type: accepted are {', '.join(_FORMATS)}, in UTF-8")
    return found


def guess_format(data: bytes, name: str = "") -> Format:
    """The format of a file: by its suffix, else by its first character (`[`, `{`, anything else is CSV)."""
    for suffix, kind in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return kind
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{"):
        try:
            first = json.loads(data.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0])
        except (ValueError, RecursionError):
            return "json"
        return "json" if "transactions" in first else "ndjson"
    return "json" if start.startswith(b"[") else "csv"


def read_rows(data: bytes, kind: Format) -> Rows:
    """Read a body.

    JSON is `{"transactions": [...]}` or the bare list; NDJSON one object a line, blank lines are skipped; CSV has the
    names of the fields in its first line, in any order.

    Raises:
        BrokenBody: if it cannot be read as `kind`, with the line where that is known.
        Refused: if it can be read but holds no list of transactions, or more than `MAX_ROWS`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        raise BrokenBody(f"the body is not UTF-8 (byte {broken.start})") from None
    readers = {"json": _json_rows, "ndjson": _ndjson_rows, "csv": _csv_rows}
    return readers[kind](text)


def read_json(data: bytes) -> Any:
    """Read a body of JSON as strictly as rows are read; an empty one is None.

    Raises:
        BrokenBody: if it cannot be read, with the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        raise BrokenBody(f"the body is not UTF-8 (byte {broken.start})") from None
    return _load(text, "") if text.strip() else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BrokenBody(f"the name {shown(twice)} stands twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise BrokenBody(f"{name} is no JSON number")


_DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_object)


def _load(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as broken:
        place = f"{where}column {broken.colno}" if where else f"line {broken.lineno} column {broken.colno}"
        raise BrokenBody(f"broken JSON at {place}: {broken.msg}") from None
    except RecursionError:
        raise BrokenBody(f"broken JSON: {where}nested too deeply") from None
    except (ValueError, ArithmeticError):
        raise BrokenBody(f"broken JSON: {where}a number has too many digits or is out of all range") from None


def _json_rows(text: str) -> Rows:
    body = _load(text, "")
    if isinstance(body, dict):
        unknown = [
            f"{shown(name)[1:-1]}: unknown field; accepted: transactions" for name in body if name != "transactions"
        ]
        if "transactions" not in body:
            unknown.insert(0, "transactions: missing; it is the list of transactions")
        if unknown:
            raise Refused(unknown)
        body = body["transactions"]
    if not isinstance(body, list):
        raise Refused(["transactions: must be a list of objects"])
    return Rows(_bounded(body))


def _ndjson_rows(text: str) -> Rows:
    rows: list[Any] = []
    lines: list[int] = []
    # Only real line ends: JSON texts may hold U+2028 and the like, at which splitlines would cut.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_load(line, f"line {number} "))
            lines.append(number)
            _bounded(rows)
    return Rows(rows, lines)


def _csv_rows(text: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Any] = []
    lines: list[int] = []
    try:
        header = _checked_header(next((row for row in reader if row), []))
        start = reader.line_num + 1
        for fields in reader:
            if fields:
                row = dict(zip(header, fields, strict=False))
                row.update({f"(column {extra + 1})": "" for extra in range(len(header), len(fields))})
                rows.append(row)
                lines.append(start)
                _bounded(rows)
            start = reader.line_num + 1
    except csv.Error as broken:
        raise BrokenBody(f"broken CSV at line {reader.line_num}: {broken}") from None
    return Rows(rows, lines)


def _checked_header(header: list[str]) -> list[str]:
    if not header:
        raise BrokenBody(f"broken CSV: no header line; it names the columns {','.join(FIELDS)}")
    faults = [f"header: column {field} is missing" for field in FIELDS if field not in header]
    faults += [
        f"header: {shown(name)} is no known column; accepted: {', '.join(FIELDS)}"
        for name in dict.fromkeys(header)
        if name not in FIELDS
    ]
    faults += [f"header: column {field} stands twice" for field in FIELDS if header.count(field) > 1]
    if faults:
        raise Refused(faults)
    return header


def _bounded(rows: list[Any]) -> list[Any]:
    if len(rows) > MAX_ROWS:
        raise Refused([f"transactions: more than {MAX_ROWS:,} in one request; send several"])
    return rows
