"""Payloads to bytes, refusing with a path what PostgreSQL, Kafka or a reader of JSON would refuse later."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from kylo_outbox.model.errors import Refused

MAX_DEPTH = 128
MAX_KEY_BYTES = 1024
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_TYPE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
# Characters of topic, key and type together: what is longer is not kept in memory.
_REMEMBERED = 2_000


def to_bytes(payload: Any) -> bytes:
    """The bytes that are published.

    Args:
        payload: dict or list (compact JSON; Decimal, UUID and dates become text), a pydantic model, `str` (must be
            JSON, kept byte for byte) or `bytes` (opaque, not looked into).

    Raises:
        Refused: with the path of the first value that cannot travel, such as `payload.items[2].price: NaN ...`.
    """
    if isinstance(payload, bytes):
        return payload
    if hasattr(payload, "model_dump"):
        payload = payload.model_dump(mode="json")
    if isinstance(payload, str):
        parsed = _parsed(payload)
        if _may_be_faulty(payload):
            _refuse_faults(parsed)
        return _encoded(payload, parsed)
    if not isinstance(payload, (dict, list)):
        raise Refused([f"payload: a {type(payload).__name__} is no event; give a dict, a list, JSON text or bytes"])
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        raw = text.encode()
    except (ValueError, TypeError, RecursionError):
        _refuse_faults(payload)
        raise
    if _may_be_faulty(text):
        _refuse_faults(payload)
    return raw


def faults_of_event(topic: Any, key: Any, kind: Any, headers: Any) -> list[str]:
    """Every fault of an event's names, each with the name of the argument."""
    faults: list[str] = []
    short = isinstance(topic, str) and isinstance(key, str) and isinstance(kind, str)
    if short and len(topic) + len(key) + len(kind) <= _REMEMBERED:
        faults += _faults_of_names(topic, key, kind)
    else:
        faults += _faults_of_names.__wrapped__(topic, key, kind)
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            faults.append(f"headers[{name!r}]: names and values must be text")
        elif name in {"", "kylo"}:
            faults.append(f"headers[{name!r}]: this name is taken")
        elif why := _text_fault(name) or _text_fault(value):
            faults.append(f"headers[{name!r}]: {why}")
    return faults


@lru_cache(maxsize=8192)
def _faults_of_names(topic: Any, key: Any, kind: Any) -> tuple[str, ...]:
    # Many events share few names, so the answer is remembered.
    faults = []
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        faults.append("topic: must be 1 to 249 letters, digits, dots, dashes or underscores")
    if not isinstance(key, str) or not key:
        faults.append("key: must be a text that is not empty: it decides the order and the partition")
    elif why := _text_fault(key):
        faults.append(f"key: {why}")
    elif len(key.encode()) > MAX_KEY_BYTES:
        faults.append(f"key: {len(key.encode())} bytes, the limit is {MAX_KEY_BYTES}")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind) or _text_fault(kind):
        faults.append("type: must be 1 to 200 printable characters")
    return tuple(faults)


def _plain(value: Any) -> str:
    if isinstance(value, (UUID, Decimal)):
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError("not finite")
        return str(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _refuse_constant(name: str) -> Any:
    raise Refused([f"payload: {name} is no JSON number"])


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=str, parse_int=str)


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise Refused([f"payload: nested deeper than {MAX_DEPTH} levels"]) from None
    except ValueError as broken:
        raise Refused([f"payload: not JSON ({broken})"]) from None


def _may_be_faulty(text: str) -> bool:
    """Cheap hints; only a payload with one of them is walked. Unescaped, a NUL is no JSON and a surrogate no UTF-8."""
    return _ESCAPED.search(text) is not None or text.count("[") + text.count("{") > MAX_DEPTH


def _encoded(text: str, parsed: Any) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        _refuse_faults(parsed)
        # Where a name comes twice, the value that the other one hides.
        raise Refused(["payload: holds a lone surrogate, which no UTF-8 reader accepts"]) from None


def _refuse_faults(payload: Any) -> None:
    fault = _first_fault(payload, "payload", 1)
    if fault:
        raise Refused([fault])


def _first_fault(value: Any, path: str, depth: int) -> str | None:
    if isinstance(value, (dict, list, tuple)):
        if depth > MAX_DEPTH:
            return f"{path[:120]}: nested deeper than {MAX_DEPTH} levels"
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in children:
            place = f"{path}.{name}" if isinstance(value, dict) else f"{path}[{name}]"
            if isinstance(value, dict) and (not isinstance(name, str) or _text_fault(name)):
                return f"{path}: the name {name!r} cannot be written as JSON text"
            if fault := _first_fault(child, place, depth + 1):
                return fault
        return None
    return _scalar_fault(value, path)


def _scalar_fault(value: Any, path: str) -> str | None:
    if isinstance(value, str):
        why = _text_fault(value)
        return f"{path}: {why}" if why else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}: {value} is no JSON number"
    if isinstance(value, Decimal) and not value.is_finite():
        return f"{path}: {value} is no JSON number"
    if value is None or isinstance(value, (bool, int, float, Decimal, UUID, datetime, date)):
        return None
    return f"{path}: a {type(value).__name__} cannot be written as JSON"


def _text_fault(text: str) -> str | None:
    if "\x00" in text:
        return "holds a NUL character, which PostgreSQL cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which no UTF-8 reader accepts"
    return None
